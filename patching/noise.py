"""How much of sampling is done, by the noise level: the same rule for every host and scheduler."""

from __future__ import annotations

from typing import Any

_FIRST = 0.999  # schedulers that count in whole timesteps begin there; at a shift of 8 that alone is 0.8% of the run


def progress_at(sigma: float, shift: float) -> float:
    """Fraction of sampling done, 0..1: 1 - u, where flow matching shifts u to the noise level.

    sigma = shift u / (1 + (shift - 1) u); see `time_snr_shift` of ComfyUI.

    Args:
        sigma: noise level, 1 (only noise) to 0; from 0.999 on it is the beginning.
        shift: the flow shift, above 0; 1 for none.
    """
    if sigma >= _FIRST:
        return 0.0
    sigma = max(sigma, 0.0)
    return 1.0 - sigma / (shift - (shift - 1.0) * sigma)


def shift_of(scheduler: Any) -> float | None:
    """The flow shift of a scheduler of diffusers or the wrapper; None where it has none, or it varies with the size."""
    config = getattr(scheduler, "config", None) or {}
    if config.get("use_dynamic_shifting"):
        return None
    given = config.get("flow_shift") if config.get("use_flow_sigmas") else None
    for value in (given, getattr(scheduler, "shift", None), config.get("shift")):
        if isinstance(value, int | float) and value > 0:
            return float(value)
    return None
