"""Timing several callables side by side: every round times each once, in an order of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from perfkit.core.stats import Interval, ratio_interval
from perfkit.measure.recorder import Clock


@dataclass(frozen=True)
class PairedTimes:
    """Seconds a call of each callable, one value a round."""

    call_s: Mapping[str, list[float]]

    def median_s(self, name: str) -> float:
        """Return the median seconds of a call."""
        return median(self.call_s[name])

    def ratio(self, numerator: str, denominator: str) -> Interval:
        """Return time over time with the interval of the within-round log-ratios."""
        return ratio_interval(self.call_s[numerator], self.call_s[denominator])


def time_paired(
    callables: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    calls: int = 1,
    warmup: int = 1,
    seed: int = 0,
    clock: Clock = perf_counter,
) -> PairedTimes:
    """Return the times of ``callables`` over randomised complete blocks.

    In each of ``rounds`` rounds every callable is called ``calls`` times in a row and the mean is
    kept, so that drift of the machine meets all of them alike. ``warmup`` rounds come before and
    are not kept. A callable that works on a GPU has to wait for it itself.
    """
    order = list(callables)
    shuffler = random.Random(seed)
    times: dict[str, list[float]] = {name: [] for name in order}
    for round_index in range(-warmup, rounds):
        shuffler.shuffle(order)
        for name in order:
            call = callables[name]
            started = clock()
            for _ in range(calls):
                call()
            elapsed_s = (clock() - started) / calls
            if round_index >= 0:
                times[name].append(elapsed_s)
    return PairedTimes(times)
