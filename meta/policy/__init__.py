"""Policies: distributions, estimators of their gradients, advantages, trust regions, and MAML over them."""

from meta.policy.algorithms import PolicyMAML, PolicyOracle, PolicyPretrain
from meta.policy.distributions import CategoricalPolicy, GaussianPolicy, MultiCategoricalPolicy, Policy

__all__ = [
    "CategoricalPolicy",
    "GaussianPolicy",
    "MultiCategoricalPolicy",
    "Policy",
    "PolicyMAML",
    "PolicyOracle",
    "PolicyPretrain",
]
