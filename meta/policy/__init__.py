"""Policies: distributions, estimators of their gradients, advantages, trust regions, and MAML over them."""

from meta.policy.algorithms import PolicyMAML, PolicyOracle, PolicyPretrain
from meta.policy.distributions import CategoricalPolicy, GaussianPolicy, Policy

__all__ = ["CategoricalPolicy", "GaussianPolicy", "Policy", "PolicyMAML", "PolicyOracle", "PolicyPretrain"]
