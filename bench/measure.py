"""Measure cases on request: ``python bench/measure.py`` reads a name a line and answers in JSON.

An answer is a `case.Measurement`. A case of several processes starts some of these;
``scripts/regressions.py`` keeps one for each of two commits and gives them turns.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from case import measured_perfkit
from cases import CASES


def main() -> None:
    """Answer every name with what its case measures in this process."""
    named = {case.name: case for case in CASES}
    measured_perfkit()
    for line in sys.stdin:
        print(json.dumps(asdict(named[line.strip()].measure())), flush=True)


if __name__ == "__main__":
    main()
