"""``--resume``: what can be gone on with, and what is refused without touching anything."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
import trainable
from records import a_cell, a_record
from trainings import flattened, train_here

from perfkit.core.record import read_record, write_record

RUN = Path("runs/run")
LAST, BEST = RUN / "checkpoints" / "last.pt", RUN / "checkpoints" / "best.pt"
TRAINING = (
    *("--workload", "trainable:ThreeClasses", "--global-batch", "8", "--threads", "1"),
    *("--epochs", "3", "--deterministic", "--name", "run"),
)
STEPS = 6  # an epoch


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose training was stopped by Ctrl-C in its third epoch."""

    class Stop(trainable.ThreeClasses):
        def collate(self, samples: Any, seeds: Any) -> Any:
            if seeds is not None and self._drawn == 2 * STEPS + 3:
                raise KeyboardInterrupt
            return super().collate(samples, seeds)

    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(trainable, "ThreeClasses", Stop)
        assert train_here(*TRAINING) == 2
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the same training comes to when nobody stops it."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train_here(*TRAINING) == 0
    return contents(folder / RUN)


@pytest.fixture(autouse=True)
def _in_a_copy(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(stopped / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)


def contents(folder: Path) -> dict[str, Any]:
    """Return what does not depend on the clock: both checkpoints, losses and metrics."""
    training = read_record(folder).training
    assert training is not None
    return {
        "last": flattened(torch.load(folder / "checkpoints" / "last.pt")),
        "best": flattened(torch.load(folder / "checkpoints" / "best.pt")),
        "epochs": [(epoch.train_loss, epoch.validation) for epoch in training.epochs],
        "best_epoch": training.best_epoch,
        "test": training.test,
    }


def digests() -> dict[str, str]:
    """Return a hash of every file in the run folder."""
    files = (path for path in RUN.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """Return the one line with which ``--resume`` was refused; the folder is as it was."""
    before = digests()
    assert train_here(*(flags or ("--resume", str(RUN)))) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    (line,) = [line for line in told.splitlines() if line.startswith("perfkit: error: ")]
    assert digests() == before
    return line.removeprefix("perfkit: error: ")


def change_record(change: Callable[[dict[str, Any]], None]) -> None:
    file = RUN / "record.json"
    record = orjson.loads(file.read_bytes())
    change(record)
    file.write_bytes(orjson.dumps(record))


def resumed_after() -> list[int]:
    training = read_record(RUN).training
    assert training is not None
    return training.resumed_after


def test_a_training_goes_on_to_the_same_bits(whole: dict[str, Any]) -> None:
    assert len(contents(RUN)["epochs"]) == 2
    assert train_here("--resume", str(RUN)) == 0
    assert contents(RUN) == whole
    assert resumed_after() == [2]
    record = read_record(RUN)
    assert [block.round for block in record.cells[0].blocks] == [0, 1, 2]
    assert len((RUN / "metrics.csv").read_text().splitlines()) == 4
    assert (RUN / "figures" / "curves.png").exists()
    assert not [taint for taint in record.taints if "stand-in" in taint]


def test_it_may_be_stopped_again_before_it_has_done_anything(whole: dict[str, Any]) -> None:
    before = digests()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainable.ThreeClasses, "collate", _stop)
        assert train_here("--resume", str(RUN)) == 2
    assert digests() == before
    assert train_here("--resume", str(RUN)) == 0
    assert contents(RUN) == whole
    assert resumed_after() == [2]


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_training_that_lacks_nothing_but_its_test_is_tested(whole: dict[str, Any]) -> None:
    assert train_here("--resume", str(RUN)) == 0

    def interrupt(record: dict[str, Any]) -> None:
        record["status"] = "incomplete"
        record["training"] |= {"end": "interrupted", "test": None}

    change_record(interrupt)
    cells = read_record(RUN).cells
    assert train_here("--resume", str(RUN)) == 0
    assert contents(RUN) == whole
    record = read_record(RUN)
    assert record.status == "complete"
    assert record.cells == cells  # what was seen of its steps, too
    assert resumed_after() == [2, 3]


def test_an_epoch_that_only_the_record_knows_of_is_trained_again(whole: dict[str, Any]) -> None:
    """As after a kill between writing the Record and writing the checkpoint."""

    def invent(record: dict[str, Any]) -> None:
        third = record["training"]["epochs"][1] | {"epoch": 3, "train_loss": 77.0}
        record["training"]["epochs"].append(third)
        record["cells"][0]["blocks"].append(record["cells"][0]["blocks"][1] | {"round": 2})

    change_record(invent)
    assert train_here("--resume", str(RUN)) == 0
    assert contents(RUN) == whole
    assert [block.round for block in read_record(RUN).cells[0].blocks] == [0, 1, 2]


def test_a_best_checkpoint_that_was_still_to_be_written_is_written(whole: dict[str, Any]) -> None:
    """As after a kill between writing the last checkpoint and writing the best one."""
    training = read_record(RUN).training
    assert training is not None
    assert training.best_epoch == 2
    BEST.unlink()
    assert train_here("--resume", str(RUN)) == 0
    assert contents(RUN) == whole


def test_a_folder_may_be_moved_and_renamed(whole: dict[str, Any], tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    RUN.rename(moved)
    assert train_here("--resume", str(moved)) == 0
    assert contents(moved) == whole
    assert read_record(moved).name == "renamed"


def test_a_folder_whose_name_no_record_can_have_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    RUN.rename("runs/my run")
    assert train_here("--resume", "runs/my run") == 2
    assert (
        "perfkit: error: --resume runs/my run: a run folder is named with letters"
        in capsys.readouterr().err
    )


def test_what_changes_neither_model_nor_updates_may_change(whole: dict[str, Any]) -> None:
    flags = ("--threads", "2", "--patience", "9", "--device", "cpu")
    assert train_here("--resume", str(RUN), *flags) == 0
    record = read_record(RUN)
    assert (record.config.threads, record.config.device) == (2, "cpu")
    assert len(contents(RUN)["epochs"]) == len(whole["epochs"])
    # The blocks of one cell are now of two kinds, and that is said.
    assert "epochs up to 2 ran under other conditions: threads 1 then 2" in record.taints


def test_the_folder_may_be_the_current_one(
    whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(RUN)
    assert train_here("--resume", ".") == 0
    assert contents(Path()) == whole


@pytest.mark.parametrize("flags", [("--name", "other"), ("--runs", "elsewhere")])
def test_it_goes_on_in_its_own_folder_and_in_no_other(
    flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "leave out --runs and --name" in refused(capsys, "--resume", str(RUN), *flags)


@pytest.mark.parametrize("field", ["samples_per_epoch", "class_counts"])
def test_other_data_are_refused(field: str, capsys: pytest.CaptureFixture[str]) -> None:
    others = {"samples_per_epoch": 49, "class_counts": [1, 2]}
    change_record(lambda content: content["data"].update({field: others[field]}))
    assert "goes on with the data it began with" in refused(capsys)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--global-batch", "16"), "--global-batch 16 differs from the 8 it began with"),
        (("--epochs", "5"), "--epochs 5 differs from the 3 it began with"),
        (("--seed", "1"), "--seed 1 differs from the 0 it began with"),
        (("--strategy", "ddp"), "--strategy ddp differs from the serial it began with"),
        (("--gpus", "2"), "--gpus 2 differs from the 1 it began with"),
        (("--ranks", "2"), "--ranks 2 differs from the 1 it began with"),
        (("--precision", "bf16"), "--precision bf16 differs from the fp32 it began with"),
        (("--workload", "tiny:Tiny"), "differs from the trainable:ThreeClasses it began with"),
        (("--monitor", "f1"), "--monitor f1 differs from the loss it began with"),
        (("--local-batch", "8"), "exclude each other"),
    ],
)
def test_another_training_is_not_the_same_one_gone_on_with(
    flags: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capsys, "--resume", str(RUN), *flags)


def test_a_complete_training_is_refused_and_told_how_to_start_from_its_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train_here("--resume", str(RUN)) == 0
    capsys.readouterr()
    told = refused(capsys)
    assert told.startswith(f"--resume {RUN}: this training is complete; ")
    assert told.endswith(f"--weights {BEST}")


def test_a_run_that_is_no_training_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write_record(a_record(a_cell([[0.2]]), status="incomplete"), RUN)
    assert refused(capsys) == f"--resume {RUN}: is a quick look, no training"


@pytest.mark.parametrize(
    ("path", "words"),
    [("nowhere", "nowhere: cannot be read"), ("runs", "runs: holds no record.json")],
)
def test_what_is_no_run_folder_is_refused(
    path: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capsys, "--resume", path)


def test_half_a_record_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    file = RUN / "record.json"
    file.write_bytes(file.read_bytes()[:1000])
    assert "is not a whole JSON file" in refused(capsys)


def test_a_missing_checkpoint_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    LAST.unlink()
    assert f"{LAST}: cannot be read (No such file" in refused(capsys)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_truncated_checkpoint_is_refused(kept: float, capsys: pytest.CaptureFixture[str]) -> None:
    whole = LAST.read_bytes()
    LAST.write_bytes(whole[: int(kept * len(whole))])
    assert f"{LAST}: " in refused(capsys)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("it-ran"),))


