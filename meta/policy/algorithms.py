"""MAML over policies, and the paper's baselines (Finn, Abbeel, Levine 2017, Algorithm 3).

An episode holds rollouts that have been sampled already: ``support`` those of each inner step, [J, B, …], ``query``
those of the adapted policy, [B, …], both packed by :mod:`meta.policy.samples`. They are data; what is differentiated
are the policies' probabilities of what was done.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp

from meta.adapt import EVERY, matches, path, require_matches
from meta.algorithms import Metrics
from meta.episode import Episode, Examples
from meta.objectives import RETURN, Score
from meta.params import Params
from meta.policy.distributions import Policy
from meta.policy.estimators import ESTIMATORS, clipped_ratio, importance_ratio
from meta.policy.samples import Samples, require_shape, step_of, unpack

OuterEstimator = Literal["likelihood_ratio", "dice"]


@dataclass(frozen=True, kw_only=True)
class PolicyMAML:
    """MAML over policies.

    The outer objective of a task is the surrogate of its adapted policy on rollouts of that policy,
    L(θ'; D') with θ' = θ - α ∇L(θ; D), differentiated through the inner steps.

    Attributes:
        model: the policy.
        objective: the score, a return.
        inner_lr: α.
        inner_steps: inner steps J in training.
        adapt: patterns of the names of the parameters that the inner loop moves.
        recompute: compute inner steps again when they are differentiated, see :func:`meta.adapt.path`.
        horizon: rows of one trajectory.
        estimator: name of the inner objective in :data:`meta.policy.estimators.ESTIMATORS`.
        outer_estimator: ``likelihood_ratio``: the adapted policy's rollouts alone, as in the paper. ``dice``: with the
            derivative of what was sampled before adaptation, E[R' Σ ∇log π(D)] (Al-Shedivat et al. 2018; Stadie et al.
            2018). With the inner estimator ``likelihood_ratio`` this is the whole derivative of the expected return
            after the sampled updates, where advantages are in the units of rewards: neither discounted nor divided by
            their deviation. Its variance grows with the number of steps sampled.
        clip: ε of the clipped ratio; None: the ratio as it is.
        kl_penalty: η, weight of the divergence from the policies that sampled D before adaptation (ProMP, eq. 13).
    """

    model: Policy
    inner_lr: float
    inner_steps: int
    horizon: int
    objective: Score = RETURN
    adapt: tuple[str, ...] = EVERY
    recompute: bool = False
    estimator: str = "likelihood_ratio"
    outer_estimator: OuterEstimator = "likelihood_ratio"
    clip: float | None = None
    kl_penalty: float = 0.0
    informed: ClassVar[bool] = False  # whether observations come with the task's description

    @property
    def trained_steps(self) -> int:
        """Number of inner steps in training, which is differentiated through."""
        return self.inner_steps

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns the policy's initial parameters.

        Args:
            generator: CPU generator, the only source of randomness.
            dtype: floating-point type of the parameters.

        Raises:
            ValueError: if a pattern of ``adapt`` fits none of them.
        """
        params = self.model.init(generator, dtype)
        require_matches(params, self.adapt)
        return params

    def loss(self, params: Params, examples: Examples) -> Tensor:
        """Returns the inner objective on one inner step's rollouts ([B, ...], packed), a scalar."""
        samples = unpack(examples, self.model)
        return ESTIMATORS[self.estimator](self._log_probabilities(params, samples), samples, self.horizon)

    def step(self, params: Params, examples: Examples, lr: float) -> Params:
        """Returns θ - ``lr`` ∇L(θ; examples), the parameters after one inner step.

        Args:
            params: θ of one task.
            examples: one step's rollouts, packed, [B, ...].
            lr: α.
        """
        *_, (moved, _) = path(self.loss, params, examples, steps=1, lr=lr, names=self.adapt)
        return moved

    def adapted(self, params: Params, episode: Episode) -> list[Params]:
        """Returns the parameters before and after each inner step on the episode's support, J + 1 dictionaries.

        Args:
            params: θ.
            episode: the task's rollouts; only the support [J, B, ...] is used.
        """
        walk = [params]
        for number in range(self.trained_steps):
            *_, (moved, _) = path(
                self.loss,
                walk[-1],
                step_of(episode.support, number),
                steps=1,
                lr=self.inner_lr,
                names=self.adapt,
                recompute=self.recompute,
            )
            walk.append(moved)
        return walk

    def meta_loss(self, params: Params, episode: Episode) -> tuple[Tensor, Metrics]:
        """Returns the outer objective of one task, a scalar, and metrics to report, scalars by name.

        Args:
            params: θ.
            episode: the task's rollouts: support [J, B, ...], query [B, ...].
        """
        *before, last = self.adapted(params, episode)
        query = unpack(episode.query, self.model)
        loss = self.surrogate(self._log_probabilities(last, query), query)
        metrics: Metrics = {"surrogate": loss}
        if self.outer_estimator == "dice":
            loss = loss + self._of_sampling(before, episode, query)
        if self.kl_penalty:
            loss = loss + self.kl_penalty * self._moved(before, episode)
        return loss, metrics | {"loss": loss}

    def surrogate(self, log_probabilities: Tensor, samples: Samples) -> Tensor:
        """Returns the outer surrogate of the adapted policy, a scalar.

        Args:
            log_probabilities: log π of the query actions under the adapted policy, [B].
            samples: the query rollouts.
        """
        if self.clip is None:
            return importance_ratio(log_probabilities, samples)
        return clipped_ratio(log_probabilities, samples, self.clip)

    def outputs(self, params: Params, episode: Episode) -> Tensor:
        """Returns distributions [B, M] of the adapted policy at the episode's query observations."""
        return self.model.apply(self.adapted(params, episode)[-1], episode.query.inputs)

    def surrogate_and_kl(self, params: Params, episode: Episode) -> Tensor:
        """Returns surrogate and KL(old ‖ new) of the adapted policy on the query rollouts, [2].

        Args:
            params: θ.
            episode: the task's rollouts: support [J, B, ...], query [B, ...].
        """
        query = unpack(episode.query, self.model)
        outputs = self.outputs(params, episode)
        surrogate = importance_ratio(self.model.log_probability(outputs, query.actions), query)
        apart = require_shape("divergence [B]", self.model.divergence(query.outputs, outputs), query.weights.shape)
        divergence = (query.weights * apart).sum()
        return torch.stack([surrogate, divergence])

    def _log_probabilities(self, params: Params, samples: Samples) -> Tensor:
        outputs = self.model.apply(params, samples.observations)
        require_shape("outputs [B, M]", outputs, (len(samples.weights), self.model.width))
        log_probabilities = self.model.log_probability(outputs, samples.actions)
        return require_shape("log_probability [B]", log_probabilities, samples.weights.shape)

    def _of_sampling(self, before: list[Params], episode: Episode, query: Samples) -> Tensor:
        """Returns -R' π(D) / π_old(D), a scalar; its derivative is that of sampling D, R' the mean reward of a step."""
        taken = torch.zeros_like(query.weights[0])
        for number, params in enumerate(before):
            samples = unpack(step_of(episode.support, number), self.model)
            change = self._log_probabilities(params, samples) - samples.log_probabilities
            taken = taken + (change * (samples.weights > 0)).sum()
        return -(query.weights * query.rewards).sum() * torch.exp(taken)

    def _moved(self, before: list[Params], episode: Episode) -> Tensor:
        """Returns the mean divergence of the policies before adaptation from those that sampled the support, scalar."""
        total = torch.zeros_like(episode.query.inputs.sum())
        for number, params in enumerate(before):
            samples = unpack(step_of(episode.support, number), self.model)
            outputs = self.model.apply(params, samples.observations)
            total = total + (samples.weights * self.model.divergence(samples.outputs, outputs)).sum()
        return total / max(len(before), 1)


