"""Backward ranges of a merged trace nest with the autograd events around them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perfkit.strategies.observe import stage_ranges
from perfkit.trace.capture import WARMUP_STEPS, capture
from perfkit.trace.merge import TracePart, merge_traces
from perfkit.trace.nesting import nest_backward_ranges
from perfkit.trace.read import read_trace


def overlapping(events: list[dict[str, Any]]) -> int:
    """Count the pairs of neighbours on a thread that overlap without one holding the other."""
    count = 0
    threads = {(e["pid"], e["tid"]) for e in events if e["ph"] == "X"}
    for thread in threads:
        open_until: list[float] = []
        spans = sorted(
            (e["ts"], -e["dur"])
            for e in events
            if e["ph"] == "X" and (e["pid"], e["tid"]) == thread
        )
        for start, minus_duration in spans:
            while open_until and open_until[-1] <= start:
                open_until.pop()
            count += bool(open_until and start - minus_duration > open_until[-1] + 1e-3)
            open_until.append(start - minus_duration)
    return count


def test_stage_backward_ranges_of_a_real_capture_nest_after_the_merge(tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(4)))
    path, merged = tmp_path / "rank0.json.gz", tmp_path / "merged.json.gz"
    with stage_ranges(list(model)), capture(path, steps=2, cuda=False) as profiler:
        for _ in range(WARMUP_STEPS + 2):
            model(torch.randn(8, 16)).sum().backward()
            profiler.step()
    assert overlapping(read_trace(path).events) > 0  # what the viewer would stumble over
    merge_traces([TracePart(path, 0, "rank 0")], merged)
    events = read_trace(merged).events
    assert overlapping(events) == 0
    names = [event["name"] for event in events if event["ph"] == "X"]
    assert {name: names.count(name) for name in names if name.endswith(".backward")} == {
        f"perfkit.stage{stage}.backward": 2 for stage in range(4)
    }


def test_an_edge_moves_to_the_start_of_the_event_it_falls_into() -> None:
    function = {"ph": "X", "name": "autograd::engine::evaluate_function: Add", "pid": 1, "tid": 1}
    events: list[dict[str, Any]] = [
        {**function, "ts": 10.0, "dur": 5.0},
        {**function, "ts": 20.0, "dur": 5.0},
        {**function, "ts": 20.0, "dur": 9.0, "tid": 2},
        {
            **{"ph": "X", "name": "perfkit.stage0.backward", "cat": "user_annotation"},
            **{"pid": 1, "tid": 1, "ts": 12.0, "dur": 10.0},
        },
    ]
    before = json.dumps(events[:3])
    nest_backward_ranges(events)
    assert (events[3]["ts"], events[3]["dur"]) == (10.0, 10.0)
    assert json.dumps(events[:3]) == before
