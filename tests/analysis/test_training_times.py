"""How long a training took, by sums done by hand."""

from __future__ import annotations

import pytest
from records import a_training

from perfkit.analysis.training import best_epoch, time_to_best_s, time_to_train_s
from perfkit.core.training_result import TrainingResult


def of(losses: list[float]) -> TrainingResult:
    training = a_training(losses).training  # epoch k took 4 + k s
    assert training is not None
    return training


def test_the_time_to_train_is_that_of_all_epochs_with_their_validation() -> None:
    assert time_to_train_s(of([0.5])) == pytest.approx(5.0)
    assert time_to_train_s(of([0.5, 0.2, 0.4])) == pytest.approx(5 + 6 + 7)


@pytest.mark.parametrize(
    ("losses", "best", "seconds"),
    [([0.1, 0.2, 0.3], 1, 5.0), ([0.5, 0.2, 0.4], 2, 11.0), ([0.3, 0.2, 0.1], 3, 18.0)],
)
def test_the_time_to_the_best_epoch_ends_with_it(
    losses: list[float], best: int, seconds: float
) -> None:
    training = of(losses)
    assert best_epoch(training).epoch == best
    assert best_epoch(training).validation.loss == min(losses)
    assert time_to_best_s(training) == pytest.approx(seconds)
