"""Reading a torch.profiler trace, or one that perfkit merged."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from perfkit.core.errors import PerfkitError

_GZIP_MAGIC = b"\x1f\x8b"
_EVENT_KEYS = {"ph", "name", "pid"}


@dataclass(frozen=True)
class Trace:
    """One file of Trace Event Format.

    ``events`` are the Trace Events as they stand in the file (``ts`` and ``dur`` in microseconds).
    ``metadata`` holds every other top-level key, such as ``distributedInfo`` and
    ``baseTimeNanoseconds``. ``size_bytes`` is the size on disk.
    """

    path: Path
    size_bytes: int
    events: list[dict[str, Any]]
    metadata: dict[str, Any]

    @property
    def rank(self) -> int | None:
        """The rank that torch wrote down, which it does under a process group only."""
        rank = (self.metadata.get("distributedInfo") or {}).get("rank")
        return None if rank is None else int(rank)


def read_trace(path: Path) -> Trace:
    """Read the trace at ``path``, gzipped or plain.

    Raises:
        PerfkitError: the file is missing, damaged, or no trace.
    """
    try:
        stored = path.read_bytes()
        text = gzip.decompress(stored) if stored.startswith(_GZIP_MAGIC) else stored
        document = orjson.loads(text)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise PerfkitError(
            f"{path}: the gzip data are damaged or cut off ({error}); trace again"
        ) from error
    except orjson.JSONDecodeError as error:
        raise PerfkitError(f"{path}: the JSON is damaged ({error}); trace again") from error
    except OSError as error:
        raise PerfkitError(f"{path}: cannot be read ({error.strerror})") from error

    events = document.pop("traceEvents", None) if isinstance(document, dict) else None
    if not isinstance(events, list) or not all(
        isinstance(event, dict) and event.keys() >= _EVENT_KEYS for event in events
    ):
        raise PerfkitError(
            f"{path}: no torch.profiler trace: it has no list of Trace Events in 'traceEvents'"
        )
    return Trace(path, len(stored), events, document)
