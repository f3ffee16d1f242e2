"""A benchmark for each cost of each quick case: ``asv run``, ``asv continuous``, ``asv publish``.

asv would take the samples of a ``track_`` benchmark for one value; a dict of them it treats as it
treats its own timings (asv 0.6, asv/runner.py), so that medians, intervals and tests are asv's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from inspect import getdoc
from typing import Any

from asv_runner.benchmarks.mark import SkipNotImplemented
from case import UNITS, Case
from cases import chosen

TIMEOUT_S = 600.0


def told(samples: list[float]) -> dict[str, Any]:
    """Return samples as asv keeps them."""
    return {"samples": samples, "number": 1}


def measures(case: Case) -> str:
    """Return what a case measures: asv shows it where it would show the same source of all."""
    made_by = case.measure.__qualname__.partition(".")[0]
    told = getdoc(getattr(sys.modules[case.measure.__module__], made_by)) or ""
    return f"{told}\n\necho {case.name} | python bench/measure.py"


def benchmark(case: Case, cost: str) -> Callable[[], dict[str, Any]]:
    """Return what asv calls for this cost."""

    def track() -> dict[str, Any]:
        reason = case.why_not()
        if reason is not None:
            raise SkipNotImplemented(reason)
        return told(case.run().costs[cost])

    # asv reads these off the function.
    track.__name__ = f"track_{case.name}".replace("-", "_")
    track.pretty_name = case.name if cost == "seconds" else f"{case.name}: {cost}"
    track.pretty_source = measures(case)
    track.unit = UNITS[cost]
    track.timeout = TIMEOUT_S
    track.version = case.version
    return track


for one in chosen(full=False):
    if len(one.costs) == 1:
        made = benchmark(one, one.costs[0])
        globals()[made.__name__] = made


SEVERAL = {case.name: case for case in chosen(full=False) if len(case.costs) > 1}


class Strategies:
    """Of the cases with several costs: one run of each, from which all costs are read."""

    param_names = ("case",)
    timeout = TIMEOUT_S
    version = ",".join(case.version for case in SEVERAL.values())

    def setup_cache(self) -> dict[str, dict[str, list[float]] | str]:
        """Run every case; one that fails is told by its words, and takes no others along."""
        found: dict[str, dict[str, list[float]] | str] = {}
        for name, case in SEVERAL.items():
            try:
                found[name] = dict(case.run().costs)
            except Exception as error:  # whatever it is: the others are measured
                found[name] = repr(error)
        return found

    setup_cache.timeout = len(SEVERAL) * TIMEOUT_S

    def track_seconds_per_sample(self, found: dict[str, Any], case: str) -> dict[str, Any]:
        return self._told(found[case], "seconds per sample")

    def track_inverse_efficiency(self, found: dict[str, Any], case: str) -> dict[str, Any]:
        return self._told(found[case], "inverse efficiency")

    def track_exposed_communication(self, found: dict[str, Any], case: str) -> dict[str, Any]:
        return self._told(found[case], "exposed communication")

    def track_peak_memory(self, found: dict[str, Any], case: str) -> dict[str, Any]:
        return self._told(found[case], "peak memory")

    @staticmethod
    def _told(costs: dict[str, list[float]] | str, cost: str) -> dict[str, Any]:
        if isinstance(costs, str):
            raise RuntimeError(costs)
        return told(costs[cost])


for method in (
    *(Strategies.track_seconds_per_sample, Strategies.track_inverse_efficiency),
    *(Strategies.track_exposed_communication, Strategies.track_peak_memory),
):
    cost = method.__name__.removeprefix("track_").replace("_", " ")
    method.unit = UNITS[cost]
    method.pretty_name = f"strategies: {cost}"
    having = [case for case in SEVERAL.values() if cost in case.costs]
    method.params = ([case.name for case in having],)
    method.pretty_source = "\n".join(map(measures, having))
