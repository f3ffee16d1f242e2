from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from perfkit.trace.capture import WARMUP_STEPS, _without_chatter, capture
from perfkit.trace.read import read_trace
from perfkit.trace.validate import validate_trace

PROGRESS = b"USDT:2026-01-02 03:04:05 67:89 SyncActivityProfilerHandler.cpp:39] profiler_start\n"
NO_DRIVER = b"ERROR:2026-01-02 03:04:05 67:89 DeviceProperties.cpp:56] failed with code 35\n"
FOREIGN = b"something else\n"


def test_each_traced_step_is_one_range_and_no_empty_one_follows(captured: list[Path]) -> None:
    events = read_trace(captured[0]).events
    steps = [event for event in events if event["name"].startswith("ProfilerStep")]
    assert [step["name"] for step in steps] == [f"ProfilerStep#{k}" for k in (1, 2, 3)]
    for step in steps:
        inside = Counter(
            event["name"]
            for event in events
            if event["ph"] == "X"
            and event["ts"] >= step["ts"]
            and event["ts"] + event["dur"] <= step["ts"] + step["dur"]
        )
        assert inside["perfkit.forward"] == inside["perfkit.backward"] == 1
        assert inside["aten::linear"] == 2


def test_the_warm_up_step_is_not_recorded(captured: list[Path]) -> None:
    names = Counter(event["name"] for event in read_trace(captured[0]).events)
    assert names["perfkit.forward"] == 3
    assert names["perfkit.in_warmup"] == 0


def test_shapes_are_recorded_and_stacks_are_not(captured: list[Path]) -> None:
    trace = read_trace(captured[0])
    linear = next(event for event in trace.events if event["name"] == "aten::linear")
    assert linear["args"]["Input Dims"][0] == [2, 4]
    assert "python_function" not in {event.get("cat") for event in trace.events}


def test_capture_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with capture(tmp_path / "trace.json.gz", steps=1, cuda=False) as profiler:
        for _ in range(WARMUP_STEPS + 1):
            torch.ones(2).sum()
            profiler.step()
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json.gz"]


@pytest.mark.parametrize(("cuda", "shown"), [(False, FOREIGN), (True, NO_DRIVER + FOREIGN)])
def test_only_progress_lines_are_dropped_from_stderr(
    cuda: bool, shown: bytes, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with _without_chatter(cuda=cuda):
        os.write(2, PROGRESS + NO_DRIVER + FOREIGN)
    assert capfdbinary.readouterr().err == shown


def test_every_line_is_shown_when_the_profiler_fails(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    def fail() -> None:
        with _without_chatter(cuda=False):
            os.write(2, PROGRESS)
            raise OSError

    with pytest.raises(OSError):
        fail()
    assert capfdbinary.readouterr().err == PROGRESS


@pytest.mark.parametrize("made", [0, 1, 2, 4])
def test_another_number_of_steps_is_an_error_and_leaves_no_file(tmp_path: Path, made: int) -> None:
    def trace() -> None:
        with capture(tmp_path / "trace.json.gz", steps=2, cuda=False) as profiler:
            for _ in range(made):
                profiler.step()

    with pytest.raises(RuntimeError, match=f"saw {made} steps instead of 3"):
        trace()
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_a_step_passes_through_and_leaves_no_file(tmp_path: Path) -> None:
    def trace() -> None:
        with capture(tmp_path / "trace.json.gz", steps=2, cuda=False) as profiler:
            profiler.step()
            raise KeyError("in the step")

    with pytest.raises(KeyError, match="in the step"):
        trace()
    assert list(tmp_path.iterdir()) == []


def test_no_steps_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="at least one step"),
        capture(tmp_path / "trace.json.gz", steps=0, cuda=False),
    ):
        pass


@pytest.mark.gpu
def test_a_gpu_trace_holds_kernels(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    square = torch.ones(64, 64, device="cuda")
    path = tmp_path / "trace.json.gz"
    with capture(path, steps=2, cuda=True) as profiler:
        for _ in range(WARMUP_STEPS + 2):
            square @ square
            profiler.step()
    summary = validate_trace(path, steps=2, ranks=[0], ranges=[], gpu=True)
    assert summary.gpu_kernels >= 2
