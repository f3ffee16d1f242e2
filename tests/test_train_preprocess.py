"""A training goes on with its images preprocessed elsewhere, and comes to the same bits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import flattened, train_here

from perfkit.core.record import read_record
from perfkit.data.synthetic_fundus import write_smdg
from perfkit.engine import offline
from perfkit.ops import native
from perfkit.workloads.glaucoma import Glaucoma

RUN = Path("runs/run")
TRAINING = (
    *("--workload", "small_glaucoma:Small", "--data", "smdg", "--image-size", "32"),
    *("--global-batch", "4", "--threads", "1", "--epochs", "2", "--deterministic"),
    *("--name", "run"),
)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder whose training was stopped in its second epoch; what it would have come to."""
    folder = tmp_path_factory.mktemp("stopped")
    steps = 0

    def collate(self: Glaucoma, samples: Any, seeds: Any) -> Any:
        nonlocal steps
        steps += seeds is not None
        if steps == 5:  # four an epoch
            raise KeyboardInterrupt
        return original(self, samples, seeds)

    original = Glaucoma.collate
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_smdg(Path("smdg"), {"train": 10, "val": 5, "test": 5}, size=40, seed=0)
        assert train_here(*TRAINING) == 0
        whole = contents(RUN)
        shutil.rmtree(RUN)
        patch.setattr(Glaucoma, "collate", collate)
        assert train_here(*TRAINING) == 2
    return folder, whole


@pytest.fixture(autouse=True)
def _in_a_copy(stopped: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(stopped[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr(offline, "available_cores", lambda: 0)  # starting processes takes seconds


def contents(folder: Path) -> dict[str, Any]:
    """Return what does not depend on the clock: checkpoints, losses and metrics."""
    training = read_record(folder).training
    assert training is not None
    return {
        "last": flattened(torch.load(folder / "checkpoints" / "last.pt")),
        "best": flattened(torch.load(folder / "checkpoints" / "best.pt")),
        "epochs": [(epoch.train_loss, epoch.validation) for epoch in training.epochs],
        "test": training.test,
    }


@pytest.mark.parametrize(
    ("placement", "ops"), [("loader", "reference"), ("device", "fused"), ("offline", "reference")]
)
def test_it_goes_on_to_the_same_bits_in_another_way_and_says_so(
    placement: str, ops: str, stopped: tuple[Path, dict[str, Any]]
) -> None:
    assert len(contents(RUN)["epochs"]) == 1
    assert train_here("--resume", str(RUN), "--preprocess", placement, "--ops", ops) == 0
    assert contents(RUN) == stopped[1]
    record = read_record(RUN)
    (cell,) = record.cells
    assert (cell.preprocess, cell.ops) == (placement, ops)
    ran = "reference" if ops == "reference" else f"fused {native.build_info().isa}"
    assert cell.implementation == [ran]
    told = "; ".join(record.taints)
    assert ("preprocessing loader then" in told) == (placement != "loader")
    assert ("operators fused then reference" in told) == (ops == "reference")
    kept = Path("runs/preprocessed")
    assert len(list(kept.iterdir()) if kept.exists() else []) == 3 * (placement == "offline")


def test_leaving_the_preprocessing_out_would_be_another_training(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train_here("--resume", str(RUN), "--preprocess", "none") == 2
    told = capsys.readouterr().err
    assert "--preprocess none differs from the loader it began with" in told
