"""Every callable once a round, in an order of its own, so that drift meets all alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from perfkit.measure.paired import PairedTimes, time_paired


class DriftingMachine:
    """A clock, and callables that take longer the later they are called."""

    def __init__(self, drift_a_call: float = 0.0) -> None:
        self.now_s = 0.0
        self.calls: list[str] = []
        self._drift = drift_a_call

    def clock(self) -> float:
        return self.now_s

    def callable(self, name: str, cost_s: float) -> Callable[[], None]:
        def call() -> None:
            self.now_s += cost_s * (1 + self._drift * len(self.calls))
            self.calls.append(name)

        return call


def test_a_call_costs_what_the_clock_says_and_warm_up_is_not_kept() -> None:
    machine = DriftingMachine()
    callables = {"a": machine.callable("a", 0.5), "b": machine.callable("b", 2.0)}
    times = time_paired(callables, rounds=3, calls=4, warmup=2, clock=machine.clock)
    assert times.call_s == {"a": [0.5] * 3, "b": [2.0] * 3}
    assert machine.calls.count("a") == machine.calls.count("b") == (3 + 2) * 4


def test_every_round_holds_every_callable_once_all_its_calls_in_a_row() -> None:
    machine = DriftingMachine()
    names = ["a", "b", "c"]
    callables = {name: machine.callable(name, 1.0) for name in names}
    time_paired(callables, rounds=10, calls=2, warmup=0, clock=machine.clock)
    assert len(machine.calls) == 10 * 3 * 2
    orders = set()
    for start in range(0, len(machine.calls), 6):
        in_round = machine.calls[start : start + 6]
        assert in_round[::2] == in_round[1::2]
        assert sorted(in_round[::2]) == names
        orders.add(tuple(in_round[::2]))
    assert len(orders) > 2


def order_of_calls(seed: int) -> list[str]:
    machine = DriftingMachine()
    callables = {name: machine.callable(name, 1.0) for name in "abcd"}
    time_paired(callables, rounds=8, seed=seed, clock=machine.clock)
    return machine.calls


def test_the_order_follows_from_the_seed() -> None:
    assert order_of_calls(1) == order_of_calls(1)
    assert order_of_calls(1) != order_of_calls(2)


def test_the_ratio_of_equal_callables_covers_one_on_a_machine_that_gets_ever_slower() -> None:
    machine = DriftingMachine(drift_a_call=0.05)
    callables = {name: machine.callable(name, 1.0) for name in "ab"}
    times = time_paired(callables, rounds=20, warmup=0, clock=machine.clock)
    assert times.call_s["a"][-1] > 2 * times.call_s["a"][0]
    ratio = times.ratio("a", "b")
    assert ratio.low < 1 < ratio.high
    assert ratio.high / ratio.low < 1.05


def test_a_true_difference_is_found_through_the_drift() -> None:
    machine = DriftingMachine(drift_a_call=0.05)
    callables = {"slow": machine.callable("slow", 1.2), "fast": machine.callable("fast", 1.0)}
    times = time_paired(callables, rounds=20, clock=machine.clock)
    ratio = times.ratio("slow", "fast")
    assert 1.0 < ratio.low < 1.2 < ratio.high
    assert ratio.estimate == pytest.approx(1.2, rel=0.02)


def test_the_median_and_the_ratio_come_from_the_rounds() -> None:
    times = PairedTimes({"a": [1.0, 4.0, 16.0], "b": [2.0, 8.0, 32.0]})
    assert times.median_s("a") == 4.0
    assert times.ratio("a", "b") == pytest.approx((0.5, 0.5, 0.5))
