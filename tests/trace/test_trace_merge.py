from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from perfkit.core.errors import PerfkitError
from perfkit.trace.merge import TracePart, merge_traces
from perfkit.trace.read import read_trace
from perfkit.trace.validate import validate_trace

Event = dict[str, Any]
BASE_NS = 1_790_857_026_000_000_000


def load(path: Path) -> dict[str, Any]:
    with gzip.open(path) as file:
        loaded: dict[str, Any] = json.load(file)
    return loaded


def parts_of(paths: Sequence[Path]) -> list[TracePart]:
    return [TracePart(path, rank, f"rank {rank}") for rank, path in enumerate(paths)]


def timed(events: list[Event]) -> list[Event]:
    """Return what is no metadata, in the order of the file."""
    return [event for event in events if event["ph"] != "M"]


def of_rank(merged: dict[str, Any], rank: int) -> list[Event]:
    (part,) = (part for part in merged["perfkit"]["parts"] if part["rank"] == rank)
    return [event for event in merged["traceEvents"] if str(event["pid"]) in part["pids"]]


def write(path: Path, events: list[Event], **metadata: object) -> Path:
    path.write_text(json.dumps({"schemaVersion": 1, **metadata, "traceEvents": events}))
    return path


def event_at(ts: float) -> Event:
    return {"ph": "X", "name": "op", "cat": "cpu_op", "pid": 7, "tid": 7, "ts": ts, "dur": 1.5}


def assert_each_part_is_kept(merged: dict[str, Any], paths: Sequence[Path]) -> None:
    for rank, path in enumerate(paths):
        before, after = timed(load(path)["traceEvents"]), timed(of_rank(merged, rank))
        assert len(before) == len(after)
        changed = {"pid", "id", "ts"}
        for old, new in zip(before, after, strict=True):
            assert {k: v for k, v in old.items() if k not in changed} == {
                k: v for k, v in new.items() if k not in changed
            }


def assert_trace_event_format(document: dict[str, Any]) -> None:
    for event in document["traceEvents"]:
        assert isinstance(event["ph"], str)
        assert isinstance(event["pid"], int)
        assert event["pid"] > 0
        if event["ph"] == "X":
            assert event["ts"] >= 0
            assert event["dur"] >= 0
        if event["ph"] in "sf":
            assert isinstance(event["id"], int)


def test_every_event_of_every_rank_is_kept(captured: list[Path], tmp_path: Path) -> None:
    merge_traces(parts_of(captured), tmp_path / "merged.json.gz")
    merged = load(tmp_path / "merged.json.gz")
    assert_each_part_is_kept(merged, captured)
    assert_trace_event_format(merged)
    assert [path.name for path in tmp_path.iterdir()] == ["merged.json.gz"]


def test_processes_are_named_and_sorted_by_rank(captured: list[Path], tmp_path: Path) -> None:
    merge_traces(list(reversed(parts_of(captured))), tmp_path / "merged.json.gz")
    events = load(tmp_path / "merged.json.gz")["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    places = {
        e["pid"]: e["args"]["sort_index"] for e in events if e["name"] == "process_sort_index"
    }
    assert names.keys() == places.keys() == {event["pid"] for event in events}
    in_order = [names[pid] for pid in sorted(names, key=lambda pid: places[pid])]
    assert in_order[0] == "rank 0 · CPU"
    ranks = [int(name.split()[1]) for name in in_order]
    assert ranks == sorted(ranks)
    assert set(ranks) == {0, 1}


def test_a_flow_stays_within_its_rank(captured: list[Path], tmp_path: Path) -> None:
    merge_traces(parts_of(captured), tmp_path / "merged.json.gz")
    merged = load(tmp_path / "merged.json.gz")
    flows = [
        {(event["cat"], event["id"]) for event in of_rank(merged, rank) if "id" in event}
        for rank in (0, 1)
    ]
    before = [
        {(event["cat"], event["id"]) for event in load(path)["traceEvents"] if "id" in event}
        for path in captured
    ]
    assert [len(ids) for ids in flows] == [len(ids) for ids in before]
    assert before[0] & before[1]
    assert not flows[0] & flows[1]


def test_times_of_a_part_are_shifted_and_the_bound_is_kept(
    captured: list[Path], tmp_path: Path
) -> None:
    first, second = parts_of(captured)
    shifted = TracePart(second.path, 1, "rank 1", shift_us=-1500.25, error_bound_us=12.5)
    merge_traces([first, shifted], tmp_path / "merged.json.gz")
    merged = load(tmp_path / "merged.json.gz")
    for rank, shift_us in ((0, 0.0), (1, -1500.25)):
        before = timed(load(captured[rank])["traceEvents"])
        for old, new in zip(before, timed(of_rank(merged, rank)), strict=True):
            assert new["ts"] - old["ts"] == pytest.approx(shift_us, abs=0.002)
    written = merged["perfkit"]["parts"][1]
    assert (written["shift_us"], written["clock_sync_error_bound_us"]) == (-1500.25, 12.5)
    assert written["metadata"] == read_trace(captured[1]).metadata


def test_times_relative_to_different_bases_are_brought_to_one(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a.json", [event_at(5_000_000.125)], baseTimeNanoseconds=BASE_NS),
        write(tmp_path / "b.json", [event_at(1_000_000.5)], baseTimeNanoseconds=BASE_NS + 10**9),
    ]
    merge_traces(parts_of(paths), tmp_path / "merged.json.gz")
    merged = load(tmp_path / "merged.json.gz")
    assert merged["baseTimeNanoseconds"] == BASE_NS
    assert [event["ts"] for event in timed(merged["traceEvents"])] == [5_000_000.125, 2_000_000.5]