@dataclass(frozen=True, kw_only=True)
class PolicyPretrain(PolicyMAML):
    """The paper's baseline: one policy trained on all tasks together, fine-tuned at evaluation (Finn et al. 2017)."""

    @property
    def trained_steps(self) -> int:
        """0: training minimises the surrogate of the policy itself."""
        return 0


@dataclass(frozen=True, kw_only=True)
class PolicyOracle(PolicyPretrain):
    """A policy that sees the task's description beside every observation; the bound that adaptation works towards.

    It takes no inner steps in evaluation either.
    """

    informed: ClassVar[bool] = True


def fisher_product(algorithm: PolicyMAML, params: Params, vector: Params, episode: Episode) -> Params:
    """Returns ∇²_θ KL(π_old ‖ π_θ') v of one task, with the names and shapes of θ.

    KL is that of the adapted policy, averaged over the query steps, old being the adapted policy that sampled them.
    Where θ is still the one they were sampled under, KL's derivative by the policy's outputs z vanishes, and the
    Hessian is exactly

        Jᵀ F J v,  J = ∂z/∂θ' · Π_j (I - α P H_j)

    with F the Hessian of KL in z, H_j that of the inner objective at step j, and P the projection on the parameters
    that
    the inner loop adapts. H_j is symmetric, so its transpose needs no reverse pass through the derivative:
    Hessian-vector
    products serve both directions.

    Args:
        algorithm: gives policy, inner objective and inner steps.
        params: θ.
        vector: v, with the names and shapes of θ.
        episode: the task's rollouts.
    """
    query = unpack(episode.query, algorithm.model)
    *before, last = algorithm.adapted(params, episode)
    vector = {name: vector[name] for name in params}  # in whatever order they came

    def curved(number: int, vector: Params) -> Params:
        """H_j v."""
        support = step_of(episode.support, number)

        def gradient(params: Params) -> Params:
            inner_gradient: Params = grad(algorithm.loss)(params, support)
            return inner_gradient

        product: Params = jvp(gradient, (before[number],), (vector,))[1]
        return product

    def outputs(params: Params) -> Tensor:
        return algorithm.model.apply(params, query.observations)

    def divergence(outputs: Tensor) -> Tensor:
        return (query.weights * algorithm.model.divergence(query.outputs, outputs)).sum()

    for number in range(len(before)):
        step = _moving(curved(number, vector), algorithm.adapt)
        vector = {name: value - algorithm.inner_lr * step[name] for name, value in vector.items()}
    along = jvp(outputs, (last,), (vector,))
    weighted = jvp(grad(divergence), along[:1], along[1:2])[1]
    pulled: tuple[Params] = vjp(outputs, last)[1](weighted)
    (back,) = pulled
    for number in reversed(range(len(before))):
        step = curved(number, _moving(back, algorithm.adapt))
        back = {name: value - algorithm.inner_lr * step[name] for name, value in back.items()}
    return back


def _moving(vector: Params, names: tuple[str, ...]) -> Params:
    """Returns the vector with zeros for the parameters that the inner loop does not adapt."""
    return {name: value if matches(name, names) else torch.zeros_like(value) for name, value in vector.items()}
