"""Fits find the parameters that a curve was made with, and refuse curves that say nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from perfkit.analysis.scaling import amdahl, karp_flatt, usl, usl_peak, why_no_fit

COUNTS = [1, 2, 4, 8, 16, 32]

# Minutes of ten epochs of the published glaucoma system on as many CPU workers.
PUBLISHED = {1: 756.0, 2: 383.4, 4: 213.2, 8: 115.4, 16: 71.8, 24: 64.5, 32: 62.3}


def amdahl_seconds(p: float) -> list[float]:
    return [100 * ((1 - p) + p / n) for n in COUNTS]


def usl_rates(sigma: float, kappa: float) -> list[float]:
    return [7 * n / (1 + sigma * (n - 1) + kappa * n * (n - 1)) for n in COUNTS]


def noisy(values: list[float], generator: np.random.Generator) -> list[float]:
    return [value * math.exp(generator.normal(0.0, 0.02)) for value in values]


@pytest.mark.parametrize("p", [0.5, 0.9, 0.97, 0.999])
def test_amdahls_law_is_recovered(p: float) -> None:
    fit = amdahl(COUNTS, amdahl_seconds(p))
    assert fit.parameters["p"].estimate == pytest.approx(p, abs=1e-4)
    assert fit.parameters["t1"].estimate == pytest.approx(100, rel=1e-3)
    assert fit.residuals == pytest.approx([0.0] * len(COUNTS), abs=1e-3)


@pytest.mark.parametrize(("sigma", "kappa"), [(0.05, 0.002), (0.2, 0.0005), (0.01, 0.01)])
def test_the_scalability_law_is_recovered(sigma: float, kappa: float) -> None:
    fit = usl(COUNTS, usl_rates(sigma, kappa))
    assert fit.parameters["sigma"].estimate == pytest.approx(sigma, rel=1e-3)
    assert fit.parameters["kappa"].estimate == pytest.approx(kappa, rel=1e-3)
    assert fit.parameters["lambda"].estimate == pytest.approx(7, rel=1e-3)
    assert usl_peak(fit) == pytest.approx(math.sqrt((1 - sigma) / kappa), rel=1e-3)


def test_intervals_of_the_fits_cover_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(8)
    covered = {"p": 0, "sigma": 0}
    for _ in range(200):
        p = amdahl(COUNTS, noisy(amdahl_seconds(0.97), generator)).parameters["p"]
        covered["p"] += p.low <= 0.97 <= p.high
        sigma = usl(COUNTS, noisy(usl_rates(0.1, 0.003), generator)).parameters["sigma"]
        covered["sigma"] += sigma.low <= 0.1 <= sigma.high
    assert 0.9 < covered["p"] / 200 < 0.99
    assert 0.9 < covered["sigma"] / 200 < 0.99


def test_linear_scaling_has_no_peak_and_stays_within_the_bounds() -> None:
    fit = usl(COUNTS, [3.0 * n for n in COUNTS])
    assert fit.parameters["kappa"].low == 0
    assert fit.parameters["sigma"].estimate < 1e-3
    assert usl_peak(fit) > 1000
    assert amdahl(COUNTS, [96 / n for n in COUNTS]).parameters["p"].high == 1


def test_the_published_curve_of_the_glaucoma_system() -> None:
    counts, minutes = list(PUBLISHED), list(PUBLISHED.values())
    law = usl(counts, [1 / time for time in minutes])
    assert law.parameters["sigma"].estimate == pytest.approx(0.0209, abs=0.0005)
    assert 30 < usl_peak(law) < 34  # more workers than the 32 that were tried pay nothing
    assert max(map(abs, law.residuals)) < 0.04
    p = amdahl(counts, minutes).parameters["p"]
    assert p.low < 0.951 < p.high
    # It is overhead, not serial code, that ends the scaling: Amdahl's residuals say so too.
    serial = {n: karp_flatt(PUBLISHED[1] / PUBLISHED[n], n) for n in (8, 16, 32)}
    assert serial[8] < serial[16] < serial[32]
    assert max(map(abs, amdahl(counts, minutes).residuals)) > 0.08


def test_the_serial_fraction_of_amdahls_curve_is_its_own() -> None:
    for n in (2, 4, 64):
        assert karp_flatt(1 / (0.1 + 0.9 / n), n) == pytest.approx(0.1)
    assert karp_flatt(2.0, 2) == 0
    with pytest.raises(ValueError, match="two are the least"):
        karp_flatt(1.0, 1)


@pytest.mark.parametrize("counts", [[1, 2], [1, 2, 4], [1, 1, 2, 2, 4, 4], [2]])
def test_fewer_than_four_distinct_counts_are_refused_in_a_sentence(counts: list[int]) -> None:
    reason = why_no_fit(counts)
    assert reason is not None
    assert f"{len(set(counts))}" in reason
    for fit in (amdahl, usl):
        with pytest.raises(ValueError, match="takes 4 distinct counts"):
            fit(counts, [1.0] * len(counts))
    assert why_no_fit(COUNTS) is None
