"""The command: a real sweep, interrupted and gone on with, and one line for every mistake."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from records import an_environment
from sweep_records import a_sweep, one_process, written

from perfkit import sweep
from perfkit.core import cli
from perfkit.core.errors import PerfkitError
from perfkit.core.record import read_record, write_record
from perfkit.core.sweep import Sweep, read_sweep, write_sweep
from perfkit.engine.sweep_folder import record_folder
from perfkit.measure.environment import describe_environment

SUPPORT = str(Path(__file__).parent / "support")
TINY = ("--base", "workload=tiny:Tiny", "local_batch=4", "steps=4", "warmup=3", "threads=1")
MANY = ",".join(map(str, range(1, 41)))
CELLS = ("--cells", "strategy=ddp,gpus=2", "precision=fp16")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "perfkit.sweep", *arguments]


def environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": SUPPORT, "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, int]:
    """A sweep that Ctrl-C ended in its second process; what it said; processes left behind."""
    folder = tmp_path_factory.mktemp("sweep")
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command(*TINY, *CELLS, "--rounds", "2", "--name", "s"),
            cwd=folder,
            env=environ(),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    records = folder / "runs" / "s" / "processes"
    while len(list(records.glob("round1-*/record.json"))) < 2 and process.poll() is None:
        time.sleep(0.05)
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 2
    said = (folder / "log.txt").read_text()
    return folder / "runs" / "s", said, len([one for one in started if one.is_running()])


@pytest.mark.slow
def test_ctrl_c_leaves_what_was_measured_and_no_process(
    interrupted: tuple[Path, str, int],
) -> None:
    folder, said, left = interrupted
    assert "perfkit: 4 processes to run (2 cells, 2 rounds): about " in said
    last = said.splitlines()[-1]
    assert last.startswith("perfkit: interrupted; ")
    assert last.endswith(f"missing; go on with: perfkit sweep --resume runs/{folder.name}")
    assert left == 0
    plan = read_sweep(folder)
    assert [cell.skipped is None for cell in plan.cells] == [True, True, False]
    assert "fp16" in (plan.cells[2].skipped or "")


@pytest.mark.slow
def test_it_goes_on_where_it_was_and_tells_what_it_comes_to(
    interrupted: tuple[Path, str, int], tmp_path: Path
) -> None:
    folder = tmp_path / "s"
    shutil.copytree(interrupted[0], folder)
    finished = {
        run: run.stat().st_mtime_ns
        for run in folder.glob("processes/round*/record.json")
        if read_record(run).status == "complete"
    }
    assert 1 <= len(finished) <= 2
    done = subprocess.run(
        command("--resume", str(folder)),
        env=environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{4 - len(finished)} processes to run" in done.stderr
    assert all(run.stat().st_mtime_ns == before for run, before in finished.items())
    assert "4 fresh processes" in done.stdout
    assert "for time" in done.stdout
    records = [read_record(run) for run in sorted(folder.glob("processes/round*/record.json"))]
    assert len(records) == 4
    assert {record.cells[0].strategy for record in records} == {"serial", "ddp"}
    assert len({record.created_at for record in records}) > 1
    for name in ("table.md", "table.csv", "figures/sweep.png"):
        assert (folder / name).stat().st_size > 0
    again = subprocess.run(
        command("--resume", str(folder)), env=environ(), capture_output=True, text=True, check=True
    )
    assert again.stdout == done.stdout
    assert again.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--cells", "workers"), "--cells workers: has to be option=value, as in workers=2"),
        (("--base", "x=1", "--cells", "workers=1"), "sweep: unknown option 'x'; known are "),
        (("--base", "workers=1"), "sweep: nothing differs; give a matrix, or cells beside the"),
        (("--cells", "workers=1", "--rounds", "0"), "sweep: rounds = 0: input should be greater"),
        (
            ("--cells", "strategy=model_parallel,gpus=1"),
            "sweep: cell 'strategy=model_parallel gpus=1': ",
        ),
        (("--cells", "workers=1,workers=2"), "--cells workers=2: workers is given twice; name it"),
        (("--cells", "seed=1", "--runs", ".", "--name", "日" * 100), "sweep folder 日日日"),
        (("--cells", "seed=\udcff"), "'seed=\\udcff': is not UTF-8"),
        (
            ("--matrix", *(f"{o}={MANY}" for o in ("gpus", "seed"))),
            "sweep: 1600 cells are too",
        ),
        (("no.toml",), "no.toml: cannot be read (No such file or directory)"),
        (("--resume", "no"), "no/sweep.json: cannot be read (No such file or directory)"),
        (("--resume", "no", "--seed", "3"), "--resume no: goes on as planned; leave out all"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(
    arguments: tuple[str, ...],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(sweep.main, arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"perfkit: error: {words}")
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_of_another_machine_is_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(a_sweep({"workers": 2}), tmp_path / "s", [])
    assert cli.run(sweep.main, ["--resume", str(folder)]) == 2
    assert "was begun on A CPU, 4 cores, this is " in capsys.readouterr().err


def test_rounds_are_added_to_a_sweep_and_what_there_was_is_remembered(tmp_path: Path) -> None:
    here = describe_environment("perfkit").hardware
    planned = a_sweep({"workers": 2}, rounds=2, hardware=here)
    folder = written(planned, tmp_path / "s", [])

    def resumed(rounds: int | None) -> Sweep:
        found = sweep._with_rounds(read_sweep(folder), rounds, folder)
        assert read_sweep(folder) == found
        return found

    assert resumed(2) == resumed(None) == planned
    assert (resumed(4).rounds, resumed(4).rounds_before) == (4, [2])
    assert resumed(7).rounds_before == [2, 4]
    assert [resumed(7).order(index) for index in (0, 1)] == [planned.order(0), planned.order(1)]
    run = record_folder(folder, 4, 1)
    run.mkdir(parents=True)
    where = {"name": run.name, "environment": an_environment(hardware=here)}
    write_record(one_process(planned, 1, 0.2).model_copy(update=where), run)
    with pytest.raises(PerfkitError, match="--rounds 4: the sweep may have 5 to 1000"):
        resumed(4)
    assert resumed(5).rounds_before == [2, 4]  # two that nobody measured are taken back
    with pytest.raises(PerfkitError, match="--rounds 1001: the sweep may have 5 to 1000"):
        resumed(1001)


def test_two_sweeps_at_work_in_one_folder_are_one_too_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = describe_environment("perfkit").hardware
    folder = written(a_sweep({"workers": 2}, hardware=here), tmp_path / "s", [])
    with sweep._alone_in(folder):
        assert cli.run(sweep.main, ["--resume", f"{folder}"]) == 2
    said = capsys.readouterr().err
    assert said == (
        f"perfkit: error: {folder}: another perfkit sweep is at work there; let it end, or end it "
        "first\n"
    )


def test_a_folder_that_exists_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "s").mkdir(parents=True)
    assert cli.run(sweep.main, ["--cells", "workers=1", "--name", "s"]) == 2
    assert "runs/s exists; give another --name" in capsys.readouterr().err
    assert list((tmp_path / "runs" / "s").iterdir()) == []


def test_a_file_and_flags_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Flags win over the file, option by option; cells of both are there."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "f.toml"
    path.write_text(
        "rounds = 3\nseed = 7\n[base]\nworkers = 1\nthreads = 1\n[[cells]]\nworkers = 2\n"
    )
    flags = sweep.SweepFlags(file=path, base=("threads=2",), cells=("ops=reference",), rounds=2)
    asked = sweep._asked(flags)
    assert (asked.rounds, asked.seed) == (2, 7)
    assert asked.base == {"workers": 1, "threads": "2"}
    assert asked.cells == [{"workers": 2}, {"ops": "reference"}]


def test_records_of_another_machine_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = a_sweep({"workers": 2}, rounds=2)
    folder = written(plan, tmp_path / "s", [[0.2, 0.21], [0.1, 0.1]])
    here = describe_environment("perfkit")
    write_sweep(plan.model_copy(update={"hardware": here.hardware}), folder)
    assert cli.run(sweep.main, ["--resume", str(folder)]) == 2
    told = capsys.readouterr()
    assert "was measured on A CPU, 4 cores, the sweep on " in told.err
