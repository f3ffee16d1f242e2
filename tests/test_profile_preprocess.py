"""``--preprocess`` and ``--ops`` typed: one way beside another, and what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from trainings import rank_here

from perfkit import profile
from perfkit.core.config import ProfileConfig
from perfkit.core.record import Record, read_record
from perfkit.ops import native

SUPPORT = Path(__file__).parent / "support"
SHORT = (
    *("--workload", "small_glaucoma:Small", "--image-size", "32", "--data", "smdg"),
    *("--threads", "1"),
    *("--steps", "4", "--rounds", "2", "--warmup", "3"),
)


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", *arguments),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(SUPPORT), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


class Done(NamedTuple):
    """A run that preprocesses on its device, beside one that reads a stored set."""

    folder: Path
    printed: str
    told: str
    record: Record


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("ways")
    counts = ("--train", "16", "--val", "4", "--test", "4", "--size", "40")
    made = run("perfkit.synthesize", "smdg", *counts, cwd=folder)
    assert made.returncode == 0, made.stderr
    flags = ("--preprocess", "device", "--trace-steps", "1")
    beside = ("--baseline", "preprocess=offline", "--name", "run")
    profiled = run("perfkit.profile", *SHORT, *flags, *beside, cwd=folder)
    assert profiled.returncode == 0, profiled.stderr
    record = read_record(folder / "runs" / "run")
    return Done(folder, profiled.stdout, profiled.stderr, record)


def test_every_cell_says_where_it_preprocessed_and_what_was_seen_to_do_it(done: Done) -> None:
    device, offline = done.record.cells
    fused = [f"fused {native.build_info().isa}"]
    for cell, placement in ((device, "device"), (offline, "offline")):
        assert (cell.preprocess, cell.ops, cell.implementation) == (placement, "fused", fused)
        for step in (step for block in cell.blocks for step in block.steps):
            assert ("preprocess" in step.phases_s) == (placement == "device")
    assert offline.stored_s is not None
    assert device.stored_s is None
    config = done.record.config
    assert isinstance(config, ProfileConfig)
    assert (config.preprocess, config.ops) == ("device", "fused")


def test_the_phase_is_a_range_in_the_trace(done: Done) -> None:
    assert done.record.traces is not None
    for file in done.record.traces.files:
        assert file.ranges["perfkit.preprocess"] == file.ranges["perfkit.forward"]


def test_the_table_tells_them_apart_and_the_making_of_the_set_is_announced(done: Done) -> None:
    lines = done.printed.splitlines()
    assert f"preprocess     device, fused {native.build_info().isa}" in lines
    rows = [line.split() for line in lines if line.startswith("preprocess ")]
    assert ["preprocess", "device", "offline"] in rows
    assert any(row[0] == "preprocess" and row[-1].endswith("%") for row in rows)  # the phase
    assert "the samples/s with preprocess=offline" in done.printed
    assert done.told.count("perfkit: the stored train set was made in") == 1
    assert "is not there: making 16 images" in done.told


def test_a_second_run_finds_the_set_made(
    done: Done, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(done.folder)
    flags = ("--preprocess", "offline", "--baseline", "none", "--trace-steps", "0")
    assert rank_here(profile, *SHORT, *flags, "--name", "again") == 0
    assert "stored" not in capfd.readouterr().err
    cell = read_record(done.folder / "runs" / "again").cells[0]
    assert (cell.preprocess, cell.stored_s) == ("offline", None)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--preprocess", "gpu"), "--preprocess gpu: input should be 'none', 'loader', 'device' "),
        (("--ops", "opencv"), "--ops opencv: input should be 'fused' or 'reference'"),
        (
            ("--preprocess", "loader", "--baseline", "preprocess=loader"),
            "--baseline preprocess=loader: is what the run itself has",
        ),
        (("--baseline", "ops=fused"), "--baseline ops=fused: is what the run itself has"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(
    flags: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert rank_here(profile, "--image-size", "16", "--model", "resnet18", *flags) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists() or list((tmp_path / "runs").iterdir()) == []
