"""Task families: distributions of tasks whose every draw is a pure function of (seed, split, index)."""

from tasks.checker import FamilyError, check_family
from tasks.environments.checker import check_environment_family
from tasks.family import SPLITS, Family, FamilySpec, Split, TaskKey, draw_batch

__all__ = [
    "SPLITS",
    "Family",
    "FamilyError",
    "FamilySpec",
    "Split",
    "TaskKey",
    "check_environment_family",
    "check_family",
    "draw_batch",
]
