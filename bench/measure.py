"""Measure cases on request: ``python bench/measure.py`` reads a name a line and answers in JSON.

``scripts/regressions.py`` keeps one such process for each of two commits and gives them turns.
"""

from __future__ import annotations

import json
import sys

from cases import CASES


def main() -> None:
    """Answer every name with the costs of its case."""
    named = {case.name: case for case in CASES}
    checked = False
    for line in sys.stdin:
        case = named[line.strip()]
        # Which perfkit this is stays the same in a process: once is enough.
        costs = case.measure().costs if checked else case.run().costs
        checked = True
        print(json.dumps(dict(costs)), flush=True)


if __name__ == "__main__":
    main()
