"""MAML over policies, and the paper's baselines (Finn, Abbeel, Levine 2017, Algorithm 3).

An episode holds rollouts that have been sampled already: ``support`` those of each inner step, [J, B, …], ``query``
those of the adapted policy, [B, …], both packed by :mod:`meta.policy.samples`. They are data; what is differentiated
are the policies' probabilities of what was done.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp

from meta.algorithms.adapting import Adapting
from meta.algorithms.base import Metrics
from meta.context import FIXED, Context
from meta.episode import Episode, Examples
from meta.inner import SGD, At, Exact, matches
from meta.objectives import RETURN, Score
from meta.params import Params
from meta.policy.distributions import Policy
from meta.policy.estimators import ESTIMATORS, clipped_ratio, importance_ratio
from meta.policy.samples import Samples, require_shape, step_of, unpack

OuterEstimator = Literal["likelihood_ratio", "dice"]


@dataclass(frozen=True, kw_only=True)
class PolicyMAML(Adapting):
    """MAML over policies.

    The outer objective of a task is the surrogate of its adapted policy on rollouts of that policy,
    L(θ'; D') with θ' = θ - α ∇L(θ; D), differentiated through the inner steps.

    Attributes:
        model: the policy.
        objective: the score, a return.
        inner: how a task's policy is adapted, with J steps in training. Its derivative goes through the steps.
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
    horizon: int
    objective: Score = RETURN
    estimator: str = "likelihood_ratio"
    outer_estimator: OuterEstimator = "likelihood_ratio"
    clip: float | None = None
    kl_penalty: float = 0.0

    def __post_init__(self) -> None:
        """Check the derivative.

        Raises:
            ValueError: if it does not go through the steps: each has rollouts of its own.
        """
        if self.inner.derivative.implicit:
            raise ValueError(
                f"inner.derivative: expected exact, first_order or truncated with RL tasks, whose inner steps have "
                f"rollouts of their own, received {type(self.inner.derivative).__name__}"
            )

    @property
    def trained_steps(self) -> int:
        """Number of inner steps in training, which is differentiated through."""
        return self.inner.steps

    def loss(self, params: Params, examples: Examples) -> Tensor:
        """Returns the inner objective on one inner step's rollouts ([B, ...], packed), a scalar."""
        samples = unpack(examples, self.model)
        return ESTIMATORS[self.estimator](self._log_probabilities(params, samples), samples, self.horizon)

    def step(self, at: At, examples: Examples, context: Context = FIXED) -> At:
        """Returns the point of the inner loop after one more step, which nothing will be differentiated through.

        Args:
            at: the point before the step, of one task.
            examples: one step's rollouts, packed, [B, ...].
            context: holds α under ``lr``.
        """
        return replace(self.inner, recompute=False).step(self.loss, at, examples, at.number + 1, context)[0]

    def adapted(self, params: Params, episode: Episode, context: Context = FIXED) -> list[Params]:
        """Returns the policy's parameters before and after each inner step on the episode's support, J + 1 of them.

        Args:
            params: θ.
            episode: the task's rollouts; only the support [J, B, ...] is used.
            context: holds α under ``lr``.
        """
        at = self.inner.begin(params)
        walk, steps = [at.params], self.trained_steps
        for number in range(steps):
            at, _ = self.inner.step(self.loss, at, step_of(episode.support, number), steps, context)
            walk.append(at.params)
        return walk

    def meta_loss(self, params: Params, episode: Episode, context: Context = FIXED) -> tuple[Tensor, Metrics]:
        """Returns the outer objective of one task, a scalar, and metrics to report, scalars by name.

        Args:
            params: θ.
            episode: the task's rollouts: support [J, B, ...], query [B, ...].
            context: the scheduled numbers of the outer step.
        """
        *before, last = self.adapted(params, episode, context)
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

    def outputs(self, params: Params, episode: Episode, context: Context = FIXED) -> Tensor:
        """Returns distributions [B, M] of the adapted policy at the episode's query observations.

        Args:
            params: θ.
            episode: the task's rollouts.
            context: holds α under ``lr``.
        """
        return self.model.apply(self.adapted(params, episode, context)[-1], episode.query.tensor)

    def surrogate_and_kl(self, params: Params, episode: Episode, context: Context = FIXED) -> Tensor:
        """Returns surrogate and KL(old ‖ new) of the adapted policy on the query rollouts, [2].

        Args:
            params: θ.
            episode: the task's rollouts: support [J, B, ...], query [B, ...].
            context: holds α under ``lr``.
        """
        query = unpack(episode.query, self.model)
        outputs = self.outputs(params, episode, context)
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
        total = torch.zeros_like(episode.query.tensor.sum())
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


