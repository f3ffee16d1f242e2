"""All statistics, each with its source."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist, fmean, median, quantiles, stdev
from typing import Literal, NamedTuple

CONFIDENCE = 0.95
EQUAL_BOUND = 0.02
"""Two costs whose whole interval lies within this share of each other are called equal."""
OUTLIER_SCORE = 3.5
"""Modified z-scores beyond this are flagged (Iglewicz and Hoaglin, 1993)."""
RESAMPLES = 9999

Word = Literal["faster", "slower", "equal", "undecided"]


class Interval(NamedTuple):
    """An estimate with its confidence interval."""

    estimate: float
    low: float
    high: float


class Verdict(NamedTuple):
    """What a comparison comes to."""

    word: Word
    gain: Interval
    """How many times as long the other takes: above 1 is faster. Its interval is that of this
    comparison by itself; the word takes all that were made together into account."""
    more_rounds: int | None
    """About how many more rounds would decide, corrected as the word; None where it is decided or
    nothing tells."""


class Drift(NamedTuple):
    """How the cost of the same work moved while it was measured."""

    factor: float
    """Last over first, along the line of the median slope."""
    p_value: float
    """How likely as clear a trend would be without drift."""


class Quartiles(NamedTuple):
    """The values below which a quarter, half and three quarters of a sample lie."""

    first: float
    median: float
    third: float


def quartiles(values: Sequence[float]) -> Quartiles:
    """Return the quartiles, interpolated linearly (Hyndman and Fan, 1996, type 7)."""
    if len(values) < 2:
        return Quartiles(values[0], values[0], values[0])
    return Quartiles(*quantiles(values, n=4, method="inclusive"))


def relative_iqr(values: Sequence[float]) -> float:
    """Return interquartile range over median, the spread torch.utils.benchmark warns about."""
    if len(values) < 2:
        return math.inf
    first, middle, third = quartiles(values)
    return (third - first) / middle


def ratio_interval(numerator: Sequence[float], denominator: Sequence[float]) -> Interval:
    """Return numerator / denominator with its interval, both measured once in every round.

    The interval is Student's for the mean of the within-round log-ratios (a paired t interval),
    so that what drifts from round to round cancels. With fewer than two rounds it is infinite.
    Raises ValueError unless every round has both values.
    """
    logs = _log_ratios(numerator, denominator)
    centre = fmean(logs)
    if len(logs) < 2:
        return Interval(math.exp(centre), 0.0, math.inf)
    from scipy import stats

    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1))
    half = t * stdev(logs) / math.sqrt(len(logs))
    return Interval(math.exp(centre), math.exp(centre - half), math.exp(centre + half))


def unpaired_ratio_interval(
    numerator: Sequence[float], denominator: Sequence[float], *, seed: int = 0
) -> Interval:
    """Return numerator / denominator with its interval, where the two share no rounds.

    The ratio is that of the geometric means; each side is resampled by itself, and the interval
    is bias-corrected and accelerated (BCa; Efron, 1987, by scipy.stats.bootstrap). Drift between
    the two sides is in the estimate, and of six values a side the interval covers about 90 %:
    measure in rounds where that can be done. With fewer than two values on a side it is infinite.
    Raises ValueError where a side has none.
    """
    import numpy as np
    from scipy import stats

    if not numerator or not denominator:
        raise ValueError(f"{len(numerator)} and {len(denominator)} values have no ratio")
    sides = [np.log(numerator), np.log(denominator)]
    estimate = math.exp(sides[0].mean() - sides[1].mean())
    if min(len(side) for side in sides) < 2:
        return Interval(estimate, 0.0, math.inf)
    if all(np.ptp(side) == 0 for side in sides):
        return Interval(estimate, estimate, estimate)
    found = stats.bootstrap(
        sides,
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(estimate, math.exp(found.low), math.exp(found.high))


def verdicts(comparisons: Sequence[tuple[Sequence[float], Sequence[float]]]) -> list[Verdict]:
    """Return a verdict on every comparison, corrected for how many there are.

    A comparison is (costs of the other, costs of ours), both measured once in every round. Two
    things can be claimed of it: that the costs differ (paired t test of the log-ratios) or that
    they are equal, within EQUAL_BOUND (two one-sided tests; Schuirmann, 1987; at half the usual
    level, so that the 95 % interval lies within the bounds). Of these null hypotheses at most one
    is true, so Holm's step-down method (Holm, 1979) over the comparisons, each with the claim that
    its rounds speak for most, keeps the chance of any wrong claim among all at 5 %.
    """
    words = _words([_claims(_paired(_log_ratios(*both)), len(both[0])) for both in comparisons])
    # The clearest of those that are left has to pass at this level.
    confidence = 1 - (1 - CONFIDENCE) / max(words.count("undecided"), 1)
    found = []
    for (other, ours), word in zip(comparisons, words, strict=True):
        missing = None
        if word == "undecided" and len(ours) > 1:
            missing = max(rounds_needed(other, ours, EQUAL_BOUND, confidence) - len(ours), 1)
        found.append(Verdict(word, ratio_interval(other, ours), missing))
    return found


def unpaired_verdicts(
    comparisons: Sequence[tuple[Sequence[float], Sequence[float]]],
) -> list[Verdict]:
    """Return a verdict on every comparison of costs that share no rounds.

    As `verdicts`, by Welch's t test (Welch, 1947) of the logarithms in place of the paired one, and
    with its interval. How many more rounds it takes is not told: drift between the two sides does
    not become less by more of them.
    """
    tests = [_Welch(*both) for both in comparisons]
    words = _words([_claims(test.p_above, test.least) for test in tests])
    return [Verdict(word, test.interval(), None) for test, word in zip(tests, words, strict=True)]


def _words(claims: Sequence[Mapping[Word, float]]) -> list[Word]:
    """Return what can be claimed of every comparison by Holm's method, from p-values."""
    words: list[Word] = ["undecided"] * len(claims)
    clearest = sorted(range(len(claims)), key=lambda index: min(claims[index].values()))
    for rank, index in enumerate(clearest):
        level = (1 - CONFIDENCE) / (len(claims) - rank)
        made = [word for word, p_value in claims[index].items() if p_value < level]
        if not made:
            break
        words[index] = made[0]
    return words


