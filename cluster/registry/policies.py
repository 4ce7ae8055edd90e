"""Adapting a registered policy to tasks by trajectories of it in them."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map

from cluster.registry.adapting import (
    Adaptable,
    Run,
    lost_as_nan,
    require_shapes,
    require_step,
    vectorised,
    without_recomputation,
)
from cluster.registry.fields import Arrays, Field, checked
from cluster.registry.package import Package
from cluster.setups.base import DTYPES
from cluster.setups.policies import build_policy_algorithm
from meta.context import Context
from meta.episode import Examples
from meta.inner import At
from meta.params import Params
from meta.policy import GaussianPolicy, MultiCategoricalPolicy, Policy, PolicyMAML
from meta.policy.advantages import AdvantageSettings, Trajectories
from meta.policy.samples import as_examples
from tasks.environments.contract import EnvironmentSpec


class AdaptablePolicy(Adaptable):
    """A policy: distributions of actions at the queried observations.

    Batch j of trajectories is what the policy did after j inner steps, as in an evaluation: to take J steps, act and
    adapt in turn, each time with all batches so far.
    """

    def __init__(self, package: Package, spec: EnvironmentSpec) -> None:
        """Build policy and algorithm."""
        self._package, self._spec, config = package, spec, package.config
        self.inner_steps, self.inner_lr = config.select_steps, config.inner.lr
        algorithm = self._algorithm(spec.horizon)
        require_shapes(package, algorithm.init(torch.Generator(), DTYPES[config.dtype]))
        self._policy = algorithm.model
        rows, size = ("T", "J", "N"), spec.input_shape
        real = Field("support_actions", "float64", (*rows, "H", spec.outputs))
        whole = Field("support_actions", "int64", (*rows, "H", spec.outputs) if spec.choices else (*rows, "H"))
        self.inputs = (
            Field("support_observations", "float64", (*rows, "H+1", *size)),
            whole if spec.discrete else real,
            Field("support_rewards", "float64", (*rows, "H")),
            Field("support_lengths", "int64", rows),
            Field("support_terminated", "bool", rows),
            Field("query_observations", "float64", ("T", "Q", *size)),
        )
        width = spec.outputs if spec.single else self._policy.width
        self.output = Field("predictions", config.dtype, ("T", "Q", width))

    def check(self, given: Arrays, inner_steps: int, inner_lr: float) -> dict[str, NDArray[Any]]:
        """The checked arrays of a call.

        Args:
            given: arrays by the names of ``inputs``.
            inner_steps: inner steps of the call.
            inner_lr: α of the call.
        """
        require_step(inner_steps, inner_lr)
        arrays = checked(self.inputs, given)
        batches = arrays["support_rewards"].shape[1]
        if inner_steps not in (0, batches):
            raise ValueError(
                f"expected as many batches of trajectories as inner_steps ({inner_steps}), the support has {batches}: "
                "batch j holds what the policy did after j steps"
            )
        self._require_trajectories(arrays)
        return arrays

    def adapted(self, arrays: Arrays, inner_steps: int, inner_lr: float, run: Run | None = None) -> NDArray[Any]:
        """Distributions [T, Q, …] of the adapted policy's actions.

        Probabilities of discrete actions, of several whole numbers those of each, side by side; means, then deviations,
        of a Gaussian policy; of another policy its outputs.

        Args:
            arrays: as :meth:`check` gives them, of T tasks.
            inner_steps: inner steps.
            inner_lr: α.
            run: computes a function for every task; vectorised by default.
        """
        run = run or vectorised(self._package.config.shard_size)
        horizon = arrays["support_rewards"].shape[-1]
        algorithm = self._algorithm(horizon)
        queries = self._as_tensor(arrays["query_observations"])
        params = self._package.params
        at = algorithm.inner.begin(params)
        own = tree_map(
            lambda value: value.expand(len(queries), *value.shape).clone(), (at.params, at.state, at.learned)
        )
        with torch.no_grad():
            for number in range(inner_steps):
                lr = inner_lr * (self._package.config.eval.later_lr if number else 1.0)
                row = number if algorithm.inner.rule.per_step else 0

                def step(numbers: Params, task: tuple[Any, Examples], row: int = row) -> Any:
                    (params, state, learned), examples = task
                    after = algorithm.step(At(params, state, row, {}, learned), examples, Context(numbers))
                    return after.params, after.state, learned

                numbers = {"lr": self._as_tensor(np.array(lr))}
                examples = self._examples(own[0], arrays, number, run)
                own = run(("step", row, horizon), step, numbers, (own, examples))
            outputs = self._outputs(own[0], queries, run)
            return lost_as_nan(self._distributions(outputs), outputs)

    def _algorithm(self, horizon: int) -> PolicyMAML:
        spec = EnvironmentSpec(**(vars(self._spec) | {"horizon": horizon}))
        return build_policy_algorithm(without_recomputation(self._package.config), spec)

    def _as_tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.tensor(array, dtype=DTYPES[self._package.config.dtype])

    def _outputs(self, own: Params, observations: Tensor, run: Run) -> Tensor:
        """Distributions [T, B, M] of each task's own policy at observations [T, B, O]."""

        def one(params: Params, task: tuple[Params, Tensor]) -> Tensor:
            del params
            return self._policy.apply(*task)

        outputs: Tensor = run("outputs", one, {}, (own, observations))
        return outputs

    def _examples(self, own: Params, arrays: Arrays, number: int, run: Run) -> Examples:
        """One batch of trajectories as the algorithm takes them, [T, N · H, …], with the policies that acted."""
        kinds = ("observations", "actions", "rewards", "lengths", "terminated")
        observations, actions, rewards, lengths, terminated = (arrays[f"support_{kind}"][:, number] for kind in kinds)
        actions = actions[..., None] if self._spec.single else actions
        times = np.arange(rewards.shape[-1] + 1)
        taken = times[:-1] < lengths[..., None]
        # What comes after an end is the caller's padding. As in rollouts: the last observation, and nothing else.
        last = np.minimum(times, lengths[..., None])
        observed = self._as_tensor(np.take_along_axis(observations, last[..., None], axis=2))
        shape = observed[:, :, :-1].shape
        outputs = self._outputs(own, observed[:, :, :-1].flatten(1, 2), run).unflatten(1, shape[1:3])
        seen = Trajectories(
            observed, self._as_tensor(rewards * taken), torch.tensor(taken), torch.tensor(np.array(terminated))
        )
        done = self._as_tensor(np.where(taken[..., None], actions, 0))
        return as_examples(self._policy, self._advantage, seen, done, outputs)

    @property
    def _advantage(self) -> AdvantageSettings:
        return AdvantageSettings(**self._package.config.advantage.model_dump())

    def _require_trajectories(self, arrays: Arrays) -> None:
        lengths, actions = arrays["support_lengths"], arrays["support_actions"]
        horizon = arrays["support_rewards"].shape[-1]
        if not ((lengths >= 1) & (lengths <= horizon)).all():
            raise ValueError(f"support_lengths: expected from 1 to the {horizon} steps given, received {lengths}")
        most = np.array(self._spec.choices or self._spec.outputs)
        allowed = (actions >= 0) & (actions < most)
        if self._spec.discrete and not allowed[np.arange(horizon) < lengths[..., None]].all():
            limit = " and ".join(str(number - 1) for number in most.ravel())
            raise ValueError(f"support_actions: expected from 0 to {limit}, received {actions}")

    def _distributions(self, outputs: Tensor) -> Tensor:
        if self._spec.single:
            return _probabilities(self._policy, outputs)
        if isinstance(self._policy, MultiCategoricalPolicy):
            return torch.cat([one.softmax(dim=-1) for one in self._policy.components(outputs)], dim=-1)
        if isinstance(self._policy, GaussianPolicy):
            mean, log_std = outputs.tensor_split(2, dim=-1)
            outputs = torch.cat([mean, log_std.exp()], dim=-1)
        return outputs


def _probabilities(policy: Policy, outputs: Tensor) -> Tensor:
    """Probabilities [T, Q, A] of discrete actions under distributions [T, Q, M]."""
    rows = outputs.flatten(0, 1)
    assert isinstance(policy.outputs, int)
    each = [policy.log_probability(rows, rows.new_full((len(rows), 1), action)) for action in range(policy.outputs)]
    probabilities: Tensor = torch.stack(each, dim=-1).exp().unflatten(0, outputs.shape[:2])
    return probabilities
