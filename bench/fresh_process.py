"""One measurement in a process of its own: torch's threads, its caches and malloc's are new."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def measure_afresh(
    file: str, setup: DataclassInstance, environ: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run ``file`` with the fields of ``setup`` as JSON; return the JSON object that it prints.

    ``environ`` is added to this process's. Raises RuntimeError with what the process wrote to
    stderr where it fails.
    """
    done = subprocess.run(
        [sys.executable, file, json.dumps(asdict(setup))],
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{file} ended with {done.returncode}: {done.stderr}")
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts
