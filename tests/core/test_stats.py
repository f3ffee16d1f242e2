"""Intervals are Student's of the within-round log-ratios, and cover as often as they say."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from perfkit.core.stats import (
    Interval,
    drift,
    is_stable,
    outliers,
    quartiles,
    ratio_interval,
    relative_iqr,
    rounds_needed,
    unpaired_ratio_interval,
    unpaired_verdicts,
    verdicts,
)


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


def sweep_costs(
    generator: np.random.Generator, *gains: float, rounds: int = 6
) -> list[list[float]]:
    """Return the costs of cells on a bad machine: one list a cell, a value a round.

    In every round the cells take turns in an order of its own. A turn's noise is 2 % and remembers
    the one before (autocorrelation 0.6), 1 % more comes in rare long waits (skewed), and the
    whole machine moves by 20 % from round to round.
    """
    turns = rounds * len(gains)
    noise, remembered = np.zeros(turns), 0.0
    for turn, fresh in enumerate(generator.standard_normal(turns)):
        remembered = 0.6 * remembered + 0.8 * fresh
        noise[turn] = 0.02 * remembered
    noise += generator.exponential(0.01, turns)
    machine = np.cumsum(generator.normal(0.0, 0.2, rounds))
    costs: list[list[float]] = [[] for _ in gains]
    for index in range(rounds):
        order = generator.permutation(len(gains))
        for turn, cell in enumerate(order, start=index * len(gains)):
            costs[cell].append(float(np.exp(machine[index] + noise[turn])) / gains[cell])
    return costs


def test_an_interval_covers_the_truth_in_95_of_100_sweeps_on_a_bad_machine() -> None:
    generator = np.random.default_rng(2026)
    covered, paired, unpaired = 0, [], []
    for index in range(1000):
        ours, theirs, *_ = sweep_costs(generator, 1.1, 1.0, 0.7, 1.9)
        interval = ratio_interval(theirs, ours)
        covered += interval.low <= 1.1 <= interval.high
        paired.append(math.log(interval.high / interval.low))
        if index < 100:
            apart = unpaired_ratio_interval(theirs, ours)
            unpaired.append(math.log(apart.high / apart.low))
    assert 930 <= covered <= 970
    assert statistics.median(unpaired) > 5 * statistics.median(paired)


@pytest.mark.parametrize(("values", "least", "most"), [(6, 0.86, 0.94), (20, 0.91, 0.98)])
def test_the_unpaired_interval_covers_as_often_as_its_docstring_says(
    values: int, least: float, most: float
) -> None:
    generator = np.random.default_rng(7)

    def side(gain: float) -> list[float]:
        logs = generator.normal(0.0, 0.1, values) + generator.exponential(0.05, values)
        return [float(cost) for cost in np.exp(logs) / gain]

    intervals = [unpaired_ratio_interval(side(1.0), side(1.1), seed=index) for index in range(400)]
    covered = np.mean([interval.low <= 1.1 <= interval.high for interval in intervals])
    assert least <= covered <= most


def test_the_unpaired_ratio_is_that_of_the_geometric_means() -> None:
    interval = unpaired_ratio_interval([2.0, 8.0, 4.0], [1.0, 4.0])
    assert interval.estimate == pytest.approx(2.0)
    assert interval.low < 2.0 < interval.high


def test_a_single_value_has_an_unpaired_ratio_and_no_interval() -> None:
    assert unpaired_ratio_interval([3.0], [2.0, 2.0]) == (pytest.approx(1.5), 0.0, math.inf)
    assert unpaired_ratio_interval([3.0, 3.0], [2.0, 2.0]) == pytest.approx((1.5, 1.5, 1.5))
    with pytest.raises(ValueError, match="have no ratio"):
        unpaired_ratio_interval([], [1.0])


@pytest.mark.parametrize(
    ("gain", "spread", "word"),
    [
        (1.10, 0.010, "faster"),
        (0.90, 0.010, "slower"),
        (1.00, 0.005, "equal"),
        (1.01, 0.001, "equal"),  # for sure not 1, and too little to matter
        (1.03, 0.100, "undecided"),
    ],
)
def test_one_comparison_is_what_its_interval_says(gain: float, spread: float, word: str) -> None:
    noise = [-1.0, 0.5, 1.0, -0.5, 0.25, -0.25]
    other = [gain * math.exp(spread * value) for value in noise]
    (verdict,) = verdicts([(other, [1.0] * len(noise))])
    assert verdict.word == word
    assert verdict.gain == ratio_interval(other, [1.0] * len(noise))
    assert (verdict.more_rounds is not None) == (word == "undecided")


def test_costs_without_any_spread_are_decided() -> None:
    words = [verdicts([([gain] * 3, [1.0] * 3)])[0].word for gain in (1.0, 1.5, 0.5)]
    assert words == ["equal", "faster", "slower"]


def test_one_round_decides_nothing() -> None:
    assert verdicts([([2.0], [1.0])])[0].word == "undecided"
    assert verdicts([]) == []


def test_a_difference_seen_alone_may_be_chance_among_twenty() -> None:
    noise = np.array([-1.0, 0.5, 1.0, -0.5, 0.25, -0.25])
    barely = (list(np.exp(0.03 + 0.03 * noise)), [1.0] * 6)  # p = 0.02 of "differs"
    p_value = stats.ttest_1samp(0.03 + 0.03 * noise, 0.0).pvalue
    assert 0.01 < p_value < 0.05
    wide = (list(np.exp(0.5 * noise)), [1.0] * 6)
    assert verdicts([barely])[0].word == "faster"
    assert verdicts([barely, *[wide] * 19])[0].word == "undecided"


def test_holms_steps_let_the_clear_ones_make_room_for_the_others() -> None:
    noise = np.array([-1.0, 0.5, 1.0, -0.5, 0.25, -0.25])
    barely = (list(np.exp(0.03 + 0.03 * noise)), [1.0] * 6)
    clear = (list(np.exp(0.5 + 0.01 * noise)), [1.0] * 6)
    # Bonferroni would ask 0.05 / 20 of all; after 19 clear ones 0.05 is left for the last.
    assert [v.word for v in verdicts([barely, *[clear] * 19])] == ["faster"] * 20


def test_a_sweep_without_differences_claims_one_in_fewer_than_5_of_100() -> None:
    generator = np.random.default_rng(41)
    wrong = 0
    for _ in range(400):
        base, *others = sweep_costs(generator, *[1.0] * 8)
        wrong += any(v.word in ("faster", "slower") for v in verdicts([(base, o) for o in others]))
    assert wrong / 400 < 0.05


def test_a_clear_difference_is_found_in_most_sweeps() -> None:
    generator = np.random.default_rng(43)
    words = []
    for _ in range(100):
        base, *others = sweep_costs(generator, 1.0, 1.2, *[1.0] * 6)
        words.append(verdicts([(base, other) for other in others])[0].word)
    assert words.count("faster") > 90
    assert "slower" not in words


def test_quartiles_are_those_of_numpy() -> None:
    values = [5.0, 1.0, 3.5, 2.0, 4.0, 9.0]
    assert quartiles(values) == pytest.approx(np.quantile(values, [0.25, 0.5, 0.75]))
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)


def test_an_outlier_is_flagged_by_its_modified_z_score() -> None:
    # Logs 0 .. 4 and 20: median 2.5, deviations' median 1.5; 0.6745 x 17.5 / 1.5 = 7.9 > 3.5.
    assert outliers([math.exp(value) for value in (0, 1, 2, 3, 4, 20)]) == [5]
    assert outliers([math.exp(value) for value in (0, 1, 2, 3, 4, 9)]) == []  # 2.9


def test_where_most_costs_are_the_same_one_that_differs_much_is_flagged() -> None:
    assert outliers([1.0] * 9 + [3.0]) == [9]
    assert outliers([2.0] * 5) == []


def test_drift_is_found_by_rank_and_sized_by_the_median_slope() -> None:
    generator = np.random.default_rng(3)
    trend = np.linspace(0.0, math.log(1.2), 20) + generator.normal(0.0, 0.02, 20)
    found = drift([float(cost) for cost in np.exp(trend)])
    assert found.factor == pytest.approx(1.2, abs=0.03)
    assert found.p_value == pytest.approx(stats.kendalltau(range(20), trend).pvalue)
    assert found.p_value < 1e-6


def test_noise_is_called_drift_as_often_as_the_level_says() -> None:
    generator = np.random.default_rng(4)
    draws = [drift([float(x) for x in np.exp(generator.normal(0, 0.1, 12))]) for _ in range(1000)]
    assert 0.03 < np.mean([found.p_value < 0.05 for found in draws]) < 0.07
    assert drift([2.0, 2.0, 2.0]) == (1.0, 1.0)


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


def test_among_many_undecided_ones_more_rounds_are_needed_than_for_one_alone() -> None:
    noise = np.array([-1.0, 0.5, 1.0, -0.5, 0.25, -0.25])
    unclear = (list(np.exp(0.05 + 0.2 * noise)), [1.0] * 6)
    alone, among = verdicts([unclear])[0].more_rounds, verdicts([unclear] * 10)[0].more_rounds
    corrected = rounds_needed(*unclear, 0.02, confidence=1 - 0.05 / 10)
    assert alone == rounds_needed(*unclear, 0.02) - 6
    assert among == corrected - 6
    assert among > 1.5 * (alone or 0)


def test_a_ratio_nearer_to_1_than_the_bound_needs_the_rounds_of_the_bound() -> None:
    close = [1.001, 0.999, 1.003, 0.997]
    assert rounds_needed(close, [1.0] * 4, 0.02) == 3  # t(2) = 4.3 of 0.25 % over sqrt(3)
    assert rounds_needed([1.1, 0.9, 1.1, 0.9], [1.0] * 4, 0.02) > 50


def test_an_unpaired_verdict_is_welchs_test_of_the_logarithms() -> None:
    generator = np.random.default_rng(3)
    for gain in (0.9, 0.97, 1.03, 1.1):
        ours = [float(x) for x in np.exp(generator.normal(0, 0.02, 6)) / gain]
        theirs = [float(x) for x in np.exp(generator.normal(0, 0.04, 9))]
        p_value = stats.ttest_ind(np.log(ours), np.log(theirs), equal_var=False).pvalue
        (verdict,) = unpaired_verdicts([(theirs, ours)])
        assert (verdict.word in {"faster", "slower"}) == (p_value < 0.05)
        interval = stats.ttest_ind(
            np.log(theirs), np.log(ours), equal_var=False
        ).confidence_interval()
        assert verdict.gain.low == pytest.approx(math.exp(interval.low))
        assert verdict.gain.high == pytest.approx(math.exp(interval.high))


def test_unpaired_verdicts_of_the_same_claim_a_difference_in_about_5_of_100() -> None:
    generator = np.random.default_rng(4)
    claimed = 0
    for _ in range(300):
        cells = [np.exp(generator.normal(0, 0.05, (2, 6))).tolist() for _ in range(4)]
        words = [verdict.word for verdict in unpaired_verdicts([(a, b) for a, b in cells])]
        claimed += any(word in {"faster", "slower"} for word in words)
    assert 0.02 < claimed / 300 < 0.08


@pytest.mark.parametrize(
    ("other", "ours", "word"),
    [
        ([2.0, 2.0], [1.0, 1.0], "faster"),
        ([1.0, 1.0], [1.0, 1.0], "equal"),
        ([1.0, 1.0], [1.0, 2.0], "undecided"),
        ([1.0, 1.001], [2.0, 2.0], "slower"),
        ([1.0], [2.0, 2.0], "undecided"),
    ],
)
def test_few_values_and_none_that_differ_are_no_trouble(
    other: list[float], ours: list[float], word: str
) -> None:
    (verdict,) = unpaired_verdicts([(other, ours)])
    assert verdict.word == word
    assert not any(math.isnan(value) for value in verdict.gain)
