"""A training in this process: which epoch is the best, when it stops, what ends it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
import torch.nn.functional as F
import trainable
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import Dataset, Subset
from trainings import train_here

from perfkit.core.config import RunConfig
from perfkit.core.record import Record, read_record
from perfkit.core.training_result import TrainingResult
from perfkit.engine import start, train_run

SHORT = ("--global-batch", "8", "--threads", "1", "--name", "run")
RUN = Path("runs/run")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def trained(workload: str, *flags: str) -> tuple[Record, TrainingResult]:
    assert train_here("--workload", workload, *SHORT, *flags) == 0
    record = read_record(RUN)
    assert record.training is not None
    return record, record.training


def refused(capsys: pytest.CaptureFixture[str], workload: str, *flags: str) -> str:
    """Return the one line with which a training ended."""
    assert train_here("--workload", workload, *SHORT, *flags) == 2
    told = capsys.readouterr().err
    (line,) = [line for line in told.splitlines() if line.startswith("perfkit: error: ")]
    assert "Traceback" not in told
    return line.removeprefix("perfkit: error: ")


class Improving(trainable.Stuck):
    """Learns slowly enough for every epoch to be better than the one before."""

    def optimizer(self, model: nn.Module) -> Optimizer:
        return SGD(model.parameters(), lr=1e-3)


class Worsening(trainable.Stuck):
    """Climbs the loss: every epoch is worse than the one before."""

    def optimizer(self, model: nn.Module) -> Optimizer:
        return SGD(model.parameters(), lr=0.05, maximize=True)


class Untested(trainable.ThreeClasses):
    def dataset(self, split: str) -> Dataset[tuple[Tensor, ...]]:
        whole = super().dataset(split)
        return Subset(whole, []) if split == "test" else whole


class SingleLogit(trainable.ThreeClasses):
    """Says yes or no with one number."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(tiny.FEATURES, 1))

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        wanted = (targets > 0).to(outputs.dtype)
        losses = F.binary_cross_entropy_with_logits(outputs[:, 0], wanted, reduction="none")
        return losses, torch.ones_like(losses)


class Overflowing(trainable.ThreeClasses):
    """Its gradients overflow in fp16 until the scale is small enough."""

    steepness = 1e3

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        losses, weights = super().loss(outputs, targets)
        return self.steepness * losses, weights

    def optimizer(self, model: nn.Module) -> Optimizer:
        return SGD(model.parameters(), lr=1e-6)


class Hopeless(Overflowing):
    steepness = 1e30


def test_patience_counts_epochs_in_a_row_without_a_better_one() -> None:
    record, training = trained("trainable:Stuck", "--epochs", "9", "--patience", "2")
    assert (training.end, record.status) == ("early stopping", "complete")
    assert (len(training.epochs), training.best_epoch) == (3, 1)
    assert training.test is not None


def test_a_training_that_improves_is_not_stopped() -> None:
    record, training = trained("test_train_run:Improving", "--epochs", "4", "--patience", "1")
    assert (training.end, training.best_epoch, len(training.epochs)) == ("all epochs", 4, 4)
    assert record.status == "complete"


def test_the_test_set_is_for_the_best_model_and_not_for_the_last() -> None:
    record, training = trained("test_train_run:Worsening", "--epochs", "3")
    assert training.best_epoch == 1
    best, last = (torch.load(RUN / "checkpoints" / name) for name in ("best.pt", "last.pt"))
    assert (best["epoch"], last["epoch"]) == (1, 3)
    workload = Worsening(RunConfig())
    model = workload.model()
    dataset = workload.dataset("test")
    inputs, targets = workload.collate([dataset[index] for index in range(7)], None)
    losses = []
    for state in (best, last):
        model.load_state_dict(state["model"])
        with torch.no_grad():
            loss = F.cross_entropy(model(inputs), targets, weight=workload._weights)
        losses.append(float(loss))
    assert training.test is not None
    assert training.test.loss == pytest.approx(losses[0])
    assert losses[0] != pytest.approx(losses[1])
    assert record.training == training


@pytest.mark.parametrize("monitor", ["loss", "accuracy", "auc", "f1"])
def test_the_best_epoch_is_the_earliest_of_the_best_by_what_is_monitored(monitor: str) -> None:
    _, training = trained("trainable:ThreeClasses", "--epochs", "6", "--monitor", monitor)
    values = [
        -epoch.validation.loss if monitor == "loss" else epoch.validation.metrics[monitor]
        for epoch in training.epochs
    ]
    assert training.monitor == monitor
    assert training.best_epoch == 1 + values.index(max(values))
    assert torch.load(RUN / "checkpoints" / "best.pt")["epoch"] == training.best_epoch


