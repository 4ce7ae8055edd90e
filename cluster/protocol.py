"""The protocol of an evaluation in words, as page and figures state it beside the numbers."""

from collections.abc import Mapping
from typing import Any

FINGERPRINT = 12  # letters of a fingerprint that are shown


def conditions(evaluation: Mapping[str, Any]) -> list[str]:
    """What a score has to be read with: way, shot, tasks, query examples, batch norm. Older runs may lack some.

    >>> conditions({"metric": "accuracy", "way": 5, "shot": 1, "query_per_class": 15, "split": "test", "tasks": 600})
    ['600 tasks of the test split', '5-way 1-shot', '15 query examples per class', 'batch norm: none']
    """
    per_class = " per class" if evaluation["metric"] == "accuracy" else ""
    way, shot, query = (evaluation.get(key) for key in ("way", "shot", "query_per_class"))
    parts = [f"{evaluation['tasks']} tasks of the {evaluation['split']} split"]
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
        parts.append(f"inner step size {evaluation['inner_lr']:g}")
    if inner_steps is not None:
        parts.append(f"trained with {inner_steps} inner step{_s(inner_steps)}")
    step, best = evaluation.get("checkpoint_step"), evaluation.get("best_step")
    if step is not None:
        parts.append(f"parameters of outer step {step}{', the best on validation tasks' if step == best else ''}")
    if evaluation.get("data"):
        parts.append(f"data {str(evaluation['data'])[:FINGERPRINT]}")
    return parts


def _s(count: int) -> str:
    return "" if count == 1 else "s"
