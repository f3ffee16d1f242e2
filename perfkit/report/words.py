"""Numbers in words: seconds, sizes, intervals, counts."""

from __future__ import annotations

import math
from collections.abc import Mapping

from perfkit.core.stats import Interval

WIDEST = 10  # an interval whose ends differ by a larger factor tells nothing


def bounds(interval: Interval) -> str:
    """Return the ends of a 95 % interval."""
    if interval.low <= 0 or interval.high / interval.low > WIDEST:
        return "[too wide to tell]"
    high = "inf" if math.isinf(interval.high) else f"{interval.high:.2f}"
    return f"[{interval.low:.2f}, {high}]"


def duration(seconds: float) -> str:
    """Return seconds in the unit a person would use, to three significant digits."""
    for most, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (120.0, 1.0, "s")):
        if seconds < most:
            return f"{significant(seconds * factor)} {unit}"
    if seconds < 7200:
        return f"{significant(seconds / 60)} min"
    return f"{significant(seconds / 3600)} h"


def significant(value: float) -> str:
    """Return a positive number to three significant digits, never with an exponent."""
    return f"{value:,.{decimals(value)}f}"


def energy_words(joules: Mapping[str, float]) -> str:
    """Return joules by what used them, as in "0.52 J GPU, 0.11 J CPU"; a dash where none told."""
    return ", ".join(f"{significant(used)} J {kind}" for kind, used in joules.items()) or "-"


def size(size_bytes: int) -> str:
    """Return the size of a file in KiB or MiB."""
    kib = size_bytes / 2**10
    return f"{significant(kib / 2**10)} MiB" if kib >= 1000 else f"{significant(kib)} KiB"


def count_of(number: int, noun: str) -> str:
    """Return a number and a noun in the right number."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"


def decimals(value: float) -> int:
    """Return how many decimals a positive number needs for three significant digits."""
    return max(2 - math.floor(math.log10(value)), 0) if value > 0 else 0


def known(seconds: float | None) -> str:
    """Return a duration, or a question mark where it is not known."""
    return "?" if seconds is None else duration(seconds)
