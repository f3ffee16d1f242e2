"""``perfkit profile`` from the outside: what it leaves, how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from trainings import rank_here

from perfkit import profile
from perfkit.core import cli
from perfkit.core.record import SCHEMA_VERSION, Record, read_record
from perfkit.launch import spawn

SUPPORT = Path(__file__).parent / "support"
SHORT = ("--steps", "10", "--rounds", "2", "--warmup", "3")
COMMAND = (sys.executable, "-m", "perfkit.profile")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SUPPORT), "COLUMNS": "120"}


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("profile")


@pytest.fixture(scope="module")
def combined(folder: Path) -> tuple[str, Record]:
    """DDP over two groups of two stand-in devices, with loader workers."""
    flags = ("--workload", "tiny:Tiny", "--strategy", "ddp_model_parallel", "--gpus", "4")
    done = run(*COMMAND, *flags, *SHORT, "--workers", "1", "--name", "combined", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout, read_record(folder / "runs" / "combined")


def test_the_record_holds_the_strategy_both_baselines_and_the_ablation(
    combined: tuple[str, Record],
) -> None:
    _, record = combined
    assert record.status == "complete"
    assert [(cell.role, cell.strategy, cell.ranks, cell.threads) for cell in record.cells] == [
        ("strategy", "ddp_model_parallel", 2, record.cells[0].threads),
        ("baseline", "serial", 1, record.cells[0].threads),
        ("baseline", "serial", 1, 2 * record.cells[0].threads),
        ("ablation", "ddp_model_parallel", 2, record.cells[0].threads),
    ] or record.environment.cores < 2
    for cell in record.cells:
        steps = dict.fromkeys(range(cell.ranks), 0)
        for block in cell.blocks:
            steps[block.rank] += len(block.steps)
        assert steps == dict.fromkeys(range(cell.ranks), 10)


def test_every_step_has_every_phase_and_they_fit_into_the_step(
    combined: tuple[str, Record],
) -> None:
    _, record = combined
    for block in record.cells[0].blocks:
        assert sum(step.host_s for step in block.steps) <= block.wall_s
        for step in block.steps:
            assert list(step.phases_s) == [
                "data_wait",
                "host_to_device",
                "forward",
                "backward",
                "optimizer",
            ]
            assert sum(step.phases_s.values()) <= step.host_s
            assert step.communication_s is not None
            assert 0 < step.communication_s < step.host_s


def test_the_gate_held_the_strategy_against_serial_training(combined: tuple[str, Record]) -> None:
    _, record = combined
    assert record.gate is not None
    assert 0 <= record.gate.max_abs_difference <= 1e-9
    assert (record.gate.steps, record.gate.global_batch) == (5, 4)


def test_stages_were_observed_on_two_stand_in_devices_in_each_rank(
    combined: tuple[str, Record],
) -> None:
    _, record = combined
    cell = record.cells[0]
    assert cell.devices == [["stand-in:0", "stand-in:1"]] * 2
    for rank in range(2):
        seen = [o for o in cell.observed if o.rank == rank]
        assert [o.parameter_devices for o in seen] == [
            [f"stand-in:{device}"] for device in cell.placement
        ]
        assert all(o.activation_dtypes == ["torch.float32"] for o in seen)
    assert cell.crossings == 1


def test_traces_of_both_ranks_and_the_merged_one_hold_steps_phases_and_stages(
    combined: tuple[str, Record], folder: Path
) -> None:
    _, record = combined
    assert record.traces is not None
    assert [file.rank for file in record.traces.files] == [0, 1, None]
    for file in record.traces.files:
        assert (folder / "runs" / "combined" / file.path).stat().st_size == file.size_bytes
        assert file.steps == 2
        assert {"perfkit.forward", "perfkit.stage3.backward"} <= set(file.ranges)
        assert any(name.startswith("perfkit.transfer stand-in:0") for name in file.ranges)


def test_the_table_says_that_devices_are_stand_ins_and_that_it_is_a_quick_look(
    combined: tuple[str, Record],
) -> None:
    printed, record = combined
    assert "4 stand-in devices" in printed
    assert "quick look" in printed
    assert any(taint.startswith("stand-in devices") for taint in record.taints)
    assert re.search(r"ceiling of the strategy\s+2x", printed)


def test_no_loader_worker_or_rank_is_left_behind(combined: tuple[str, Record]) -> None:
    assert not running_for("combined")


def test_under_torchrun_it_joins_and_gives_the_same_record(folder: Path) -> None:
    alone = ("--baseline", "none", "--trace-steps", "0")
    flags = ("--workload", "tiny:Tiny", "--strategy", "ddp", "--gpus", "2", *SHORT, *alone)
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    joined = run(
        *(torchrun, "--nproc-per-node", "2", "-m", "perfkit.profile"),
        *(*flags, "--name", "torchrun"),
        cwd=folder,
    )
    assert joined.returncode == 0, joined.stderr
    own = run(*COMMAND, *flags, "--name", "own", cwd=folder)
    assert own.returncode == 0, own.stderr
    records = [read_record(folder / "runs" / name) for name in ("torchrun", "own")]
    assert [record.environment.launcher for record in records] == ["torchrun", "perfkit"]
    shapes = [
        record.model_dump(
            include={
                "scaling": True,
                "parameters": True,
                "data": True,
                "gate": {"global_batch"},
                "cells": {
                    "__all__": {
                        "role", "label", "devices", "backend", "global_batch", "ceiling", "observed"
                    }
                },
            }
        )
        for record in records
    ]  # fmt: skip
    assert shapes[0] == shapes[1]
    losses = [[s.loss for b in record.cells[0].blocks for s in b.steps] for record in records]
    assert losses[0] == losses[1]


def test_a_serial_run_has_one_cell_and_no_gate(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert rank_here(profile, "--workload", "tiny:Tiny", *SHORT, "--name", "serial") == 0
    record = read_record(folder / "runs" / "serial")
    assert [cell.role for cell in record.cells] == ["strategy"]
    assert record.gate is None
    assert record.cells[0].devices == [["cpu"]]


def test_a_toml_file_gives_defaults_and_flags_win_over_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    Path("options.toml").write_text('workload = "tiny:Tiny"\nsteps = 4\nrounds = 2\nseed = 5\n')
    flags = ("--config", "options.toml", "--seed", "6", "--trace-steps", "0", "--name", "toml")
    assert rank_here(profile, *flags) == 0
    record = read_record(folder / "runs" / "toml")
    assert (record.config.workload, record.config.steps, record.config.seed) == ("tiny:Tiny", 4, 6)
    assert record.traces is None
    assert any("too few" in taint for taint in record.taints)


def test_help_answers_without_importing_torch() -> None:
    code = (
        "import sys, perfkit.profile\n"
        "try: perfkit.profile.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.fixture
def bad_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the flags of the next tests are about; it is the working directory."""
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "file").touch()
    (folder / "runs" / "taken").mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)
    return folder


