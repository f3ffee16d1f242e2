"""The metrics of a classifier are those of torchmetrics, also where a class is missing."""

from __future__ import annotations

from typing import Any

import oracle
import pytest
import torch
from tiny import Tiny
from torch import Tensor

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.engine.metrics import area_under_curve, classification_metrics, metrics_of


def check(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Hold the metrics against the reference's and return them."""
    found, confusion = classification_metrics(outputs, targets)
    expected, matrix = oracle.classification_metrics(outputs, targets)
    # torchmetrics adds up in float32.
    assert found == pytest.approx(expected, abs=1e-6)
    assert confusion == matrix
    return found


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("samples", [1, 2, 17, 400])
def test_random_outputs_have_the_metrics_of_torchmetrics(classes: int, samples: int) -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        outputs = 3 * torch.randn(samples, classes, generator=generator)
        targets = torch.randint(classes, (samples,), generator=generator)
        check(outputs, targets)


@pytest.mark.parametrize("classes", [2, 4])
def test_tied_outputs_count_half_and_are_called_the_first_class(classes: int) -> None:
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(classes, (60,), generator=generator)
    check(torch.randint(3, (60, classes), generator=generator).float(), targets)
    found = check(torch.zeros(60, classes), targets)
    assert found["auc"] == 0.5
    assert found["accuracy"] == pytest.approx(float((targets == 0).float().mean()))


@pytest.mark.parametrize("only", [0, 1])
def test_of_one_class_alone_there_is_no_auc_and_the_rest_is_that_of_torchmetrics(
    only: int,
) -> None:
    outputs = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]])
    found = check(outputs, torch.full((3,), only))
    assert set(found) == {"accuracy", "precision", "recall", "f1"}


def test_a_precision_of_no_prediction_is_0() -> None:
    outputs = torch.tensor([[2.0, 1.0], [2.0, 0.0], [3.0, 1.0]])
    found = check(outputs, torch.tensor([0, 1, 1]))
    assert (found["precision"], found["recall"], found["f1"]) == (0, 0, 0)


def test_classes_that_occur_nowhere_do_not_pull_the_means_down() -> None:
    outputs = torch.eye(5)[torch.tensor([0, 0, 1, 3])]
    found = check(outputs, torch.tensor([0, 0, 1, 1]))  # 2 and 4 occur nowhere, 3 is only called
    assert found["precision"] == pytest.approx((1 + 1 + 0) / 3)
    assert found["recall"] == pytest.approx((1 + 0.5 + 0) / 3)


def test_the_auc_is_the_mean_over_the_classes_that_have_one() -> None:
    """torchmetrics takes 0 for the area of a class without samples, which would be called bad."""
    outputs = torch.tensor([[5.0, 1.0, 0.0], [1.0, 5.0, 0.0], [4.0, 1.0, 0.0], [1.0, 4.0, 0.0]])
    assert check(outputs, torch.tensor([0, 1, 0, 1]))["auc"] == 1


def test_outputs_so_large_that_a_softmax_is_0_or_1_still_have_an_order() -> None:
    scores = torch.tensor([100.0, 200.0, 300.0, 400.0])
    outputs = torch.stack([torch.zeros(4), scores], 1)
    assert outputs.softmax(1)[:, 1].unique().numel() == 1
    found, _ = classification_metrics(outputs, torch.tensor([0, 1, 0, 1]))
    assert found["auc"] == 0.75


def test_the_confusion_matrix_has_true_classes_as_rows() -> None:
    outputs = torch.eye(3)[torch.tensor([1, 1, 2])]
    _, confusion = classification_metrics(outputs, torch.tensor([0, 0, 2]))
    assert confusion == [[0, 2, 0], [0, 0, 0], [0, 0, 1]]


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randint(5, (40,), generator=generator).double()
    positive = torch.rand(40, generator=generator) < 0.3
    higher = scores[positive][:, None] - scores[~positive]
    by_hand = ((higher > 0).double() + 0.5 * (higher == 0)).mean()
    found = area_under_curve(scores.numpy(), positive.numpy())
    assert found == pytest.approx(float(by_hand))


class Own(Tiny):
    returned: Any = None

    def metrics(self, outputs: Tensor, targets: Tensor) -> Any:
        return self.returned


def of(returned: Any) -> Own:
    workload = Own(RunConfig())
    workload.returned = returned
    return workload


OUTPUTS, TARGETS = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1])


def test_the_workloads_own_metrics_win_and_what_is_not_finite_is_left_out() -> None:
    own = of({"dice": torch.tensor(0.5), "iou": float("nan"), "area": 3, "ratio": float("inf")})
    assert metrics_of(own, OUTPUTS, TARGETS) == ({"dice": 0.5, "area": 3.0}, [])


@pytest.mark.parametrize("returned", [0.5, None, {"dice": None}, {"dice": torch.ones(2)}, ["dice"]])
def test_metrics_that_are_no_numbers_by_name_are_refused_in_one_line(returned: Any) -> None:
    with pytest.raises(PerfkitError, match="have to return a dict of numbers by name") as refusal:
        metrics_of(of(returned), OUTPUTS, TARGETS)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (OUTPUTS, torch.tensor([0.5, 1.0])),  # a target that is no class
        (OUTPUTS, torch.tensor([[0, 1], [1, 1]])),  # several classes a sample
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)),  # a class for each pixel
        (torch.zeros(2), torch.tensor([0, 1])),
        (torch.zeros(2, 1), torch.tensor([0, 1])),  # a single logit
    ],
)
def test_what_is_no_classifier_has_its_loss_alone(outputs: Tensor, targets: Tensor) -> None:
    assert metrics_of(Tiny(RunConfig()), outputs, targets) == ({}, [])
    assert set(metrics_of(Tiny(RunConfig()), OUTPUTS, TARGETS)[0]) >= {"accuracy", "f1"}


@pytest.mark.parametrize("name", ["loss", "samples"])
def test_a_metric_of_ones_own_cannot_take_a_name_that_perfkit_has(name: str) -> None:
    class Own:
        def metrics(self, outputs: Any, targets: Any) -> dict[str, float]:
            return {name: 1.0}

    with pytest.raises(PerfkitError, match=f"metrics have a '{name}'"):
        metrics_of(Own(), torch.zeros(2, 2), torch.zeros(2))  # type: ignore[arg-type]


@pytest.mark.parametrize("targets", [[0, 3], [-1, 0]])
def test_targets_that_are_no_class_are_refused(targets: list[int]) -> None:
    with pytest.raises(PerfkitError, match="classes have to be numbered from 0 to 2"):
        classification_metrics(torch.zeros(2, 3), torch.tensor(targets))
