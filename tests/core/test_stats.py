"""Intervals are Student's of the within-round log-ratios, and cover as often as they say."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest
from scipy import stats

from perfkit.core.stats import Interval, is_stable, ratio_interval, relative_iqr, rounds_needed


def test_a_constant_ratio_is_found_exactly_however_much_the_rounds_drift() -> None:
    interval = ratio_interval([3.0, 30.0, 300.0], [2.0, 20.0, 200.0])
    assert interval == pytest.approx((1.5, 1.5, 1.5), rel=1e-12)


def test_two_rounds_by_hand() -> None:
    # Log-ratios ln 2 and ln 8: mean ln 4, standard error ln 2; t(0.975, 1) = 12.7062.
    interval = ratio_interval([2.0, 8.0], [1.0, 1.0])
    assert interval.estimate == pytest.approx(4.0)
    assert interval.low == pytest.approx(4.0 / 2**12.7062047, rel=1e-6)
    assert interval.high == pytest.approx(4.0 * 2**12.7062047, rel=1e-6)


def test_it_is_the_one_sample_t_interval_of_scipy() -> None:
    numerator, denominator = [1.1, 1.3, 0.9, 1.2, 1.6], [1.0, 1.1, 1.0, 0.9, 1.3]
    logs = [math.log(a / b) for a, b in zip(numerator, denominator, strict=True)]
    expected = stats.ttest_1samp(logs, 0.0).confidence_interval(0.95)
    interval = ratio_interval(numerator, denominator)
    assert interval.low == pytest.approx(math.exp(expected.low))
    assert interval.high == pytest.approx(math.exp(expected.high))


def test_the_ratio_the_other_way_round_has_the_interval_the_other_way_round() -> None:
    a, b = [1.0, 1.2, 0.9], [2.0, 2.1, 2.2]
    there, back = ratio_interval(a, b), ratio_interval(b, a)
    assert there == pytest.approx((1 / back.estimate, 1 / back.high, 1 / back.low))


def test_one_round_tells_nothing_of_the_spread() -> None:
    assert ratio_interval([3.0], [2.0]) == Interval(1.5, 0.0, math.inf)


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], []), ([1.0], [1.0, 2.0])])
def test_rounds_that_lack_a_value_cannot_be_paired(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        ratio_interval(a, b)


def drifting_run(rng: random.Random, rounds: int) -> tuple[list[float], list[float]]:
    """Return the costs of two cells whose true ratio is 1.1, on a machine that gets slower."""
    drift, ours, theirs = 0.0, [], []
    for _ in range(rounds):
        drift += rng.gauss(0.2, 0.3)  # log units: hundredfold what the cells vary by themselves
        ours.append(1.1 * math.exp(drift + rng.gauss(0.0, 0.01)))
        theirs.append(math.exp(drift + rng.gauss(0.0, 0.01)))
    return ours, theirs


def test_the_interval_covers_the_true_ratio_in_95_of_100_runs_on_a_drifting_machine() -> None:
    rng = random.Random(2026)
    intervals = [ratio_interval(*drifting_run(rng, rounds=6)) for _ in range(1000)]
    covered = sum(interval.low <= 1.1 <= interval.high for interval in intervals)
    assert 930 <= covered <= 970
    widths = [interval.high / interval.low for interval in intervals]
    assert statistics.median(widths) < 1.05  # the drift is not in it


def test_relative_iqr_by_hand() -> None:
    # Quartiles 2 and 4 of 1..5, median 3.
    assert relative_iqr([5.0, 1.0, 3.0, 2.0, 4.0]) == pytest.approx(2 / 3)
    assert relative_iqr([2.0, 2.0, 2.0]) == 0.0
    assert relative_iqr([2.0]) == math.inf


def test_only_the_last_window_has_to_be_stable() -> None:
    assert is_stable([9.0, 5.0, 1.0, 1.0, 1.0], window=3, bound=0.1)
    assert not is_stable([1.0, 1.0, 1.0, 5.0, 9.0], window=3, bound=0.1)
    assert not is_stable([1.0, 1.0], window=3, bound=0.1)


def test_the_bound_itself_is_stable() -> None:
    assert is_stable([1.0, 2.0, 3.0], window=3, bound=0.5)
    assert not is_stable([1.0, 2.0, 3.0], window=3, bound=0.499)


def test_the_rounds_needed_are_those_after_which_the_interval_leaves_1() -> None:
    generator = np.random.default_rng(11)
    logs = generator.normal(0.05, 0.2, size=4000)
    needed = rounds_needed(np.exp(logs).tolist(), [1.0] * len(logs), 0.02)
    assert needed == pytest.approx((1.96 * 0.2 / 0.05) ** 2, rel=0.2)
    decided = [
        ratio_interval(np.exp(draw).tolist(), [1.0] * needed).low > 1
        for draw in generator.normal(0.05, 0.2, size=(400, needed))
    ]
    assert 0.4 < np.mean(decided) < 0.6  # the estimate itself varies, so half of them decide


def test_a_ratio_nearer_to_1_than_the_bound_needs_the_rounds_of_the_bound() -> None:
    close = [1.001, 0.999, 1.003, 0.997]
    assert rounds_needed(close, [1.0] * 4, 0.02) == 1
    assert rounds_needed([1.1, 0.9, 1.1, 0.9], [1.0] * 4, 0.02) > 50
