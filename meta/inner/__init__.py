"""Adaptation: inner rules, derivatives through them, and the loop that takes the steps."""

from meta.inner.derivatives import Derivative, Exact, FirstOrder, Implicit, Neumann, Sama, Truncated
from meta.inner.loop import LEARNED, At, Inner, Loss
from meta.inner.names import EVERY, EXCEPT, matches, require_matches
from meta.inner.rules import SGD, Adam, InnerRule, LearnedSGD, Momentum

__all__ = [
    "EVERY",
    "EXCEPT",
    "LEARNED",
    "SGD",
    "Adam",
    "At",
    "Derivative",
    "Exact",
    "FirstOrder",
    "Implicit",
    "Inner",
    "InnerRule",
    "LearnedSGD",
    "Loss",
    "Momentum",
    "Neumann",
    "Sama",
    "Truncated",
    "matches",
    "require_matches",
]