def test_processes_without_events_are_left_out(tmp_path: Path) -> None:
    named = [
        {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": "python"}}
        for pid in (7, 8)
    ]
    path = write(tmp_path / "a.json", [*named, event_at(1.0)])
    merge_traces([TracePart(path, 0, "rank 0")], tmp_path / "merged.json.gz")
    merged = load(tmp_path / "merged.json.gz")
    names = [e["args"]["name"] for e in merged["traceEvents"] if e["name"] == "process_name"]
    assert names == ["rank 0 · python"]


def test_a_part_without_events_keeps_its_place(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a.json", []),
        write(tmp_path / "b.json", [event_at(1.0)]),
        write(tmp_path / "c.json", []),
        write(tmp_path / "d.json", [event_at(2.0)]),
    ]
    merge_traces(parts_of(paths), tmp_path / "merged.json.gz")
    merged = load(tmp_path / "merged.json.gz")
    assert [event["ts"] for event in timed(merged["traceEvents"])] == [1.0, 2.0]
    assert [len(part["pids"]) for part in merged["perfkit"]["parts"]] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"schemaVersion": 2}, "trace format 2, others 1"),
        ({"baseTimeNanoseconds": BASE_NS}, "different versions of torch"),
        ({"distributedInfo": {"rank": 3}}, "a trace of rank 3, not of rank 1"),
        ({"perfkit": {"parts": []}}, "a merged trace"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(
    tmp_path: Path, odd: dict[str, object], message: str
) -> None:
    paths = [
        write(tmp_path / "a.json", [event_at(1.0)]),
        write(tmp_path / "b.json", [event_at(1.0)], **odd),
    ]
    out = tmp_path / "out" / "merged.json.gz"
    with pytest.raises(ValueError, match=message):
        merge_traces(parts_of(paths), out)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("ranks", [[], [1, 1]])
def test_each_rank_has_one_part(captured: list[Path], tmp_path: Path, ranks: list[int]) -> None:
    parts = [TracePart(captured[0], rank, "rank") for rank in ranks]
    with pytest.raises(ValueError, match="one part for each rank"):
        merge_traces(parts, tmp_path / "merged.json.gz")


def test_a_damaged_part_leaves_the_older_file_alone(captured: list[Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.json.gz"
    cut.write_bytes(captured[1].read_bytes()[:-100])
    out = tmp_path / "merged.json.gz"
    merge_traces(parts_of(captured), out)
    before = out.read_bytes()
    with pytest.raises(PerfkitError, match=r"cut\.json\.gz"):
        merge_traces(parts_of([captured[0], cut]), out)
    assert out.read_bytes() == before


@pytest.mark.real_data
def test_two_ranks_of_a_128_rank_job_merge(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "kineto-traces"
    paths = [folder / f"sampled_128rank_rank{rank}.json.gz" for rank in (0, 1)]
    out = tmp_path / "merged.json.gz"
    merge_traces(parts_of(paths), out)
    merged = load(out)
    assert_each_part_is_kept(merged, paths)
    assert_trace_event_format(merged)

    parts = [
        validate_trace(path, steps=2, ranks=[rank], ranges=[], gpu=True)
        for rank, path in enumerate(paths)
    ]
    whole = validate_trace(out, steps=2, ranks=[0, 1], ranges=["## forward ##"], gpu=True)
    assert whole.steps_per_rank == {0: 2, 1: 2}
    assert whole.events == sum(part.events for part in parts)
    assert whole.gpu_kernels == 1154 + 1104
    assert whole.ranges == dict(sum((Counter(part.ranges) for part in parts), Counter()))


@pytest.mark.real_data
def test_flows_of_a_real_gpu_trace_join_host_and_gpu(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "kineto-traces" / "a100_2rank_rank0.json.gz"
    out = tmp_path / "merged.json.gz"
    merge_traces(
        [
            TracePart(path, 0, "rank 0"),
        ],
        out,
    )
    merged = load(out)
    assert_each_part_is_kept(merged, [path])
    assert_trace_event_format(merged)

    def ends(document: dict[str, Any]) -> Counter[tuple[tuple[str, str, float], ...]]:
        flows: defaultdict[tuple[str, int], list[tuple[str, str, float]]] = defaultdict(list)
        for event in document["traceEvents"]:
            if "id" in event:
                flows[event["cat"], event["id"]].append((event["ph"], event["name"], event["ts"]))
        return Counter(tuple(sorted(flow)) for flow in flows.values())

    assert ends(merged) == ends(load(path))


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name", ["amd_mi250_1gpu", "gloo_cpu_only_rank34", "a100_event_sync_multi_stream"]
)
def test_processes_of_real_traces_keep_their_order(
    data_dir: Path, tmp_path: Path, name: str
) -> None:
    trace = read_trace(data_dir / "kineto-traces" / f"{name}.json.gz")
    rank = 0 if trace.rank is None else trace.rank
    out = tmp_path / "merged.json.gz"
    merge_traces([TracePart(trace.path, rank, "rank")], out)
    merged = load(out)
    assert_trace_event_format(merged)
    index = {
        e["pid"]: e["args"]["sort_index"] for e in trace.events if e["name"] == "process_sort_index"
    }
    pids = merged["perfkit"]["parts"][0]["pids"]
    places = [index[pids[new]] for new in sorted(pids, key=int) if pids[new] in index]
    assert len(places) >= 2
    assert all(one < next_one for one, next_one in pairwise(places))
