"""Measure cases on request: ``python bench/measure.py`` reads a name a line and answers in JSON.

It answers with times and memory only: shares and ratios can be off to either side, and may be 0.

``scripts/regressions.py`` keeps one such process for each of two commits and gives them turns.
"""

from __future__ import annotations

import json
import sys

from case import UNITS
from cases import CASES

TOLD = ("seconds", "MiB")


def main() -> None:
    """Answer every name with the costs of its case."""
    named = {case.name: case for case in CASES}
    checked = False
    for line in sys.stdin:
        case = named[line.strip()]
        # Which perfkit this is stays the same in a process: once is enough.
        costs = case.measure().costs if checked else case.run().costs
        checked = True
        told = {cost: samples for cost, samples in costs.items() if UNITS[cost] in TOLD}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
