"""``perfkit train`` from the outside: what it leaves, how it goes on, how it ends."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import oracle
import psutil
import pytest
import torch
import torch.nn.functional as F
import trainable
from PIL import Image
from trainings import finish, flattened, start, train_here

from perfkit.analysis.training import time_to_best_s, time_to_train_s
from perfkit.core.config import RunConfig, TrainConfig
from perfkit.core.record import Record, read_record
from perfkit.core.training_result import Evaluation, TrainingResult

EPOCHS, STEPS = 3, 6  # 48 samples in global batches of 8
TRAINING = (
    *("--workload", "trainable:ThreeClasses", "--global-batch", "8", "--threads", "1"),
    *("--epochs", str(EPOCHS), "--deterministic"),
)
DDP = (*TRAINING, "--strategy", "ddp", "--gpus", "2")
TIMES = {"train_s", "evaluate_s"}


class Done(NamedTuple):
    """A training that came to its end."""

    folder: Path
    record: Record
    out: str
    err: str

    @property
    def training(self) -> TrainingResult:
        assert self.record.training is not None
        return self.record.training

    @property
    def history(self) -> list[dict[str, str]]:
        """Every column of metrics.csv but the times."""
        with (self.folder / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [{name: row[name] for name in row if name not in TIMES} for row in rows]

    def checkpoint(self, name: str) -> dict[str, Any]:
        return dict(torch.load(self.folder / "checkpoints" / name, weights_only=True))


def trained(*flags: str, name: str, cwd: Path, resume: bool = False) -> Done:
    named = ("--resume", f"runs/{name}") if resume else ("--name", name)
    code, out, err = finish(start(*flags, *named, cwd=cwd))
    assert code == 0, err
    return Done(cwd / "runs" / name, read_record(cwd / "runs" / name), out, err)


def stopped(
    *flags: str, name: str, cwd: Path, batch: int, by: signal.Signals
) -> tuple[subprocess.Popen[str], str]:
    """Start a training, stop it while it loads a training batch; return it and its stderr."""
    process = start(*flags, "--name", name, cwd=cwd, **{trainable.STOP_AT: str(batch)})
    deadline = time.monotonic() + 120
    while not (cwd / trainable.REACHED).exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    everybody = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(by)
    _, err = process.communicate(timeout=30)
    while any(map(is_alive, everybody)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (cwd / trainable.REACHED).unlink()  # only now: the other rank may have been late
    return process, err


def is_alive(process: psutil.Process) -> bool:
    """Whether it is more than an orphan that nobody reaps."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def serial(folder: Path) -> Done:
    return trained(*TRAINING, name="serial", cwd=folder)


@pytest.fixture(scope="module")
def ddp(folder: Path) -> Done:
    """Two ranks, which share neither the validation nor the test set evenly."""
    return trained(*DDP, name="ddp", cwd=folder)


def test_the_record_holds_a_whole_training(serial: Done) -> None:
    record, training = serial.record, serial.training
    assert (record.kind, record.status) == ("training", "complete")
    assert isinstance(record.config, TrainConfig)
    assert [epoch.epoch for epoch in training.epochs] == [1, 2, 3]
    assert (training.end, training.resumed_after) == ("all epochs", [])
    losses = [epoch.validation.loss for epoch in training.epochs]
    assert training.best_epoch == 1 + losses.index(min(losses))
    assert [epoch.learning_rate for epoch in training.epochs] == pytest.approx([0.1, 0.07, 0.049])
    assert [epoch.validation.samples for epoch in training.epochs] == [13] * 3
    assert training.test is not None
    assert (training.test.split, training.test.samples) == ("test", 7)
    assert set(training.test.metrics) == {"accuracy", "auc", "precision", "recall", "f1"}


def test_what_it_took_is_in_the_record_too(serial: Done) -> None:
    (cell,) = serial.record.cells
    assert [(block.round, block.step_count) for block in cell.blocks] == [
        (0, STEPS),
        (1, STEPS),
        (2, STEPS),
    ]
    for block, epoch in zip(cell.blocks, serial.training.epochs, strict=True):
        assert sum(step.host_s for step in block.steps) <= block.wall_s == epoch.train_s
        losses = [step.loss or 0.0 for step in block.steps]
        assert epoch.train_loss == pytest.approx(sum(losses) / STEPS)
    assert len(cell.load) == EPOCHS
    assert cell.memory[0].cpu_peak_mib
    assert cell.time_to_first_step_s[0] > 0
    assert 0 < time_to_best_s(serial.training) <= time_to_train_s(serial.training)


