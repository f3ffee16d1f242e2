"""How the operators refuse an argument, in one line; imports no torch."""

from __future__ import annotations

from typing import Any

from perfkit.core.errors import PerfkitError


def refusal(operation: str, argument: str, expected: str, got: str) -> PerfkitError:
    """Return the error that refuses an argument."""
    return PerfkitError(f"{operation}: `{argument}` must be {expected}, got {got}")


def describe(array: Any) -> str:
    """Return dtype and shape of a tensor or an array."""
    return f"{str(array.dtype).removeprefix('torch.')} {list(array.shape)}"
