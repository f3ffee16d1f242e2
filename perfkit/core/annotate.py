"""The one range annotation: seen by torch.profiler (record_function) and by Nsight (NVTX).

Kineto does not record NVTX and Nsight does not see record_function, so every range is both. In
a trace it is called ``perfkit.<name>``; for NVTX it is ``<name>`` in the domain ``perfkit``.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

PREFIX = "perfkit."
DOMAIN = "perfkit"


class annotate:  # noqa: N801 - reads as a statement: with annotate("forward")
    """Range ``name`` around a ``with`` block."""

    __slots__ = ("_domain", "_name", "_record")

    def __init__(self, name: str) -> None:
        import nvtx
        from torch.profiler import record_function

        self._name = name
        self._record = record_function(PREFIX + name)
        self._domain: Any = nvtx.get_domain(DOMAIN)

    def __enter__(self) -> Self:
        self._domain.push_range(self._domain.get_event_attributes(message=self._name))
        self._record.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._record.__exit__(kind, error, traceback)
        self._domain.pop_range()


class OpenRange:
    """Range that is open from its making until ``close``, which another thread may call.

    Autograd runs the backward of a stage on a thread of its own and between two hooks, where no
    ``with`` block fits; NVTX then needs a start/end range instead of push/pop.
    """

    __slots__ = ("_domain", "_nvtx_id", "_record")

    def __init__(self, name: str) -> None:
        import nvtx
        from torch.profiler import record_function

        self._domain: Any = nvtx.get_domain(DOMAIN)
        self._nvtx_id = self._domain.start_range(self._domain.get_event_attributes(message=name))
        self._record = record_function(PREFIX + name)
        self._record.__enter__()

    def close(self) -> None:
        """End the range."""
        self._record.__exit__(None, None, None)
        self._domain.end_range(self._nvtx_id)