def test_what_the_validation_set_does_not_have_cannot_be_monitored(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refused(capsys, "trainable:Regression", "--epochs", "2", "--monitor", "auc") == (
        "--monitor auc: the validation set has none; it has loss, mean absolute error"
    )
    assert not RUN.exists()


def test_a_workload_that_is_no_classifier_trains_with_metrics_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, training = trained("trainable:Regression", "--epochs", "2")
    assert training.test is not None
    assert set(training.test.metrics) == {"mean absolute error"}
    assert training.test.confusion == []
    told = capsys.readouterr()
    assert "mean absolute error" in told.out
    assert "mean absolute error" in told.err


def test_a_workload_with_a_single_logit_trains_by_its_loss() -> None:
    _, training = trained("test_train_run:SingleLogit", "--epochs", "1")
    assert training.epochs[0].validation.metrics == {}


def test_a_split_without_samples_is_refused_before_anything_is_trained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = refused(capsys, "test_train_run:Untested", "--epochs", "2")
    assert told == "the workload's 'test' set is empty; training needs one"
    assert not RUN.exists()


def test_a_loss_that_is_not_finite_ends_it_with_the_step_and_the_last_checkpoint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = refused(capsys, "trainable:Diverging", "--epochs", "3")
    assert told.startswith("the loss is not finite at step 1 of 6 in epoch 2: ")
    assert f"the last good checkpoint is {RUN}/checkpoints/last.pt, of epoch 1; " in told
    assert torch.load(RUN / "checkpoints" / "last.pt")["epoch"] == 1
    record = read_record(RUN)
    assert record.training is not None
    assert (record.status, record.training.end) == ("incomplete", "interrupted")
    assert len(record.training.epochs) == 1
    assert len((RUN / "metrics.csv").read_text().splitlines()) == 2


def test_before_an_epoch_has_ended_there_is_no_checkpoint_and_no_folder_stays(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = refused(capsys, "trainable:DivergingAtOnce", "--epochs", "3")
    assert told.startswith("the loss is not finite at step 2 of 6 in epoch 1: ")
    assert "no epoch had ended, so there is no checkpoint" in told
    assert not RUN.exists()


def test_parameters_that_the_last_step_spoilt_are_found_by_validation_and_not_saved(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = refused(capsys, "trainable:DivergingInItsLastStep", "--epochs", "3")
    assert told.startswith("the loss is not finite on the validation set after epoch 1: ")
    assert not RUN.exists()


def test_a_model_that_switches_autocast_off_is_no_run_in_bf16(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ("--epochs", "1", "--precision", "bf16")
    told = refused(capsys, "trainable:Float32Inside", *flags)
    assert told.startswith("--precision bf16: no matrix product or convolution of the first")
    assert "(seen: 3 in torch.float32)" in told
    assert not RUN.exists()


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_tf32_and_fp16_are_refused_by_name_on_a_cpu(
    precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(capsys, "trainable:ThreeClasses", "--precision", precision)
    assert told.startswith(f"--precision {precision}: ")
    assert "CPU" in told
    assert told.endswith("use fp32 or bf16")
    assert not RUN.exists()


@pytest.fixture
def _fp16_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 is refused there for its slowness alone."""
    monkeypatch.setattr(start, "why_not", lambda *_: None)


@pytest.mark.usefixtures("_fp16_on_a_cpu")
def test_steps_that_fp16_skips_are_counted_and_the_schedule_does_not_see_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    workload = "test_train_run:Overflowing"
    record, training = trained(workload, "--epochs", "3", "--precision", "fp16")
    (cell,) = record.cells
    skipped = [[step.skipped for step in block.steps] for block in cell.blocks]
    counts = [epoch.skipped_steps for epoch in training.epochs]
    assert counts == [sum(block) for block in skipped]
    assert 0 < sum(counts) < 18
    assert training.epochs[-1].loss_scale == 2.0 ** (16 - sum(counts))
    taken = [sum(not step for block in skipped[:k] for step in block) for k in range(3)]
    # The schedule counts six steps an epoch, and only those that changed the parameters.
    rates = [1e-6 * 0.7 ** (count // 6) for count in taken]
    assert [epoch.learning_rate for epoch in training.epochs] == pytest.approx(rates)
    assert cell.product_dtypes == [{"torch.float16": 3}]
    assert any(f"skipped {sum(counts)} timed steps" in taint for taint in record.taints)
    told = capsys.readouterr().out
    assert f"{sum(counts)} steps skipped by the gradient scaler" in told


@pytest.mark.usefixtures("_fp16_on_a_cpu")
def test_gradients_that_overflow_at_any_scale_end_the_training(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ("--epochs", "9", "--precision", "fp16")
    told = refused(capsys, "test_train_run:Hopeless", *flags)
    assert told.startswith("the gradient scaler skipped 25 steps in a row, up to step ")
    assert "gradients overflow in fp16 at any scale" in told
    assert told.endswith("use --precision bf16 or fp32")


def test_of_a_long_epoch_some_steps_are_kept_and_all_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train_run, "MOST_SAMPLES", 2)
    record, _ = trained("trainable:ThreeClasses", "--epochs", "2")
    for block in record.cells[0].blocks:
        assert (len(block.steps), block.taken, block.step_count) == (2, 6, 6)
