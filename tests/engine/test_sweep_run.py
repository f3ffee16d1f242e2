"""Rounds of fresh processes: what is measured stays, what is missing is run, failures are told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from sweep_records import a_sweep, one_process, written

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.core.record import Record, read_record, write_record
from perfkit.core.sweep import Sweep, read_sweep
from perfkit.engine import sweep_run
from perfkit.engine.sweep_folder import (
    PROCESSES,
    missing,
    read_records,
    record_folder,
    trial_folder,
    turns,
)

WORKERS, DDP = {"workers": 2}, {"strategy": "ddp", "gpus": 2}


class Told:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.left_s, self.processes = 0.0, 0
        self.started: list[str] = []
        self.left: list[float] = []
        self.said: list[str] = []

    def plan(self, sweep: Sweep, left_s: float, processes: int) -> None:
        self.left_s, self.processes = left_s, processes

    def start(self, what: str, done_s: float, left_s: float) -> None:
        self.started.append(what)
        self.left.append(left_s)

    def say(self, notice: str) -> None:
        self.said.append(notice)


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Let every process end at once with a Record; those named in the dict fail with its words."""
    failing: dict[str, str] = {}

    def run(sweep: Sweep, config: RunConfig, folder: Path) -> sweep_run.Failure | None:
        shutil.rmtree(folder, ignore_errors=True)
        words = failing.get(folder.name)
        if words is not None:
            return sweep_run.Failure(words, is_refusal=words.startswith("--"))
        folder.mkdir(parents=True)
        index = int(folder.name.rpartition("cell")[2]) - 1
        record = one_process(sweep, index, 0.2)
        write_record(record.model_copy(update={"name": folder.name}), folder)
        return None

    monkeypatch.setattr(sweep_run, "_run", run)
    return failing


def go(sweep: Sweep, folder: Path) -> tuple[Sweep, Told]:
    folder.mkdir(exist_ok=True)
    told = Told()
    return sweep_run.run_sweep(sweep, folder, told, lambda config, trial: 5.0), told


def untried(sweep: Sweep) -> Sweep:
    cells = [cell.model_copy(update={"planned_s": None}) for cell in sweep.cells]
    return sweep.model_copy(update={"cells": cells})


def test_every_cell_runs_once_in_every_round_and_the_time_left_shrinks(
    tmp_path: Path, fails: dict[str, str]
) -> None:
    sweep, told = go(a_sweep(WORKERS, rounds=3), tmp_path / "s")
    assert (told.left_s, told.processes) == (60.0, 6)
    assert sorted(told.started) == [
        f"round {number} of 3: {label}" for number in (1, 2, 3) for label in ("base", "workers=2")
    ]
    assert told.left == [60.0, 50.0, 40.0, 30.0, 20.0, 10.0]
    assert missing(sweep, tmp_path / "s") == []
    records = read_records(sweep, tmp_path / "s")
    assert {index: sorted(rounds) for index, rounds in records.items()} == {
        0: [0, 1, 2],
        1: [0, 1, 2],
    }


def test_all_processes_find_the_data_sets_that_one_of_them_stored(tmp_path: Path) -> None:
    """They are stored beside the run folders, as those of ``perfkit profile`` are."""
    of_rounds = {record_folder(tmp_path, *turn).parent for turn in turns(a_sweep(WORKERS))}
    assert of_rounds | {trial_folder(tmp_path, 0).parent} == {tmp_path / PROCESSES}


def test_a_trial_tells_how_long_a_cell_takes_and_is_kept_in_the_plan(
    tmp_path: Path, fails: dict[str, str]
) -> None:
    sweep, told = go(untried(a_sweep(WORKERS, rounds=2)), tmp_path / "s")
    assert told.started[:2] == ["trial 1 of 2: base", "trial 2 of 2: workers=2"]
    assert all(5.0 < (cell.planned_s or 0.0) < 6.0 for cell in sweep.cells)
    assert read_sweep(tmp_path / "s") == sweep
    assert told.left_s == pytest.approx(sum(2 * (cell.planned_s or 0) for cell in sweep.cells))


def test_a_cell_whose_trial_fails_is_skipped_in_its_own_words(
    tmp_path: Path, fails: dict[str, str]
) -> None:
    fails["trial-cell2"] = "--workers 2: no room for workers"
    sweep, told = go(untried(a_sweep(WORKERS, DDP, rounds=2)), tmp_path / "s")
    assert sweep.cells[1].skipped == "--workers 2: no room for workers"
    assert told.said == ["workers=2 is skipped: --workers 2: no room for workers"]
    assert told.processes == 4
    assert sorted(read_records(sweep, tmp_path / "s")) == [0, 2]