def the_error(told: str) -> str:
    assert "Traceback" not in told
    (error,) = [line for line in told.splitlines() if line.startswith("perfkit: error:")]
    return error


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--gpus", "0"), "--gpus 0: input should be greater than or equal to 1"),
        (("--local-batch", "1"), "--local-batch 1: input should be greater than or equal to 2"),
        (("--local-batch", "4", "--global-batch", "8"), "exclude each other"),
        (("--strategy", "ddp_model_parallel", "--gpus", "3"), "got --gpus 3"),
        (("--config", "missing.toml"), "--config missing.toml: cannot be read"),
        (("--strategy", "ddp", "--gpus", "60000"), "too many for"),
    ],
)
def test_flags_that_cannot_be_are_one_line_with_exit_code_2_before_a_rank_is_started(
    flags: tuple[str, ...],
    words: str,
    bad_input: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spawn, "subprocess", None)
    before = sorted((bad_input / "runs").iterdir())
    assert cli.run(profile.main, flags) == 2
    assert words in the_error(capsys.readouterr().err)
    assert sorted((bad_input / "runs").iterdir()) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--device", "cuda"), "no CUDA device is visible"),
        (("--strategy", "model_parallel", "--gpus", "6"), "6 devices a rank for a model of 5"),
        (("--data", "nowhere"), "--data nowhere: is not a folder"),
        (("--data", "empty"), "has no folder 'train'"),
        (("--runs", "file/runs"), "cannot be made"),
        (("--name", "taken"), "exists; give another"),
        (
            ("--workload", "tiny:Uncut", "--strategy", "model_parallel"),
            "does not say how to cut its model",
        ),
        (("--workload", "tiny:Lacking"), "Lacking lacks model"),
        (("--workload", "tiny:Tiny", "--local-batch", "65"), "has 64 samples, fewer than one"),
    ],
)
def test_bad_input_that_a_rank_finds_is_one_line_with_exit_code_2_and_no_run_folder(
    flags: tuple[str, ...], words: str, bad_input: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((bad_input / "runs").iterdir())
    assert rank_here(profile, *flags) == 2
    assert words in the_error(capsys.readouterr().err)
    assert sorted((bad_input / "runs").iterdir()) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--gpus", "0"), "--gpus 0: input should be greater than or equal to 1"),
        (("--workload", "tiny:Lacking", "--strategy", "ddp", "--gpus", "2"), "Lacking lacks model"),
    ],
)
def test_bad_input_ends_the_command_with_one_line_and_code_2_whoever_finds_it(
    flags: tuple[str, ...], words: str, bad_input: Path
) -> None:
    before = sorted((bad_input / "runs").iterdir())
    done = run(*COMMAND, *flags, cwd=bad_input)
    assert done.returncode == 2, done.stderr
    assert words in the_error(done.stderr)
    assert sorted((bad_input / "runs").iterdir()) == before


