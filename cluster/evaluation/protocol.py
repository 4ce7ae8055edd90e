"""The protocol of an evaluation in words, as page and figures state it beside the numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

FINGERPRINT = 12  # letters of a fingerprint that are shown


def conditions(evaluation: Mapping[str, Any]) -> list[str]:
    """The conditions of a score: way, shot, tasks, query examples, batch norm. Evaluations of older runs may lack some.

    For RL tasks they are the number and length of the trajectories.

    >>> conditions({"metric": "accuracy", "way": 5, "shot": 1, "query_per_class": 15, "split": "test", "tasks": 600})
    ['600 tasks of the test split', '5-way 1-shot', '15 query examples per class', 'batch norm: none']
    >>> conditions({"metric": "return", "shot": 20, "horizon": 200, "split": "test", "tasks": 40})
    ['40 tasks of the test split', '20 trajectories of at most 200 steps per inner step']
    """
    parts = [f"{evaluation['tasks']} tasks of the {evaluation['split']} split"]
    if evaluation.get("kind_tasks"):
        parts.append(f"mean over kinds of task ({kinds_in_words(evaluation['kind_tasks'])})")
    if is_rl(evaluation):
        encoding = [evaluation["encoding"]] if evaluation.get("encoding") else []
        return [*parts, f"{trajectories(evaluation)} per inner step", *encoding]
    per_class = " per class" if evaluation["metric"] == "accuracy" else ""
    way, shot, query = (evaluation.get(key) for key in ("way", "shot", "query_per_class"))
    if way is not None and shot is not None:
        parts.append(f"{way}-way {shot}-shot")
    elif shot is not None:
        parts.append(f"{shot} support example{_s(shot)}{per_class}")
    if query is not None:
        parts.append(f"{query} query example{_s(query)}{per_class}")
    parts.append(f"batch norm: {evaluation.get('batch_norm') or 'none'}")
    return parts


def protocol(evaluation: Mapping[str, Any], inner_steps: int | None) -> list[str]:
    """The conditions, and what was evaluated: step sizes, inner steps in training, parameters, data.

    Args:
        evaluation: as in ``evaluation.json``.
        inner_steps: inner steps in training, if they are known.
    """
    parts = conditions(evaluation)
    if evaluation.get("inner_lr") is not None:
        parts.append(f"inner step size {step_size(evaluation)}")
    if inner_steps is not None:
        parts.append(f"trained with {inner_steps} inner step{_s(inner_steps)}")
    step, best = evaluation.get("checkpoint_step"), evaluation.get("best_step")
    if step is not None:
        average = "moving average of the " if evaluation.get("params") == "ema" else ""
        validated = ", the best on validation tasks" if step == best else ""
        parts.append(f"{average}parameters of outer step {step}{validated}")
    if evaluation.get("data"):
        parts.append(f"data {str(evaluation['data'])[:FINGERPRINT]}")
    return parts


def kinds_in_words(tasks: Mapping[str, int]) -> str:
    """Numbers of tasks by kind, in words.

    >>> kinds_in_words({"backward": 14, "forward": 6})
    '14 backward, 6 forward'
    """
    return ", ".join(f"{count} {name}" for name, count in tasks.items())


def rows(evaluation: Mapping[str, Any], label: str) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """Name and scores by number of inner steps of this run and what is beside it, each with its kinds of task.

    Beside it are its moving average of θ, or θ, if it has both, and its baselines.

    Args:
        evaluation: as in ``evaluation.json``.
        label: name of the run's own row.

    >>> evaluation = {"steps": {"1": "both"}, "kinds": {"forward": {"1": "one"}}}
    >>> rows(evaluation, "maml")
    [('maml', {'1': 'both'}), ('maml, forward', {'1': 'one'})]
    """
    learners = [(label, evaluation["steps"], evaluation.get("kinds", {}))]
    for others, kinds in (("beside", "beside_kinds"), ("baselines", "baseline_kinds")):
        by_kind = evaluation.get(kinds, {})
        learners += [(name, steps, by_kind.get(name, {})) for name, steps in evaluation.get(others, {}).items()]
    labelled: list[tuple[str, Mapping[str, Any]]] = []
    for name, steps, kinds in learners:
        labelled.append((name, steps))
        labelled.extend((f"{name}, {kind}", of_kind) for kind, of_kind in kinds.items())
    return labelled


def further_rows(evaluation: Mapping[str, Any], label: str) -> dict[str, list[tuple[str, Mapping[str, Any]]]]:
    """By name of a score of ``eval.scores`` name and scores of this run and of what is beside it.

    Args:
        evaluation: as in ``evaluation.json``.
        label: name of the run's own row.

    >>> further_rows({"scores": {"r2": {"1": "own"}}, "baseline_scores": {"ridge": {"r2": {"1": "its"}}}}, "maml")
    {'r2': [('maml', {'1': 'own'}), ('ridge', {'1': 'its'})]}
    """
    others = {**evaluation.get("beside_scores", {}), **evaluation.get("baseline_scores", {})}
    return {
        score: [(label, steps), *((name, scores[score]) for name, scores in others.items() if score in scores)]
        for score, steps in evaluation.get("scores", {}).items()
    }


def plain_figure(figure: Mapping[str, Any], *, mean: str, half: str) -> str:
    """Mean ± half-width of one number of inner steps, and how many tasks diverged, in plain text.

    Args:
        figure: ``mean``, ``ci95`` and ``diverged`` of one number of inner steps.
        mean: format of the mean.
        half: format of the half-width.

    >>> plain_figure({"mean": 2.0, "ci95": None, "diverged": 1}, mean=".3f", half=".3f")
    '2.000, 1 diverged'
    """
    return mean_in_words(figure, mean=mean, half=half) + (
        f", {figure['diverged']} diverged" if figure["diverged"] else ""
    )


def mean_in_words(figure: Mapping[str, Any], *, mean: str, half: str) -> str:
    """Mean ± half-width by their formats; no half-width where there is none, as of one task.

    Args:
        figure: ``mean`` and ``ci95``.
        mean: format of the mean.
        half: format of the half-width.
    """
    if figure["mean"] is None:
        return "not finite"
    return f"{figure['mean']:{mean}}" + ("" if figure["ci95"] is None else f" ± {figure['ci95']:{half}}")


def is_rl(evaluation: Mapping[str, Any]) -> bool:
    """Whether the tasks are RL tasks, so that the protocol counts trajectories instead of examples."""
    return evaluation.get("horizon") is not None


def trajectories(evaluation: Mapping[str, Any]) -> str:
    """Number and longest length of the trajectories of a task that one inner step is taken on."""
    shot, horizon = evaluation["shot"], evaluation["horizon"]
    kind = "trajectory" if shot == 1 else "trajectories"
    return f"{shot} {kind} of at most {horizon} step{_s(horizon)}"


def step_size(evaluation: Mapping[str, Any]) -> str:
    """The inner step size α, and what it is from the second step on if that is another.

    >>> step_size({"inner_lr": 0.1, "later_lr": 0.5})
    '0.1, 0.05 from the second step on'
    """
    first, later = evaluation["inner_lr"], evaluation.get("later_lr", 1.0)
    return f"{first:g}" if later == 1.0 else f"{first:g}, {first * later:g} from the second step on"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
