"""Nsight Systems is recognised, and captures the traced steps alone."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch.cuda.profiler

from perfkit.trace.capture import CapturedSteps, capture
from perfkit.trace.nsight import under_nsys

INJECTION = "/opt/nvidia/nsight-systems/target-linux-x64/libToolsInjection64.so"


@pytest.mark.parametrize(
    ("environ", "is_there"),
    [
        ({"NSYS_PROFILING_SESSION_ID": "4711"}, True),
        ({"NVTX_INJECTION64_PATH": INJECTION}, True),
        ({"CUDA_INJECTION64_PATH": INJECTION}, True),
        ({}, False),
        ({"NSYS_PROFILING_SESSION_ID": ""}, False),
        ({"NVTX_INJECTION64_PATH": "/lib/nvtx_recorder.so"}, False),
        ({"CUDA_INJECTION64_PATH": "/lib/libcupti_of_another_tool.so"}, False),
        ({"PATH": "/opt/nvidia/nsight-systems/bin"}, False),
    ],
)
def test_nsys_is_known_by_what_it_tells_its_target(environ: dict[str, str], is_there: bool) -> None:
    assert under_nsys(environ) is is_there


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was called so far, calls of CUDA's profiler among it."""
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda.profiler, "start", lambda: calls.append("start"))
    monkeypatch.setattr(torch.cuda.profiler, "stop", lambda: calls.append("stop"))
    return calls


@pytest.fixture
def nsys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSYS_PROFILING_SESSION_ID", "4711")


def take_steps(path: Path, calls: list[str], made: int, *, cuda: bool) -> None:
    with capture(path, steps=2, cuda=cuda) as captured:
        for index in range(made):
            calls.append(f"step {index}")
            captured.step()
        calls.append("after")


@pytest.mark.usefixtures("nsys")
def test_the_window_reaches_from_the_end_of_the_warm_up_to_the_end_of_the_last_step(
    tmp_path: Path, calls: list[str]
) -> None:
    take_steps(tmp_path / "trace.json.gz", calls, 3, cuda=True)
    assert calls == ["step 0", "start", "step 1", "step 2", "stop", "after"]


@pytest.mark.usefixtures("nsys")
def test_under_nsys_torchs_profiler_stays_off(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(torch.profiler.profile, "__init__", refuse)
    take_steps(tmp_path / "trace.json.gz", calls, 3, cuda=True)
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_cudas_profiler_is_left_alone(tmp_path: Path, calls: list[str]) -> None:
    take_steps(tmp_path / "trace.json.gz", calls, 3, cuda=False)
    assert calls == ["step 0", "step 1", "step 2", "after"]
    assert (tmp_path / "trace.json.gz").exists()


class FakeProfiler(torch.profiler.profile):
    """Notes when it is told of a step."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def step(self) -> None:
        self.calls.append("profiler")


def test_the_window_is_opened_before_the_trace_begins_and_closed_after_its_end(
    calls: list[str],
) -> None:
    with ExitStack() as window:
        captured = CapturedSteps(2, FakeProfiler(calls), window, cuda=True)
        for _ in range(3):
            captured.step()
    assert calls == ["start", "profiler", "profiler", "profiler", "stop"]


@pytest.mark.usefixtures("nsys")
@pytest.mark.parametrize(
    ("made", "expected"), [(0, []), (1, ["start", "stop"]), (2, ["start", "stop"])]
)
def test_an_error_in_a_step_closes_the_window_that_is_open(
    tmp_path: Path, calls: list[str], made: int, expected: list[str]
) -> None:
    def fail_after(steps: int) -> None:
        with capture(tmp_path / "trace.json.gz", steps=2, cuda=True) as captured:
            for _ in range(steps):
                captured.step()
            raise KeyError("in the step")

    with pytest.raises(KeyError, match="in the step"):
        fail_after(made)
    assert calls == expected


@pytest.mark.usefixtures("nsys")
@pytest.mark.parametrize("made", [0, 2, 4])
def test_another_number_of_steps_is_an_error_under_nsys_too(
    tmp_path: Path, calls: list[str], made: int
) -> None:
    with pytest.raises(RuntimeError, match=f"saw {made} steps instead of 3"):
        take_steps(tmp_path / "trace.json.gz", calls, made, cuda=True)
    assert calls.count("start") == calls.count("stop") == (made > 0)


@pytest.mark.usefixtures("nsys")
def test_a_profiler_that_cannot_be_started_is_not_stopped(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda.profiler, "start", failing_start)
    with pytest.raises(RuntimeError, match="no device"):
        take_steps(tmp_path / "trace.json.gz", calls, 3, cuda=True)
    assert calls == ["step 0"]


def failing_start() -> None:
    raise RuntimeError("no device")
