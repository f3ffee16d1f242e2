"""What Nsight Systems would be told: NVTX ranges, received by an injected library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from nvtx_recorder import Range, build_recorder, read_ranges, recording

from perfkit.core.record import Record, read_record
from perfkit.measure.recorder import PHASES
from perfkit.trace.capture import WARMUP_STEPS
from perfkit.trace.read import read_trace

SUPPORT = Path(__file__).parents[1] / "support"
TRACED_STEPS = 2
STAGES = range(4)  # of tiny:Tiny
THERE, BACK = "transfer stand-in:0 to stand-in:1", "transfer stand-in:1 to stand-in:0"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_recorder(tmp_path_factory.mktemp("nvtx"))


def run_python(*arguments: str, environment: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(
        (sys.executable, *arguments),
        env={**environment, "PYTHONPATH": str(SUPPORT)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ANNOTATED = """
import threading
import nvtx
from perfkit.core.annotate import OpenRange, annotate

def in_thread(opened):
    with annotate("other thread"):
        opened.close()

with annotate("outer"):
    try:
        with annotate('a "quoted" \\\\ name'):
            raise KeyError
    except KeyError:
        pass
    thread = threading.Thread(target=in_thread, args=(OpenRange("open"),))
    thread.start()
    thread.join()
with nvtx.annotate("foreign", domain="another"):
    pass
"""


def test_names_domains_nesting_and_threads_arrive_as_they_were(
    library: Path, tmp_path: Path
) -> None:
    run_python("-c", ANNOTATED, environment=recording(library, tmp_path / "log"), cwd=tmp_path)
    outer, failed, opened, other, foreign = read_ranges(tmp_path / "log")
    assert [r.name for r in (outer, failed, opened, other, foreign)] == [
        "outer",
        'a "quoted" \\ name',
        "open",
        "other thread",
        "foreign",
    ]
    assert [r.domain for r in (outer, failed, opened, other)] == ["perfkit"] * 4
    assert foreign.domain == "another"
    assert all(outer.holds(r) for r in (failed, opened, other))
    assert not outer.holds(foreign)
    assert [r.scoped for r in (outer, failed, opened, other)] == [True, True, False, True]
    assert opened.thread == outer.thread != other.thread == opened.closing_thread
    assert other.opened < opened.closed < other.closed


def test_a_library_that_cannot_be_loaded_is_noticed_though_nvtx_is_silent(tmp_path: Path) -> None:
    environment = recording(tmp_path / "absent.so", tmp_path / "log")
    run_python("-c", ANNOTATED, environment=environment, cwd=tmp_path)
    with pytest.raises(AssertionError, match="no NVTX event arrived"):
        read_ranges(tmp_path / "log")


class Run(NamedTuple):
    """A run, and what NVTX told of it."""

    printed: str
    folder: Path
    record: Record
    ranges: list[Range]

    @property
    def traced_pid(self) -> int:
        """The rank's process: stages have ranges in the traced pass alone."""
        (pid,) = {r.pid for r in self.ranges if r.name.startswith("stage")}
        return pid

    def steps(self, pid: int) -> list[list[Range]]:
        """Every step of a process, each with all that it holds in the order it was opened."""
        own = [r for r in self.ranges if r.pid == pid]
        return [[r for r in own if step.holds(r)] for step in own if step.name == "step"]


def profile(library: Path, folder: Path, *flags: str, **variables: str) -> Run:
    printed = run_python(
        *("-m", "perfkit.profile", "--workload", "tiny:Tiny", *flags),
        *("--steps", "10", "--rounds", "2", "--warmup", "3"),
        *("--trace-steps", str(TRACED_STEPS), "--name", "run"),
        environment={**recording(library, folder / "log"), **variables},
        cwd=folder,
    )
    run_folder = folder / "runs" / "run"
    return Run(printed, run_folder, read_record(run_folder), read_ranges(folder / "log"))