@pytest.fixture
def long_run(folder: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A run that would go on for minutes, past its first timed block."""
    name = request.node.name.partition("[")[0]
    flags = ("--workload", "tiny:Slow", "--strategy", "ddp", "--gpus", "2", "--workers", "1")
    flags += () if "killed" in name else ("--baseline", "none")
    process = subprocess.Popen(
        (*COMMAND, *flags, "--steps", "2000", "--rounds", "500", "--warmup", "3", "--name", name),
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    record = folder / "runs" / name / "record.json"
    deadline = time.monotonic() + 120
    while not (record.exists() and b'"wall_s"' in record.read_bytes()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield process
    process.kill()


def running_for(name: str) -> list[psutil.Process]:
    """Processes of a run: its ranks carry its name among their arguments."""
    found = []
    for process in psutil.process_iter():
        try:
            if name in process.cmdline() and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_killed_rank_ends_the_run_in_ten_seconds_with_its_name_and_leaves_no_process(
    long_run: subprocess.Popen[str], folder: Path
) -> None:
    parent = psutil.Process(long_run.pid)
    everybody = parent.children(recursive=True)
    ranks = {int(child.environ()["RANK"]): child for child in parent.children()}
    assert len(everybody) >= 6  # two ranks, two baselines, loader workers and their servers
    ranks[1].kill()
    _, errors = long_run.communicate(timeout=10)
    assert long_run.returncode == 1
    told = [line for line in errors.splitlines() if not line.startswith("perfkit: timed pass")]
    assert any(line == "perfkit: error: rank 1 was killed by signal 9 (SIGKILL)" for line in told)
    assert "Traceback" not in errors, errors
    psutil.wait_procs(everybody, timeout=5)
    assert not [process for process in everybody if process.is_running()]
    check_kept(folder / "runs" / name_of(long_run))


def test_ctrl_c_keeps_what_was_measured_and_says_where(
    long_run: subprocess.Popen[str], folder: Path
) -> None:
    everybody = psutil.Process(long_run.pid).children(recursive=True)
    long_run.send_signal(signal.SIGINT)
    _, errors = long_run.communicate(timeout=30)
    assert long_run.returncode == 2
    last = errors.splitlines()[-1]
    assert last.startswith("perfkit: interrupted; what was measured until then is in ")
    assert last.endswith("record.json, marked incomplete")
    assert "Traceback" not in errors
    psutil.wait_procs(everybody, timeout=5)
    assert not [process for process in everybody if process.is_running()]
    check_kept(folder / "runs" / name_of(long_run))


def name_of(process: subprocess.Popen[str]) -> str:
    arguments = list(process.args)  # type: ignore[arg-type]
    return str(arguments[-1])


def check_kept(run_folder: Path) -> None:
    record = read_record(run_folder)
    assert record.status == "incomplete"
    assert record.cells[0].blocks or record.cells[1].blocks
    assert not [path for path in run_folder.iterdir() if path.name.startswith(".")]
    assert record.schema_version == SCHEMA_VERSION