def test_every_file_is_there_and_whole(serial: Done) -> None:
    names = {str(path.relative_to(serial.folder)) for path in serial.folder.rglob("*.*")}
    assert names == {
        "record.json",
        "metrics.jsonl",
        "metrics.csv",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
        "figures/curves.png",
    }
    with Image.open(serial.folder / "figures" / "curves.png") as image:
        image.load()
        assert min(image.size) > 300
    lines = (serial.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["val_loss"] for line in lines] == [
        epoch.validation.loss for epoch in serial.training.epochs
    ]
    assert [float(row["val_accuracy"]) for row in serial.history] == [
        epoch.validation.metrics["accuracy"] for epoch in serial.training.epochs
    ]


def test_the_checkpoints_are_of_the_last_and_of_the_best_epoch(serial: Done) -> None:
    last, best = serial.checkpoint("last.pt"), serial.checkpoint("best.pt")
    assert (last["epoch"], last["steps"]) == (EPOCHS, EPOCHS * STEPS)
    assert best["epoch"] == serial.training.best_epoch
    assert (last["workload"], last["ranks"], last["global_batch"]) == (
        "trainable:ThreeClasses",
        1,
        8,
    )


def test_it_prints_what_the_model_is_worth_and_what_it_took(serial: Done) -> None:
    assert "trainable:ThreeClasses under serial on 1 CPU rank (training)" in serial.out
    for words in ("accuracy", "AUC", "precision", "recall", "F1", "truly 2", "time to train"):
        assert words in serial.out
    assert "measured       18 steps in 3 epochs" in serial.out
    assert "runs/serial/figures/curves.png" in serial.out


def test_every_epoch_is_a_line_on_stderr_with_the_time_left(serial: Done) -> None:
    lines = [line for line in serial.err.splitlines() if line.startswith("perfkit: epoch")]
    assert [line.split(":")[1].strip() for line in lines] == ["epoch 1", "epoch 2", "epoch 3"]
    assert all("validation loss" in line and "AUC" in line for line in lines)
    assert ["left" in line for line in lines] == [True, True, False]
    assert "the best so far" in lines[0]


