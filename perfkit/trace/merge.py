"""The traces of several ranks on one time axis, in one file.

Every process of a rank (its host process, its GPUs) gets a number of its own, since all ranks
call their first GPU 0 and processes of two hosts may share a number; flows get new ids for the
same reason. Numbers start at 1: viewers treat process 0 as the idle task of the kernel.

The file has one more top-level key than torch.profiler writes, ``perfkit``::

    {"parts": [{"rank", "label", "file", "shift_us", "clock_sync_error_bound_us",
                "pids": {"<process number here>": <process in the part>},
                "metadata": {<every top-level key of the part but traceEvents>}}]}
"""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import orjson

from perfkit.core.files import replacing
from perfkit.trace.nesting import nest_backward_ranges
from perfkit.trace.read import Trace, read_trace

_PROCESS_METADATA = ("process_name", "process_labels", "process_sort_index")
_LAST = 2**31


@dataclass(frozen=True)
class TracePart:
    """The trace of one rank.

    ``label`` stands before the name of each of its processes in a viewer. ``shift_us`` is what to
    add to its times to be on the clock of rank 0, right to within ``error_bound_us`` (both in
    microseconds; see :mod:`perfkit.trace.clock_sync`).
    """

    path: Path
    rank: int
    label: str
    shift_us: float = 0.0
    error_bound_us: float = 0.0


def merge_traces(parts: Sequence[TracePart], out: Path) -> None:
    """Write the traces of ``parts``, in order of rank, to ``out`` as one gzip JSON file.

    Every event is kept, but for the names of processes that have no events; the ranges of stages'
    backward are moved so that they nest. One part is in memory at a time.

    Raises:
        ValueError: no part, two parts of one rank, a part that is a merged trace or of another
            rank than said, or parts of different trace formats.
        PerfkitError: a part is missing or damaged.
    """
    ranks = [part.rank for part in parts]
    if not parts or len(set(ranks)) != len(ranks):
        raise ValueError(f"a merged trace needs one part for each rank, not parts of ranks {ranks}")

    process_numbers = count(1)
    flow_numbers = count(1)
    entries: list[dict[str, Any]] = []
    separator = b"\n"
    with replacing(out) as temporary, gzip.open(temporary, "wb", compresslevel=6) as file:
        for part in sorted(parts, key=lambda part: part.rank):
            first = entries[0]["metadata"] if entries else None
            events, entry = _convert(part, first, process_numbers, flow_numbers)
            if not entries:
                file.write(_head(entry["metadata"]))
            entries.append(entry)
            if events:
                file.write(separator + events)
                separator = b",\n"
        file.write(b'\n],\n"perfkit":' + orjson.dumps({"parts": entries}) + b"}\n")


def _convert(
    part: TracePart,
    first: dict[str, Any] | None,
    process_numbers: count[int],
    flow_numbers: count[int],
) -> tuple[bytes, dict[str, Any]]:
    """Return the events of ``part`` as they go into the merged file, and its entry there.

    ``first`` is the metadata of the first part, on whose time base all events go.
    """
    trace = read_trace(part.path)
    if first is None:
        first = trace.metadata
    _check_part(part, trace, first)
    # Both bases are whole nanoseconds since 1970; as floats they would be off by up to 128.
    base_ns, first_base_ns = (
        data.get("baseTimeNanoseconds", 0) for data in (trace.metadata, first)
    )
    delta_us = (base_ns - first_base_ns) / 1000 + part.shift_us
    nest_backward_ranges(trace.events)
    events, pids = _renumber(trace.events, part.label, process_numbers, flow_numbers)
    if delta_us:
        for event in events:
            if "ts" in event:
                event["ts"] = round(event["ts"] + delta_us, 3)
    entry = {
        "rank": part.rank,
        "label": part.label,
        "file": part.path.name,
        "shift_us": part.shift_us,
        "clock_sync_error_bound_us": part.error_bound_us,
        "pids": {str(new): old for old, new in pids.items()},
        "metadata": trace.metadata,
    }
    return orjson.dumps(events)[1:-1], entry


def _head(metadata: dict[str, Any]) -> bytes:
    """Return the merged file up to its first event."""
    shared = {
        key: metadata[key]
        for key in ("schemaVersion", "displayTimeUnit", "baseTimeNanoseconds")
        if key in metadata
    }
    return orjson.dumps(shared)[:-1] + (b"," if shared else b"") + b'\n"traceEvents":['


def _check_part(part: TracePart, trace: Trace, first: dict[str, Any]) -> None:
    """Raise ValueError for a part that does not go with its neighbours."""
    if "perfkit" in trace.metadata:
        raise ValueError(f"{part.path} is a merged trace; merge the traces of single ranks")
    if trace.rank not in (None, part.rank):
        raise ValueError(f"{part.path} is a trace of rank {trace.rank}, not of rank {part.rank}")
    version = trace.metadata.get("schemaVersion")
    if version != first.get("schemaVersion"):
        raise ValueError(
            f"{part.path} has trace format {version}, others {first.get('schemaVersion')}"
        )
    # Without a base, times count from 1970 and are whole microseconds in older formats.
    if ("baseTimeNanoseconds" in trace.metadata) != ("baseTimeNanoseconds" in first):
        raise ValueError(
            f"{part.path} and the others do not agree on whether times are relative to a "
            "baseTimeNanoseconds: they come from different versions of torch"
        )


def _renumber(
    events: list[dict[str, Any]], label: str, process_numbers: count[int], flow_numbers: count[int]
) -> tuple[list[dict[str, Any]], dict[int | str, int]]:
    """Give processes and flows numbers of their own, in place.

    Return the events, led by names of the processes, and the new number of each old process.
    """
    described: dict[str, dict[int | str, Any]] = {name: {} for name in _PROCESS_METADATA}
    for event in events:
        if event["ph"] == "M" and event["name"] in described:
            # args holds one value, under a key that differs: name, labels, sort_index.
            described[event["name"]][event["pid"]] = next(iter(event["args"].values()))
    names, labels, order = (described[name] for name in _PROCESS_METADATA)

    # Kineto names every GPU of the host in every rank; only those with events are of interest.
    active = {event["pid"]: None for event in events if event["ph"] != "M"}
    pids = {
        old: next(process_numbers) for old in sorted(active, key=lambda pid: order.get(pid, _LAST))
    }
    kept: list[dict[str, Any]] = []
    for old, new in pids.items():
        name = labels.get(old) or names.get(old) or old
        heading: dict[str, dict[str, Any]] = {
            "process_name": {"name": f"{label} · {name}" if name != "" else label},
            "process_sort_index": {"sort_index": new},
        }
        kept += [
            {"ph": "M", "name": key, "pid": new, "args": args} for key, args in heading.items()
        ]
    flows: defaultdict[int | str, int] = defaultdict(flow_numbers.__next__)
    for event in events:
        old = event["pid"]
        if old not in pids or (event["ph"] == "M" and event["name"] in described):
            continue
        event["pid"] = pids[old]
        if "id" in event:
            event["id"] = flows[event["id"]]
        kept.append(event)
    return kept, pids
