"""Making the ranges of backward nest, as viewers need them.

Ranges of a stage's backward open and close in hooks, which autograd calls in the middle of an
``autograd::engine::evaluate_function`` event. Two events of one thread that overlap without one
holding the other are not valid in a trace: Perfetto drops or misplaces them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from typing import Any

_BACKWARD_RANGE = re.compile(r"perfkit\.stage\d+\.backward")
_AUTOGRAD_PREFIX = "autograd::engine::evaluate_function"


def nest_backward_ranges(events: list[dict[str, Any]]) -> None:
    """Move each edge of a stage's backward range to the start of the event it falls into, in place.

    The hook ran in that event, so the range is off by less than one operator.
    """
    functions: dict[tuple[Any, Any], list[tuple[float, float]]] = defaultdict(list)
    ranges = []
    for event in events:
        name = event.get("name")
        if event["ph"] != "X" or not isinstance(name, str):
            continue
        if name.startswith(_AUTOGRAD_PREFIX):
            span = (event["ts"], event["ts"] + event["dur"])
            functions[event["pid"], event["tid"]].append(span)
        elif _BACKWARD_RANGE.fullmatch(name) and event.get("cat") == "user_annotation":
            ranges.append(event)
    for spans in functions.values():
        spans.sort()
    for event in ranges:
        spans = functions[event["pid"], event["tid"]]
        start = _start_of_holder(event["ts"], spans)
        end = _start_of_holder(event["ts"] + event["dur"], spans)
        event["ts"], event["dur"] = start, max(end - start, 0)


def _start_of_holder(time: float, spans: list[tuple[float, float]]) -> float:
    """Return the start of the span that ``time`` lies in, or ``time``; spans do not overlap."""
    before = bisect_right(spans, (time, float("inf"))) - 1
    if before >= 0 and time < spans[before][1]:
        return spans[before][0]
    return time