PAbove = Callable[[float, int], float]
"""One-sided p-value of "the log-ratio, times the sign, is above the bound"."""


def _claims(p_above: PAbove, values: int) -> dict[Word, float]:
    """Return the p-value of what can be claimed of the log-ratio of the other's costs to ours."""
    if values < 2:
        return {"equal": 1.0}
    low, high = math.log(1 - EQUAL_BOUND), math.log(1 + EQUAL_BOUND)
    return {
        "equal": 2 * max(p_above(low, 1), p_above(-high, -1)),
        "faster": 2 * p_above(0.0, 1),
        "slower": 2 * p_above(0.0, -1),
    }


def _paired(logs: Sequence[float]) -> PAbove:
    """Student's t test of the mean of log-ratios."""

    def p_above(bound: float, sign: int) -> float:
        error = stdev(logs) / math.sqrt(len(logs))
        return _t_tail(sign * fmean(logs) - bound, error, len(logs) - 1)

    return p_above


class _Welch:
    """Welch's t test of the difference of mean logarithms: the other's costs over ours."""

    def __init__(self, other: Sequence[float], ours: Sequence[float]) -> None:
        sides = [[math.log(cost) for cost in costs] for costs in (other, ours)]
        self.least = min(len(logs) for logs in sides)
        self._difference = fmean(sides[0]) - fmean(sides[1])
        if self.least > 1:
            of_means = [stdev(logs) ** 2 / len(logs) for logs in sides]
            self._error = math.sqrt(sum(of_means))
            weight = sum(v**2 / (len(logs) - 1) for v, logs in zip(of_means, sides, strict=True))
            self._freedom = sum(of_means) ** 2 / weight if weight else 1.0

    def p_above(self, bound: float, sign: int) -> float:
        return _t_tail(sign * self._difference - bound, self._error, self._freedom)

    def interval(self) -> Interval:
        if self.least < 2:
            return Interval(math.exp(self._difference), 0.0, math.inf)
        from scipy import stats

        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, self._freedom)) * self._error
        ends = (self._difference + side for side in (0.0, -half, half))
        return Interval(*map(math.exp, ends))


def _t_tail(distance: float, error: float, freedom: float) -> float:
    """Return the chance of as large a distance if there were none, by Student's t."""
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    from scipy import stats

    return float(stats.t.sf(distance / error, freedom))


def outliers(costs: Sequence[float]) -> list[int]:
    """Return the indices of costs far from the others, for flags: nothing is ever left out.

    Far is a modified z-score of the logarithm beyond 3.5 (Iglewicz and Hoaglin, 1993): deviation
    from the median over the median absolute deviation / 0.6745, or, where more than half are the
    same, over the mean absolute deviation x 1.2533.
    """
    logs = [math.log(cost) for cost in costs]
    centre = median(logs)
    deviations = [abs(value - centre) for value in logs]
    scale = median(deviations) / NormalDist().inv_cdf(0.75)
    scale = scale or fmean(deviations) * math.sqrt(math.pi / 2)
    return [i for i, deviation in enumerate(deviations) if deviation > OUTLIER_SCORE * scale]


def drift(costs: Sequence[float]) -> Drift:
    """Return how costs of the same work moved in the order in which they were measured.

    The trend is tested by Kendall's rank correlation with the order (Mann, 1945) and its size is
    the median slope of the logarithms (Theil, 1950; Sen, 1968). Needs three costs.
    """
    from scipy import stats

    logs = [math.log(cost) for cost in costs]
    order = range(len(logs))
    slope = float(stats.theilslopes(logs, order).slope)
    p_value = float(stats.kendalltau(order, logs).pvalue)
    return Drift(math.exp(slope * (len(logs) - 1)), 1.0 if math.isnan(p_value) else p_value)


def rounds_needed(
    numerator: Sequence[float],
    denominator: Sequence[float],
    bound: float,
    confidence: float = CONFIDENCE,
) -> int:
    """Return about how many rounds in all would decide between faster, slower and equal.

    The rounds after which the paired t interval of ``confidence`` is as narrow as the distance of
    the estimate from 1, or as ``bound`` where it is nearer, if estimate and spread stay as they
    are: the least n with t(n - 1) s / sqrt(n) <= distance. Needs two rounds.
    """
    from scipy import stats

    logs = _log_ratios(numerator, denominator)
    distance = max(abs(fmean(logs)), math.log1p(bound))
    level = (1 + confidence) / 2
    # Student's t is wider than the normal: its n is the same or larger by a few.
    count = max(math.ceil((NormalDist().inv_cdf(level) * stdev(logs) / distance) ** 2), 2)
    while stats.t.ppf(level, count - 1) * stdev(logs) / math.sqrt(count) > distance:
        count += 1
    return count


def is_stable(values: Sequence[float], *, window: int, bound: float) -> bool:
    """Whether the last ``window`` values spread by at most ``bound`` (relative IQR)."""
    return len(values) >= window and relative_iqr(values[-window:]) <= bound


def _log_ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    if len(numerator) != len(denominator) or not numerator:
        raise ValueError(f"{len(numerator)} and {len(denominator)} rounds cannot be paired")
    return [math.log(a / b) for a, b in zip(numerator, denominator, strict=True)]
