"""A range is seen by torch.profiler and by NVTX, and always ends."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import nvtx
import pytest
from torch.profiler import ProfilerActivity, profile

from perfkit.core.annotate import DOMAIN, OpenRange, annotate


class FakeDomain:
    """Notes what Nsight would be told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def get_event_attributes(self, *, message: str) -> SimpleNamespace:
        return SimpleNamespace(message=message)

    def push_range(self, attributes: SimpleNamespace) -> None:
        self.calls.append(("push", attributes.message))

    def pop_range(self) -> None:
        self.calls.append(("pop", None))

    def start_range(self, attributes: SimpleNamespace) -> int:
        self.calls.append(("start", attributes.message))
        return 42

    def end_range(self, range_id: int) -> None:
        self.calls.append(("end", range_id))


@pytest.fixture
def nsight(monkeypatch: pytest.MonkeyPatch) -> FakeDomain:
    domain = FakeDomain()
    domains = {DOMAIN: domain}
    monkeypatch.setattr(nvtx, "get_domain", domains.__getitem__)
    return domain


def ranges(profiler: profile) -> dict[str, int]:
    return {event.key: event.count for event in profiler.key_averages()}


def test_a_range_is_in_the_trace_with_its_prefix_once_for_each_block() -> None:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(3):
            with annotate("forward"), annotate("stage0"):
                pass
    found = ranges(profiler)
    assert (found["perfkit.forward"], found["perfkit.stage0"]) == (3, 3)
    assert "forward" not in found


def test_nsight_sees_the_bare_name_and_ranges_nest(nsight: FakeDomain) -> None:
    with annotate("forward"), annotate("stage0"):
        pass
    assert nsight.calls == [("push", "forward"), ("push", "stage0"), ("pop", None), ("pop", None)]


def fail_inside(forward: annotate) -> None:
    with forward:
        raise ZeroDivisionError


def test_a_block_that_fails_ends_its_range_and_hides_no_error(nsight: FakeDomain) -> None:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        forward = annotate("forward")
        with pytest.raises(ZeroDivisionError):
            fail_inside(forward)
        with annotate("after"):
            pass
    assert nsight.calls[:2] == [("push", "forward"), ("pop", None)]
    spans = {event.name: event.time_range for event in profiler.events()}
    assert spans["perfkit.forward"].end <= spans["perfkit.after"].start


def test_an_open_range_may_be_closed_by_another_thread(nsight: FakeDomain) -> None:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        opened = OpenRange("stage1.backward")
        closer = threading.Thread(target=opened.close)
        closer.start()
        closer.join()
    assert ranges(profiler)["perfkit.stage1.backward"] == 1
    # Push and pop belong to one thread; start and end do not.
    assert nsight.calls == [("start", "stage1.backward"), ("end", 42)]