@pytest.fixture(scope="module")
def run(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    flags = ("--strategy", "model_parallel", "--gpus", "2")
    return profile(library, tmp_path_factory.mktemp("run"), *flags)


def test_every_step_of_every_process_holds_its_phases_in_order_on_its_own_thread(run: Run) -> None:
    assert {r.domain for r in run.ranges} == {"perfkit"}
    steps = [step for step in run.ranges if step.name == "step"]
    for step in steps:
        phases = [r for r in run.ranges if r.name in PHASES and step.holds(r)]
        assert [phase.name for phase in phases] == list(PHASES)
        assert {phase.thread for phase in phases} == {step.thread}
        assert all(phase.scoped for phase in (step, *phases))
    assert sum(r.name in PHASES for r in run.ranges) == len(PHASES) * len(steps)


def test_the_timed_steps_are_among_them_and_the_traced_ones_come_last(run: Run) -> None:
    steps = run.steps(run.traced_pid)
    first_step, traced = 1, WARMUP_STEPS + TRACED_STEPS
    warmup, timed = len(run.record.cells[0].warmup_step_s), 10
    assert len(steps) >= first_step + warmup + timed + traced
    with_stages = [any(r.name.startswith("stage") for r in step) for step in steps]
    assert with_stages == [False] * (len(steps) - traced) + [True] * traced


def test_stages_and_transfers_lie_in_forward_and_backward(run: Run) -> None:
    for step in run.steps(run.traced_pid)[-TRACED_STEPS:]:
        by_name = {r.name: r for r in step}
        assert len(by_name) == len(step)
        inside = {
            phase: [r.name for r in step if by_name[phase].holds(r) and r.name not in (THERE, BACK)]
            for phase in PHASES
        }
        assert inside == {
            **{phase: [] for phase in PHASES},
            "forward": [f"stage{index}.forward" for index in STAGES],
            "backward": [f"stage{index}.backward" for index in reversed(STAGES)],
        }
        assert by_name["forward"].holds(by_name[THERE])
        assert by_name["backward"].holds(by_name[BACK])
        # Another thread may close a stage's backward, which push and pop do not allow.
        assert not any(r.scoped for r in step if r.name.startswith("stage"))


def test_nsight_is_told_what_torchs_profiler_recorded_thread_by_thread(run: Run) -> None:
    events = read_trace(run.folder / "traces" / "rank0.json.gz").events
    recorded = [
        (event["pid"], event["tid"], event["name"].removeprefix("perfkit."))
        for event in sorted(events, key=lambda event: event.get("ts", 0))
        if event.get("cat") == "user_annotation" and event["name"].startswith("perfkit.")
    ]
    told = [
        (r.pid, r.thread, r.name)
        for step in run.steps(run.traced_pid)[-TRACED_STEPS:]
        for r in step
    ]
    assert told == [entry for entry in recorded if entry[2] != "step"]
    assert sum(name == "step" for _, _, name in recorded) == TRACED_STEPS


def test_gate_and_baselines_step_in_processes_of_their_own_without_stages(run: Run) -> None:
    others = {r.pid for r in run.ranges} - {run.traced_pid}
    baselines = sum(cell.role == "baseline" for cell in run.record.cells)
    assert len(others) == 1 + baselines
    assert all(run.steps(pid) for pid in others)


def test_under_nsys_no_trace_is_written_and_the_traced_steps_still_arrive(
    library: Path, tmp_path: Path
) -> None:
    run = profile(library, tmp_path, "--strategy", "serial", NSYS_PROFILING_SESSION_ID="1")
    assert run.record.status == "complete"
    assert run.record.traces is not None
    assert run.record.traces.files == []
    assert len(run.record.traces.step_s) == TRACED_STEPS
    assert not (run.folder / "traces").exists()
    assert "json.gz" not in run.printed
    traced = run.steps(run.traced_pid)[-TRACED_STEPS:]
    assert all({"stage3.backward", "optimizer"} <= {r.name for r in step} for step in traced)
