from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from perfkit.core.errors import PerfkitError
from perfkit.trace.merge import TracePart, merge_traces
from perfkit.trace.read import read_trace
from perfkit.trace.validate import validate_trace


@pytest.fixture(scope="module")
def merged(captured: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("merged") / "merged.json.gz"
    merge_traces([TracePart(path, rank, "r") for rank, path in enumerate(captured)], out)
    return out


def annotation(name: str) -> dict[str, Any]:
    return {"ph": "X", "cat": "user_annotation", "name": name, "pid": 7, "ts": 1.0, "dur": 1.0}


def gpu_trace(path: Path) -> Path:
    """Write a trace of rank 5 with one step, the range of both sides, and one kernel."""
    events = [
        annotation("ProfilerStep#1"),
        annotation("ProfilerStep#1") | {"cat": "gpu_user_annotation", "pid": 0},
        annotation("perfkit.forward"),
        annotation("perfkit.forward") | {"cat": "gpu_user_annotation", "pid": 0},
        annotation("gemm") | {"cat": "kernel", "pid": 0},
    ]
    path.write_text(json.dumps({"distributedInfo": {"rank": 5}, "traceEvents": events}))
    return path


def test_a_whole_trace_is_summed_up(merged: Path) -> None:
    ranges = ["perfkit.forward", "perfkit.backward"]
    summary = validate_trace(merged, steps=3, ranks=[0, 1], ranges=ranges, gpu=False)
    assert summary.steps_per_rank == {0: 3, 1: 3}
    assert summary.ranges == {"perfkit.forward": 6, "perfkit.backward": 6}
    assert summary.gpu_kernels == 0
    assert summary.size_bytes == merged.stat().st_size
    assert summary.events == sum(event["ph"] != "M" for event in read_trace(merged).events)


def test_a_file_without_a_rank_is_of_the_only_one_asked_for(captured: list[Path]) -> None:
    summary = validate_trace(captured[0], steps=3, ranks=[4], ranges=[], gpu=False)
    assert summary.steps_per_rank == {4: 3}


def test_the_gpu_side_of_a_range_is_not_counted_again(tmp_path: Path) -> None:
    path = gpu_trace(tmp_path / "gpu.json")
    summary = validate_trace(path, steps=1, ranks=[5], ranges=["perfkit.forward"], gpu=True)
    assert summary.steps_per_rank == {5: 1}
    assert summary.ranges == {"perfkit.forward": 1}
    assert summary.gpu_kernels == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 4}, "rank 0 has 3 ProfilerStep ranges instead of 4"),
        ({"steps": 2}, "rank 0 has 3 ProfilerStep ranges instead of 2"),
        ({"ranks": [0, 1, 2]}, "rank 2 is missing, the trace holds rank 0, 1"),
        ({"ranges": ["perfkit.forward", "perfkit.c"]}, "no range named perfkit.c;"),
        ({"gpu": True}, "rank 0 has no GPU kernels"),
    ],
)
def test_what_is_missing_is_named_in_one_line(
    merged: Path, change: dict[str, Any], message: str
) -> None:
    asked: dict[str, Any] = {"steps": 3, "ranks": [0, 1], "ranges": [], "gpu": False}
    with pytest.raises(PerfkitError) as raised:
        validate_trace(merged, **(asked | change))
    assert str(raised.value).startswith(f"{merged}: {message}")
    assert "\n" not in str(raised.value)


def test_the_rank_in_the_file_holds_against_the_one_asked_for(tmp_path: Path) -> None:
    path = gpu_trace(tmp_path / "gpu.json")
    with pytest.raises(PerfkitError, match="rank 0 is missing, the trace holds rank 5"):
        validate_trace(path, steps=1, ranks=[0], ranges=[], gpu=True)


def test_a_rank_without_kernels_is_found_beside_one_with_kernels(tmp_path: Path) -> None:
    silent = tmp_path / "silent.json"
    silent.write_text(json.dumps({"traceEvents": [annotation("ProfilerStep#1")]}))
    parts = [TracePart(gpu_trace(tmp_path / "gpu.json"), 5, "r"), TracePart(silent, 6, "r")]
    merge_traces(parts, tmp_path / "merged.json.gz")
    with pytest.raises(PerfkitError, match="rank 6 has no GPU kernels"):
        validate_trace(tmp_path / "merged.json.gz", steps=1, ranks=[5, 6], ranges=[], gpu=True)


def test_a_file_of_unknown_rank_is_not_taken_for_several(captured: list[Path]) -> None:
    with pytest.raises(PerfkitError, match="does not say which of the ranks 0, 1"):
        validate_trace(captured[0], steps=3, ranks=[0, 1], ranges=[], gpu=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b'{"traceEvents": []}', mtime=0)[:-12], "damaged or cut off"),
        (gzip.compress(b'{"traceEvents": []}', mtime=0)[:9] + b"\xff" * 20, "damaged or cut off"),
        (gzip.compress(b'{"traceEvents": [{"ph', mtime=0), "JSON is damaged"),
        (b"", "JSON is damaged"),
        (b"[]", "no torch.profiler trace"),
        (b'{"a": 1}', "no torch.profiler trace"),
        (b'{"traceEvents": {"ph": "X"}}', "no torch.profiler trace"),
        (b'{"traceEvents": [3]}', "no torch.profiler trace"),
        (b'{"traceEvents": [{"ph": "X", "name": "op"}]}', "no torch.profiler trace"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "trace.json.gz"
    path.write_bytes(content)
    with pytest.raises(PerfkitError, match=message) as raised:
        read_trace(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PerfkitError, match=r"none\.json\.gz: cannot be read \(No such file"):
        read_trace(tmp_path / "none.json.gz")


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "steps", "rank", "kernels"),
    [
        ("a100_2rank_rank0", 3, 0, 2700),
        ("amd_mi250_1gpu", 2, 0, 14),
        ("a100_8rank_rank3", 6, 3, 8568),
        ("cpu_vit_1rank", 3, 0, 0),
    ],
)
def test_real_traces_hold_what_they_are_known_to_hold(
    data_dir: Path, name: str, steps: int, rank: int, kernels: int
) -> None:
    path = data_dir / "kineto-traces" / f"{name}.json.gz"
    summary = validate_trace(path, steps=steps, ranks=[rank], ranges=[], gpu=kernels > 0)
    assert summary.gpu_kernels == kernels
