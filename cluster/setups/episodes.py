"""From a configuration of drawn tasks to the objects that compute."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from cluster.config.overrides import GIVEN_TO_ALGORITHMS
from cluster.config.schema import Config
from cluster.errors import ConfigError
from cluster.setups.base import BaseSetup
from cluster.setups.models import (
    build_inner,
    build_model,
    frozen_of,
    is_built_in,
    own_keys,
    require_pure,
    resolve_offering,
)
from cluster.setups.objectives import objective_of, scores_of
from cluster.workers.episodes import EpisodeWork
from meta.algorithms import Algorithm, answers_of, batch_norm_of, noise_size
from meta.engine.choice import Choice, choose, measure, require_gradient, require_scores
from meta.engine.strategies import Engine
from meta.engine.strategies import build as build_engine
from meta.episode import Episode, described, unstack, with_noise
from meta.inputs import Inputs, length
from meta.models import Model
from meta.objectives import TaskScore, measured
from meta.params import Layout, Params
from tasks.family import Family, FamilySpec, Split, TaskKey, draw_batch, draw_noise, gives_classes

OFFERED = ("informed", "sizes", "init", "numbers", "stage", "meta_loss", "scores", "predict")  # members of an algorithm
MACHINES = ("native", "graph")  # strategies that depend on what a machine has


@dataclass(frozen=True, kw_only=True)
class EpisodeSetup(BaseSetup):
    """Everything that a worker or a learner computes with where tasks are drawn.

    Attributes:
        family: where episodes come from.
        algorithm: the method, over the model.
        draws: whether random layers of the model draw numbers in training.
        scores: what evaluations report beside the objective's score.
    """

    family: Family
    algorithm: Algorithm
    draws: bool
    scores: tuple[TaskScore, ...] = ()

    @cached_property
    def choice(self) -> Choice:
        """The strategy that the configuration names, or that its ``auto`` or ``measure`` comes to."""
        if self.config.engine not in ("auto", "measure"):
            return Choice(self.config.engine, "named by the configuration", {})
        measured = self.config.engine == "measure"
        tasks = range(self.config.shard_size if measured else 1)
        params = {name: value.to(self.device) for name, value in self.initial_params().items()}
        try:
            episodes = self.training_episodes(tasks)
            if measured:
                return measure(self.algorithm, params, episodes, self.limits)
            tried_at = None if self.is_built_in else self.config.scored_steps
            count = self.config.training_tasks
            return choose(self.algorithm, params, episodes, self.device, count, self.limits, tried_at)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    @cached_property
    def engine(self) -> Engine:
        """The algorithm under that strategy."""
        return build_engine(self.choice.name, self.algorithm, self.limits)

    @cached_property
    def _answering(self) -> Engine:
        """The algorithm's predictions under that strategy."""
        return build_engine(self.choice.name, answers_of(self.algorithm), self.limits)

    def further_scores(self, params: Params, episodes: Episode, steps: tuple[int, ...]) -> Tensor:
        """The scores of ``eval.scores`` of T tasks after K numbers of inner steps, [T, K, number of scores].

        Args:
            params: θ.
            episodes: of held-out tasks, [T, ...].
            steps: the K numbers.
        """
        outputs = self._answering.scores(params, episodes, steps, self.context(None))
        return measured(self.scores, self.algorithm.objective, outputs, episodes.query.targets)

    @property
    def is_built_in(self) -> bool:
        """Tells whether model, algorithm and objective are of metaray itself."""
        return all(map(is_built_in, (self.algorithm, self.algorithm.model, self.algorithm.objective)))

    def training_episodes(self, tasks: range) -> Episode:
        """Episodes of training tasks [T, ...], with the noise that random layers draw from where there are any."""
        episodes = self._draw(tasks)
        if not self.noise:
            return episodes
        return with_noise(episodes, draw_noise(self.seed, tasks, self.noise, self.dtype, self.device))

    @cached_property
    def noise(self) -> int:
        """Random numbers M that the meta-loss of one task takes."""
        if not self.draws and is_built_in(self.algorithm):
            return 0
        params = {name: value.to(self.device) for name, value in self.initial_params().items()}
        return noise_size(self.algorithm, params, unstack(self._draw(range(1))))

    def held_out_episodes(self, split: Split, tasks: range) -> Episode:
        """Episodes of tasks of a split [T, ...], without noise: random layers are off in evaluation.

        Args:
            split: of the tasks.
            tasks: their indices, T of them.
        """
        episodes = draw_batch(self.family, self.seed, split, tasks, self.dtype, self.device)
        for targets in (episodes.support.targets, episodes.query.targets):
            self.algorithm.objective.check(targets)
        return described(episodes) if self.algorithm.informed else episodes

    def _draw(self, tasks: range) -> Episode:
        return self.held_out_episodes("train", tasks)

    def make_work(self) -> EpisodeWork:
        """The object that computes meta-gradients and scores of drawn episodes."""
        return EpisodeWork(self)

    def describe(self, split: Split) -> dict[str, Any]:
        """Way, shot, query examples and batch norm of an episode of the split."""
        episode = self.family.draw(TaskKey(self.seed, split, 0))
        by_class = self.algorithm.objective.targets == "classes" and self.family.spec.by_class
        classes = self.family.spec.outputs if by_class else 1
        return {
            "way": classes if by_class else None,
            "shot": length(episode.support.inputs) // classes,
            "query_per_class": length(episode.query.inputs) // classes,
            "batch_norm": batch_norm_of(self.algorithm.model),
        }

    def sampling(self) -> dict[str, Any]:
        """The settings ``batch norm``, whose statistics normalise the query examples, and ``metric``."""
        return {
            "batch norm": batch_norm_of(self.algorithm.model) or "none",
            "metric": self.algorithm.objective.metric,
        }

    @property
    def needs_trial(self) -> bool:
        """Tells whether model, algorithm or family is a user's own, or the objective another than the family's."""
        chosen = self.config.objective is not None
        return chosen or not self.is_built_in or type(self.family).__module__.partition(".")[0] != "tasks"

    @property
    def needs_worker_trial(self) -> bool:
        """Whether a worker may lack what this process has, or fail where this process does not."""
        return self.choice.name in MACHINES or not self.is_built_in

    def trial(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Meta-gradient, drawing, scores and predictions, in the strategy of the run.

        A strategy that ``auto`` came to has been tried already if the parts are a user's own.
        """
        params = {name: value.to(self.device) for name, value in self.initial_params().items()}
        if self.config.engine != "auto" and (self.needs_trial or self.choice.name in MACHINES):
            yield (
                "meta-gradient",
                lambda: require_gradient(self.engine, params, self.training_episodes(range(1)), self.context(0)),
            )
        yield "drawing val tasks", lambda: self.held_out_episodes("val", range(1))
        yield "drawing test tasks", lambda: self.held_out_episodes("test", range(1))
        if self.needs_trial:
            yield "scores", lambda: self._require_scores(params)
            yield "predictions", lambda: self._require_predictions(params)
        if self.scores:
            yield "eval.scores", lambda: self._require_further(params)

    def _require_scores(self, params: Params) -> None:
        episodes, now = self.held_out_episodes("val", range(1)), self.context(None)
        require_scores(self.engine, params, episodes, self.config.scored_steps, now)

    def _require_further(self, params: Params) -> None:
        scores = self.further_scores(params, self.held_out_episodes("test", range(1)), self.config.scored_steps)
        expected = (1, len(self.config.scored_steps), len(self.scores))
        if scores.shape != expected:
            raise ValueError(f"expected scores of shape {expected}, a number for each task, received {scores.shape}")

    def _require_predictions(self, params: Params) -> None:
        """Predict as figures, registry and serving do, and check shapes."""
        episode = unstack(self.held_out_episodes("test", range(1)))
        queries, count = episode.query, length(episode.query.inputs)
        outputs = self.algorithm.predict(
            params, episode.support, queries.inputs, max(self.config.scored_steps), self.context(None)
        )
        if not isinstance(outputs, torch.Tensor) or len(outputs) != count:
            received = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
            raise ValueError(f"expected outputs [{count}, ...], one for each query, received {received}")
        objective = self.algorithm.objective
        expected = (count, objective.width(self.family.spec.outputs))
        if objective.targets != "classes" and outputs.shape != expected:
            raise ValueError(f"expected outputs of shape {expected}, received {tuple(outputs.shape)}")


def build_episodes(
    config: Config,
    builder: Callable[[Config], BaseSetup],
    family: Family,
    dtype: torch.dtype,
) -> EpisodeSetup:
    """Construct model and algorithm for a family of drawn tasks.

    Args:
        config: the whole configuration.
        builder: builds the same set-up in another process.
        family: where episodes come from.
        dtype: type of θ.

    Raises:
        ConfigError: if the parts do not fit together.
        ValueError: if a value does not suit a part.
    """
    algorithm = build_algorithm(config, family.spec)
    params = algorithm.init(torch.Generator().manual_seed(config.seed), dtype)

    def inputs() -> Inputs:
        episode = unstack(draw_batch(family, config.seed, "train", range(1), dtype))
        examples = episode.support.inputs if length(episode.support.inputs) else episode.query.inputs
        spec = family.spec
        outputs = algorithm.objective.width(spec.outputs)
        shape, _ = algorithm.sizes(spec.shape, outputs, spec.description, **config.algorithm.params)
        if isinstance(examples, dict) or isinstance(shape, Mapping) or tuple(examples.shape[1:]) == shape:
            return examples
        return examples.new_zeros(len(examples), *shape)

    return EpisodeSetup(
        family=family,
        algorithm=algorithm,
        scores=scores_of(config, algorithm.objective),
        draws=require_pure(algorithm.model, params, inputs),
        frozen=frozen_of(config, algorithm.model, params),
        config=config,
        builder=builder,
        layout=Layout.of(params),
        dtype=dtype,
        seed=config.seed,
    )


def build_algorithm(config: Config, spec: FamilySpec, model: Model | None = None) -> Algorithm:
    """Algorithm for a family's episodes, of which nothing but the spec is asked.

    Args:
        config: names the algorithm, and its settings.
        spec: of the family.
        model: the model, if it has been built before.

    Raises:
        ConfigError: if the parts do not fit together.
        ValueError: if a value does not suit a part.
    """
    cls = resolve_offering("algorithm", config.algorithm.name, *OFFERED)
    keys = own_keys("algorithm", config.algorithm, GIVEN_TO_ALGORITHMS)
    objective = objective_of(config, spec)
    if model is None:
        outputs = objective.width(spec.outputs)
        model = build_model(config, *cls.sizes(spec.shape, outputs, spec.description, **keys))
    classes = signature(cls).parameters.get("classes")
    if classes is not None and gives_classes(spec):
        keys["classes"] = spec.outputs
    elif classes is not None and classes.default is classes.empty:
        raise ConfigError(
            f"algorithm {config.algorithm.name}: expected a family whose tasks have classes, received "
            f"'{config.task.family}', whose objective is {spec.objective}"
        )
    algorithm: Algorithm = cls(model=model, objective=objective, inner=build_inner(config, model), **keys)
    return algorithm


def require_episodes(setup: BaseSetup) -> EpisodeSetup:
    """The set-up, if its tasks are drawn.

    Raises:
        ConfigError: if they are RL tasks.
    """
    if not isinstance(setup, EpisodeSetup):
        family = setup.config.task.family
        raise ConfigError(f"task.family: expected a family of episodes, received environments, '{family}'")
    return setup