def test_a_trial_that_was_killed_says_nothing_of_its_cell(
    tmp_path: Path, fails: dict[str, str]
) -> None:
    fails["trial-cell2"] = "rank 0 was killed by signal 9 (SIGKILL)"
    sweep, told = go(untried(a_sweep(WORKERS, rounds=2)), tmp_path / "s")
    assert told.said == ["trial of workers=2 failed: rank 0 was killed by signal 9 (SIGKILL)"]
    assert (sweep.cells[1].skipped, sweep.cells[1].planned_s) == (None, None)
    assert sorted(read_records(sweep, tmp_path / "s")) == [0, 1]


def test_a_process_that_fails_leaves_the_others_and_is_run_again_on_resume(
    tmp_path: Path, fails: dict[str, str]
) -> None:
    fails["round2-cell1"] = "rank 0 was killed by signal 9 (SIGKILL)"
    sweep, told = go(a_sweep(WORKERS, rounds=3), tmp_path / "s")
    assert told.said == ["round 2 of 3: base failed: rank 0 was killed by signal 9 (SIGKILL)"]
    assert missing(sweep, tmp_path / "s") == [(1, 0)]
    kept = record_folder(tmp_path / "s", 0, 0) / "record.json"
    before = kept.stat().st_mtime_ns
    fails.clear()
    sweep, again = go(sweep, tmp_path / "s")
    assert again.started == ["round 2 of 3: base"]
    assert missing(sweep, tmp_path / "s") == []
    assert kept.stat().st_mtime_ns == before


def test_half_a_record_is_run_again(tmp_path: Path, fails: dict[str, str]) -> None:
    sweep, _ = go(a_sweep(WORKERS, rounds=2), tmp_path / "s")
    run = record_folder(tmp_path / "s", 1, 1)
    half = one_process(sweep, 1, 0.2).model_copy(update={"status": "incomplete"})
    write_record(half, run)
    assert missing(sweep, tmp_path / "s") == [(1, 1)]
    _, again = go(sweep, tmp_path / "s")
    assert again.started == ["round 2 of 2: workers=2"]


def test_where_the_disk_is_full_the_sweep_ends_and_says_what_is_missing(
    tmp_path: Path, fails: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    order = a_sweep(WORKERS, rounds=2).order(0)
    fails[f"round1-cell{order[1] + 1}"] = "[Errno 28] No space left on device"
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(PerfkitError) as caught:
        go(a_sweep(WORKERS, rounds=2), tmp_path / "s")
    assert (
        "no room is left on its disk; 3 of 4 processes are missing; make room, then: perfkit "
        in (str(caught.value))
    )
    assert len(missing(a_sweep(WORKERS, rounds=2), tmp_path / "s")) == 3


def edited(record: Record, **changes: Any) -> bytes:
    content = record.model_dump(mode="json")
    for path, value in changes.items():
        part = content
        *parents, last = path.split("__")
        for name in parents:
            part = part[int(name) if name.isdigit() else name]
        part[last] = value
    return orjson.dumps(content)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config__workers": 0}, "is no run of cell 'workers=2' (workers is 0, asked for was 2)"),
        ({"environment__hardware": "B CPU"}, "was measured on B CPU, the sweep on A CPU, 4 cores"),
        ({"cells": []}, "is not a valid Record (cells: "),
        ({"name": "round1-cell2"}, "is a copy of run 'round1-cell2'"),
        ({"config__seed": 5}, "is no run of cell 'workers=2' (seed is 5, asked for was 0)"),
        (
            {"cells__0__workers": 3},
            "is no run of cell 'workers=2' (workers of what was measured",
        ),
        ({"schema_version": "9.0"}, "has schema version 9.0"),
    ],
)
def test_a_record_that_was_edited_by_hand_is_named(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    sweep = a_sweep(WORKERS, rounds=2)
    folder = written(sweep, tmp_path / "s", [[0.2, 0.2], [0.2, 0.2]])
    run = record_folder(folder, 1, 1) / "record.json"
    run.write_bytes(edited(read_record(run), **changes))
    with pytest.raises(PerfkitError) as caught:
        read_records(sweep, folder)
    assert str(caught.value).startswith(f"{run}: {words}")
    if "measured on" not in words:
        assert f"delete {run.parent}, then: perfkit sweep --resume {folder}" in str(caught.value)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (
            "perfkit: notice: x\nperfkit: error: --workers 2: no\nperfkit: nothing\n",
            "--workers 2: no",
        ),
        (
            "perfkit: error: rank 0 failed:\nTraceback\n  File x\nOSError: [Errno 28] full\n"
            "perfkit: nothing had been measured yet\n",
            "OSError: [Errno 28] full",
        ),
        ("Killed\n\n", "Killed"),
        ("", ""),
    ],
)
def test_a_process_is_quoted_with_its_error(tmp_path: Path, log: str, words: str) -> None:
    path = tmp_path / "log.txt"
    path.write_text(log)
    assert sweep_run._last_words(path) == words
