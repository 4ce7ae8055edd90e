"""Surrogates whose derivatives estimate those of the expected return.

Each is a loss (to be descended) whose first derivative is the policy gradient,
E[Σ_t ∇log π_t A_t] with the sign turned, averaged over the steps of the rollouts instead of summed. They differ in
the second derivative, which the outer gradient of MAML sees through the inner step. With g_t = ∇log π(a_t|s_t) and
R_t the return from step t on, the Hessian of the expected return over a horizon, undiscounted, is

    E[Σ_t (∇²log π_t + g_t g_tᵀ) R_t]  +  E[Σ_t (g_t C_tᵀ + C_t g_tᵀ) R_t],   C_t = Σ_{s<t} g_s
      (1) own step                          (2) earlier steps that led here

(Furmston, Lever, Barber 2016; Rothfuss et al. 2019, theorem 1).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from meta.policy.samples import Samples

Estimator = Callable[[Tensor, Samples, int], Tensor]


def likelihood_ratio(log_probabilities: Tensor, samples: Samples, horizon: int) -> Tensor:
    """Returns -Σ w_t log π_t A_t, a scalar (Finn et al. 2017, eq. 4; the authors' code).

    First derivative: unbiased. Second: E[Σ ∇²log π_t A_t], without a baseline the first half of (1) alone: g_t g_tᵀ and
    (2) are missing, so it is biased. A baseline b shifts it by E[Σ g_t g_tᵀ b], where it leaves the expectations of the
    others alone. It is exact as the derivative of the sampled update with its samples held fixed.

    Args:
        log_probabilities: log π of the actions under the parameters to differentiate, [B].
        samples: the rollouts.
        horizon: rows of one trajectory.
    """
    del horizon
    return -(samples.weights * log_probabilities * samples.advantages).sum()


def dice(log_probabilities: Tensor, samples: Samples, horizon: int) -> Tensor:
    """Returns -Σ w_t (ρ_{≤t} - ρ_{<t}) A_t, a scalar, with ρ_{≤t} = Π_{s≤t} π_s / π_old,s.

    DiCE (Foerster et al. 2018) with a baseline for every order (Farquhar et al. 2019, loaded DiCE); their «magic box»
    of log-probabilities is this product of ratios at the parameters that sampled. Every derivative there is unbiased,
    the second with (1) and (2), and variance grows with the horizon accordingly. In expectation it is the return,
    (J(θ_old) - J(θ)) / H for every θ, where A_t is an unbiased estimate of Q less a function of state and time.

    Args:
        log_probabilities: log π of the actions under the parameters to differentiate, [B].
        samples: the rollouts.
        horizon: rows of one trajectory.
    """
    changes = _log_ratio(log_probabilities, samples).unflatten(0, (-1, horizon))
    until = changes.cumsum(dim=1)
    difference = torch.exp(until) - torch.exp(until - changes)
    return -(samples.weights * samples.advantages * difference.flatten()).sum()


def low_variance(log_probabilities: Tensor, samples: Samples, horizon: int) -> Tensor:
    """Returns -Σ w_t (π_t / π_old,t) A_t, a scalar: low-variance curvature (Rothfuss et al. 2019, eq. 12).

    First derivative: unbiased. Second: (1) whole, without (2): biased, but of the variance of a policy gradient. The
    missing part vanishes for one-step problems, where Q does not depend on the policy's later actions, and where the
    states to come do not depend on this action.

    Args:
        log_probabilities: log π of the actions under the parameters to differentiate, [B].
        samples: the rollouts.
        horizon: rows of one trajectory.
    """
    del horizon
    return importance_ratio(log_probabilities, samples)


def importance_ratio(log_probabilities: Tensor, samples: Samples) -> Tensor:
    """Returns the outer objective -Σ w_t (π_t / π_old,t) A_t, a scalar (Schulman et al. 2015, eq. 14).

    Args:
        log_probabilities: log π of the actions under the parameters to differentiate, [B].
        samples: the rollouts, with log π_old.
    """
    return -(samples.weights * torch.exp(_log_ratio(log_probabilities, samples)) * samples.advantages).sum()


def clipped_ratio(log_probabilities: Tensor, samples: Samples, clip: float) -> Tensor:
    """Returns -Σ w_t min(r_t A_t, clip(r_t, 1 - ε, 1 + ε) A_t), a scalar, with r_t = π_t / π_old,t.

    Schulman et al. 2017, eq. 7.

    Args:
        log_probabilities: log π of the actions under the parameters to differentiate, [B].
        samples: the rollouts, with log π_old.
        clip: ε.
    """
    ratio = torch.exp(_log_ratio(log_probabilities, samples))
    clipped = ratio.clamp(1 - clip, 1 + clip)
    gain = torch.minimum(ratio * samples.advantages, clipped * samples.advantages)
    return -(samples.weights * gain).sum()


def _log_ratio(log_probabilities: Tensor, samples: Samples) -> Tensor:
    # Padding has no action: its ratio is one whatever the network says there.
    return (log_probabilities - samples.log_probabilities) * (samples.weights > 0)


ESTIMATORS: dict[str, Estimator] = {
    "likelihood_ratio": likelihood_ratio,
    "dice": dice,
    "low_variance": low_variance,
}
