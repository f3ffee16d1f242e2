"""Results as asv keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

COMMIT = "abcdef0123456789abcdef0123456789abcdef01"
COLUMNS = ["result", "params", "version", "samples"]


def kept(
    folder: Path,
    samples: Mapping[str, Sequence[Sequence[float] | None] | None],
    *,
    params: Mapping[str, list[list[str]]] | None = None,
    commit: str = COMMIT,
    machine: str = "vm",
    version: str = "1",
) -> Path:
    """Write the samples of a commit, a list for each value of a benchmark's parameters."""
    file = folder / machine / f"{commit[:8]}-virtualenv-py3.11.json"
    file.parent.mkdir(exist_ok=True)
    results = {
        name: [None, (params or {}).get(name, []), version, taken]
        for name, taken in samples.items()
    }
    known = {"commit_hash": commit, "env_name": "virtualenv-py3.11", "version": 2}
    file.write_text(json.dumps({**known, "result_columns": COLUMNS, "results": results}))
    units = {name: {"unit": "seconds"} for name in samples}
    (folder / "benchmarks.json").write_text(json.dumps({**units, "version": 2}))
    return file