def test_a_hostile_checkpoint_is_refused_and_does_not_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(torch.load(LAST) | {"epoch": Hostile()}, LAST)
    assert "loading it could run foreign code, so it was not loaded" in refused(capsys)
    assert not Path("it-ran").exists()


def other_shapes(content: dict[str, Any]) -> None:
    content["model"]["3.weight"] = torch.zeros(2, 16)


def other_names(content: dict[str, Any]) -> None:
    content["model"]["head.weight"] = content["model"].pop("3.weight")


def other_optimiser(content: dict[str, Any]) -> None:
    content["training"]["optimizer"]["param_groups"] *= 2


def other_workload(content: dict[str, Any]) -> None:
    content["workload"] = "tiny:Tiny"


def other_size(content: dict[str, Any]) -> None:
    content["ranks"] = 2
    content["random"] *= 2


def later_epoch(content: dict[str, Any]) -> None:
    content["epoch"] = 3


def no_checkpoint(content: dict[str, Any]) -> None:
    del content["random"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_shapes, "the checkpoint is of another model (size mismatch for 3.weight"),
        (other_names, "the checkpoint is of another model (Missing key(s)"),
        (other_optimiser, "the checkpoint is of another optimiser, schedule or precision ("),
        (other_workload, f"{LAST}: is of workload tiny:Tiny, this training of trainable:"),
        (other_size, "by 2 rank(s) with a global batch of 8, this is 1 with 8; a training goes on"),
        (later_epoch, "its Record and its checkpoint do not belong together"),
        (no_checkpoint, f"{LAST}: is no checkpoint of perfkit train"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    change: Callable[[dict[str, Any]], None], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(LAST)
    change(content)
    torch.save(content, LAST)
    assert words in refused(capsys)


def test_a_toml_file_must_agree_with_what_is_gone_on_with(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("options.toml").write_text("epochs = 5\n")
    told = refused(capsys, "--resume", str(RUN), "--config", "options.toml")
    assert "--epochs 5 differs from the 3 it began with" in told
    Path("options.toml").write_text(f'resume = "{RUN}"\n')
    told = refused(capsys, "--resume", str(RUN), "--config", "options.toml")
    assert f"resume belongs on the command line, --resume {RUN}" in told
