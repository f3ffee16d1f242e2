"""What a scaling curve says about the program: serial fraction, Amdahl's law, the scalability law.

Devices are counted in whole; times and rates are of the same work at every count (strong scaling),
or rates of as much work a device (weak scaling) where the function says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from perfkit.core.stats import CONFIDENCE, Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

LEAST_COUNTS = 4  # distinct ones: three parameters go through any three points


class Fit(NamedTuple):
    """A law fitted to a curve."""

    parameters: dict[str, Interval]
    """By their names in the function's docstring."""
    residuals: list[float]
    """Measured over fitted, minus 1, at each count."""
    at: Callable[[float], float]
    """What the law says at a count."""


def karp_flatt(speedup: float, devices: int) -> float:
    """Return the experimentally determined serial fraction (Karp and Flatt, 1990).

    e = (1/S - 1/N) / (1 - 1/N). One that grows with N is overhead, not serial code. Raises
    ValueError for fewer than two devices.
    """
    if devices < 2:
        raise ValueError(f"{devices} device has no serial fraction; two are the least")
    return (1 / speedup - 1 / devices) / (1 - 1 / devices)


def why_no_fit(counts: Sequence[int]) -> str | None:
    """Return why no law can be fitted to curves over these counts, or None."""
    distinct = len(set(counts))
    if distinct >= LEAST_COUNTS:
        return None
    return (
        f"no law is fitted: that takes {LEAST_COUNTS} distinct counts or more, and there "
        f"{'is' if distinct == 1 else 'are'} {distinct}"
    )


def amdahl(counts: Sequence[int], seconds: Sequence[float]) -> Fit:
    """Fit Amdahl's law (Amdahl, 1967) to the seconds that the same work takes.

    T(N) = t1 ((1 - p) + p / N), with the time on one device ``t1`` and the parallel fraction ``p``,
    by least squares of the logarithms, p within 0 .. 1. Raises ValueError as `why_no_fit` says.
    """

    def law(n: Numbers, t1: float, p: float) -> Numbers:
        return t1 * ((1 - p) + p / n)

    return _fit(law, {"t1": (0, math.inf), "p": (0, 1)}, [max(seconds), 0.9], counts, seconds)


def usl(counts: Sequence[int], rates: Sequence[float]) -> Fit:
    """Fit the universal scalability law (Gunther, 1993) to rates, of samples a second say.

    X(N) = lambda N / (1 + sigma (N - 1) + kappa N (N - 1)), with the rate of one device
    ``lambda``, contention ``sigma`` and coherency ``kappa``, by least squares of the logarithms,
    all at least 0. Raises ValueError as `why_no_fit` says.
    """

    def law(n: Numbers, rate: float, sigma: float, kappa: float) -> Numbers:
        return rate * n / (1 + sigma * (n - 1) + kappa * n * (n - 1))

    bounds = {"lambda": (0, math.inf), "sigma": (0, 1), "kappa": (0, math.inf)}
    return _fit(law, bounds, [min(rates), 0.05, 1e-3], counts, rates)


def usl_peak(fit: Fit) -> float:
    """Return the count at which a fitted scalability law is highest; inf where none can be told.

    sqrt((1 - sigma) / kappa) (Gunther, 2007, Guerrilla Capacity Planning); a kappa whose interval
    reaches 0 tells of no peak.
    """
    sigma, kappa = fit.parameters["sigma"].estimate, fit.parameters["kappa"]
    return math.sqrt((1 - sigma) / kappa.estimate) if kappa.low > 0 else math.inf


def _fit(
    law: Callable[..., Any],
    bounds: Mapping[str, tuple[float, float]],
    start: Sequence[float],
    counts: Sequence[int],
    values: Sequence[float],
) -> Fit:
    """Fit by logarithms, so that every point weighs by its relative error."""
    import numpy as np
    from scipy import optimize, stats

    reason = why_no_fit(counts)
    if reason is not None:
        raise ValueError(reason)
    n = np.asarray(counts, dtype=float)
    logs = np.log(values)
    found, covariance = optimize.curve_fit(
        lambda n, *parameters: np.log(law(n, *parameters)),
        n,
        logs,
        p0=start,
        bounds=tuple(zip(*bounds.values(), strict=True)),
        x_scale=np.maximum(np.abs(start), 1e-3),
    )
    # Student's, from the curvature at the best point (scipy.optimize.curve_fit), within the bounds.
    freedom = max(len(counts) - len(start), 1)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * np.sqrt(np.diag(covariance))
    parameters = {
        name: Interval(float(value), max(float(value - h), low), min(float(value + h), high))
        for (name, (low, high)), value, h in zip(bounds.items(), found, half, strict=True)
    }
    residuals = [float(r) for r in np.exp(logs) / law(n, *found) - 1]
    return Fit(parameters, residuals, lambda count: float(law(np.float64(count), *found)))
