"""All statistics, each with its source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, median, quantiles, stdev
from typing import NamedTuple

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """An estimate with its confidence interval."""

    estimate: float
    low: float
    high: float


def relative_iqr(values: Sequence[float]) -> float:
    """Return interquartile range over median, the spread torch.utils.benchmark warns about."""
    if len(values) < 2:
        return math.inf
    first, _, third = quantiles(values, n=4, method="inclusive")
    return (third - first) / median(values)


def ratio_interval(numerator: Sequence[float], denominator: Sequence[float]) -> Interval:
    """Return numerator / denominator with its interval, both measured once in every round.

    The interval is Student's for the mean of the within-round log-ratios (a paired t interval),
    so that what drifts from round to round cancels. With fewer than two rounds it is infinite.
    Raises ValueError unless every round has both values.
    """
    from scipy import stats

    if len(numerator) != len(denominator) or not numerator:
        raise ValueError(f"{len(numerator)} and {len(denominator)} rounds cannot be paired")
    logs = [math.log(a / b) for a, b in zip(numerator, denominator, strict=True)]
    centre = fmean(logs)
    if len(logs) < 2:
        return Interval(math.exp(centre), 0.0, math.inf)
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1))
    half = t * stdev(logs) / math.sqrt(len(logs))
    return Interval(math.exp(centre), math.exp(centre - half), math.exp(centre + half))


def rounds_needed(numerator: Sequence[float], denominator: Sequence[float], bound: float) -> int:
    """Return about how many rounds in all would decide between faster, slower and equal.

    The rounds after which the paired t interval of `ratio_interval` is as narrow as the distance
    of the estimate from 1, or as ``bound`` where it is nearer, if estimate and spread stay as they
    are: n with z * s / sqrt(n) = distance. Needs two rounds.
    """
    logs = [math.log(a / b) for a, b in zip(numerator, denominator, strict=True)]
    distance = max(abs(fmean(logs)), math.log1p(bound))
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    return math.ceil((z * stdev(logs) / distance) ** 2)


def is_stable(values: Sequence[float], *, window: int, bound: float) -> bool:
    """Whether the last ``window`` values spread by at most ``bound`` (relative IQR)."""
    return len(values) >= window and relative_iqr(values[-window:]) <= bound