def fisher_product(
    algorithm: PolicyMAML, params: Params, vector: Params, episode: Episode, context: Context = FIXED
) -> Params:
    """Returns ∇²_θ KL(π_old ‖ π_θ') v of one task, with the names and shapes of θ.

    KL is that of the adapted policy, averaged over the query steps, old being the adapted policy that sampled them.
    Where θ is still the one they were sampled under, KL's derivative by the policy's outputs z vanishes, and the
    Hessian is exactly Jᵀ F J v with J = ∂z/∂θ and F the Hessian of KL in z.

    Args:
        algorithm: gives policy, inner objective and inner steps.
        params: θ.
        vector: v, with the names and shapes of θ.
        episode: the task's rollouts.
        context: holds α under ``lr``.
    """
    query = unpack(episode.query, algorithm.model)
    vector = {name: vector[name] for name in params}  # in whatever order they came

    def divergence(outputs: Tensor) -> Tensor:
        return (query.weights * algorithm.model.divergence(query.outputs, outputs)).sum()

    inner = algorithm.inner
    if type(inner.rule) is SGD and type(inner.derivative) is Exact:
        return _through_descent(algorithm, params, vector, episode, context, divergence)

    unrolled = replace(algorithm, inner=replace(inner, recompute=False))  # a forward derivative keeps nothing

    def outputs(params: Params) -> Tensor:
        return unrolled.outputs(params, episode, context)

    along = jvp(outputs, (params,), (vector,))
    weighted = jvp(grad(divergence), along[:1], along[1:2])[1]
    pulled: tuple[Params] = vjp(outputs, params)[1](weighted)
    return pulled[0]


def _through_descent(
    algorithm: PolicyMAML,
    params: Params,
    vector: Params,
    episode: Episode,
    context: Context,
    divergence: Callable[[Tensor], Tensor],
) -> Params:
    """Returns the product of :func:`fisher_product` where inner steps are gradient descent.

    J is then ∂z/∂θ' · Π_j (I - α P H_j) with H_j the Hessian of the inner objective at step j, and P the projection on
    the parameters that the inner loop adapts. H_j is symmetric, so its transpose needs no reverse pass through the
    derivative: Hessian-vector products serve both directions.
    """
    query, inner = unpack(episode.query, algorithm.model), algorithm.inner
    lr: Tensor | float = context.numbers.get("lr", inner.lr)
    *before, last = algorithm.adapted(params, episode, context)

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

    for number in range(len(before)):
        step = _moving(curved(number, vector), inner.adapt)
        vector = {name: value - lr * step[name] for name, value in vector.items()}
    along = jvp(outputs, (last,), (vector,))
    weighted = jvp(grad(divergence), along[:1], along[1:2])[1]
    pulled: tuple[Params] = vjp(outputs, last)[1](weighted)
    (back,) = pulled
    for number in reversed(range(len(before))):
        step = curved(number, _moving(back, inner.adapt))
        back = {name: value - lr * step[name] for name, value in back.items()}
    return back


def _moving(vector: Params, names: tuple[str, ...]) -> Params:
    """Returns the vector with zeros for the parameters that the inner loop does not adapt."""
    return {name: value if matches(name, names) else torch.zeros_like(value) for name, value in vector.items()}