def test_a_deterministic_training_is_the_same_to_the_bit_in_another_process(
    serial: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train_here(*TRAINING, "--name", "again") == 0
    path = tmp_path / "runs" / "again"
    again = Done(path, read_record(path), "", "")
    for name in ("last.pt", "best.pt"):
        assert flattened(again.checkpoint(name)) == flattened(serial.checkpoint(name))
    assert again.history == serial.history
    assert again.training.test == serial.training.test
    assert again.record.environment.deterministic


def worth(done: Done, split: str) -> tuple[float, dict[str, float], list[list[int]]]:
    """Return loss, metrics and confusion matrix of the saved best model on a whole split."""
    workload = trainable.ThreeClasses(RunConfig())
    model = workload.model().eval()
    model.load_state_dict(done.checkpoint("best.pt")["model"])
    dataset = workload.dataset(split)
    inputs, targets = workload.collate([dataset[i] for i in range(len(dataset))], None)  # type: ignore[arg-type]
    with torch.no_grad():
        outputs = model(inputs)
    loss = F.cross_entropy(outputs, targets, weight=workload._weights)
    return float(loss), *oracle.classification_metrics(outputs, targets)


@pytest.mark.parametrize("kind", ["serial", "ddp"])
def test_what_the_best_model_is_worth_is_what_torchmetrics_finds_on_the_whole_sets(
    kind: str, request: pytest.FixtureRequest
) -> None:
    done: Done = request.getfixturevalue(kind)
    training = done.training
    evaluations: list[Evaluation | None] = [
        training.epochs[training.best_epoch - 1].validation,
        training.test,
    ]
    for found in evaluations:
        assert found is not None
        loss, metrics, confusion = worth(done, found.split)
        assert found.samples == trainable.SIZES[found.split] == sum(map(sum, confusion))
        assert found.loss == pytest.approx(loss, rel=1e-5)
        assert found.metrics == pytest.approx(metrics, abs=1e-6)
        assert found.confusion == confusion


def test_two_ranks_train_as_one_record_with_a_gate_and_the_global_loss(ddp: Done) -> None:
    assert ddp.record.gate is not None
    (cell,) = ddp.record.cells
    assert (cell.ranks, cell.global_batch, cell.local_batch) == (2, 8, 4)
    assert [(block.round, block.rank) for block in cell.blocks] == [
        (epoch, rank) for epoch in range(EPOCHS) for rank in range(2)
    ]
    for epoch in ddp.training.epochs:
        losses = [
            step.loss or 0.0
            for block in cell.blocks
            if block.round == epoch.epoch - 1
            for step in block.steps
        ]
        assert epoch.train_loss == pytest.approx(sum(losses) / len(losses))
    assert len(ddp.checkpoint("last.pt")["random"]) == 2
    assert set(ddp.checkpoint("last.pt")["model"]) == set(
        trainable.ThreeClasses(RunConfig()).model().state_dict()
    )


def test_a_killed_training_of_two_ranks_goes_on_as_if_nothing_had_happened(
    ddp: Done, folder: Path
) -> None:
    killed, _ = stopped(*DDP, name="killed", cwd=folder, batch=STEPS + 3, by=signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    path = folder / "runs" / "killed"
    before = read_record(path)
    assert before.status == "incomplete"
    assert before.training is not None
    assert (before.training.end, len(before.training.epochs)) == ("interrupted", 1)

    done = trained(name="killed", cwd=folder, resume=True)
    assert done.record.status == "complete"
    assert done.training.resumed_after == [1]
    assert done.training.epochs[0] == before.training.epochs[0]
    assert done.history == ddp.history
    assert done.training.test == ddp.training.test
    for name in ("last.pt", "best.pt"):
        assert flattened(done.checkpoint(name)) == flattened(ddp.checkpoint(name))
    assert [(block.round, block.rank) for block in done.record.cells[0].blocks] == [
        (epoch, rank) for epoch in range(EPOCHS) for rank in range(2)
    ]
    assert done.record.created_at == before.created_at
    assert not list(path.rglob(".*"))
    assert "resumed        after epoch 1, in new processes" in done.out


def test_ctrl_c_says_how_to_go_on_and_that_comes_to_the_same(
    serial: Done, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, err = stopped(
        *TRAINING, name="stopped", cwd=folder, batch=2 * STEPS + 1, by=signal.SIGINT
    )
    assert process.returncode == 2
    last = err.splitlines()[-1]
    command = "go on after the last whole epoch with: perfkit train --resume runs/stopped"
    assert last == f"perfkit: interrupted; {command}"
    assert "Traceback" not in err
    monkeypatch.chdir(folder)
    assert train_here("--resume", "runs/stopped") == 0
    path = folder / "runs" / "stopped"
    done = Done(path, read_record(path), "", "")
    assert done.training.resumed_after == [2]
    assert flattened(done.checkpoint("last.pt")) == flattened(serial.checkpoint("last.pt"))
    assert done.history == serial.history
    assert not [taint for taint in done.record.taints if "stand-in" in taint]


def test_a_diverging_training_ends_with_one_line_and_keeps_the_last_good_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    flags = (*TRAINING, "--workload", "trainable:Diverging", "--name", "diverging")
    assert train_here(*flags) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("perfkit: error:")]
    path = folder / "runs" / "diverging"
    assert line == (
        "perfkit: error: the loss is not finite at step 1 of 6 in epoch 2: the training has "
        "diverged or the data holds such values; the last good checkpoint is "
        "runs/diverging/checkpoints/last.pt, of epoch 1; try a lower learning rate, or look at "
        "the data"
    )
    state = torch.load(path / "checkpoints" / "last.pt", weights_only=True)
    assert state["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    assert read_record(path).status == "incomplete"


def test_data_parallel_over_model_parallel_in_bf16_runs_as_what_it_says(folder: Path) -> None:
    flags = ("--strategy", "ddp_model_parallel", "--gpus", "4", "--precision", "bf16")
    done = trained(*TRAINING, *flags, "--epochs", "1", name="combined", cwd=folder)
    (cell,) = done.record.cells
    assert (cell.strategy, cell.precision, cell.ranks) == ("ddp_model_parallel", "bf16", 2)
    assert cell.devices == [["stand-in:0", "stand-in:1"]] * 2
    assert cell.product_dtypes == [{"torch.bfloat16": 3}] * 2
    for rank in range(2):
        seen = [stage for stage in cell.observed if stage.rank == rank]
        assert [stage.parameter_devices for stage in seen] == [
            [f"stand-in:{device}"] for device in cell.placement
        ]
        assert {dtype for stage in seen for dtype in stage.parameter_dtypes} == {"torch.float32"}
        assert "torch.bfloat16" in seen[-1].activation_dtypes
    assert cell.crossings == 1
    assert "precision      bf16, in which 3 of 3 products of the forward were seen" in done.out
    assert set(done.checkpoint("last.pt")["model"]) == set(
        trainable.ThreeClasses(RunConfig()).model().state_dict()
    )
