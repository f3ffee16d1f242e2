"""Making the stored set of ``--preprocess offline``, once and by one process."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from perfkit.core.config import RunConfig
from perfkit.core.host import available_cores
from perfkit.data.stored import StoredImages
from perfkit.engine.group import barrier
from perfkit.engine.loading import in_one_line, worker_options
from perfkit.strategies.base import Mesh
from perfkit.workloads.base import Workload

CHUNK = 16  # images that a worker takes at a time
TELL_EVERY_S = 5.0


def have_stored(workload: Workload, split: str, config: RunConfig, mesh: Mesh) -> float | None:
    """Have rank 0 make the stored set of a split where it is not whole; all ranks wait for it.

    Returns the seconds that it took, at rank 0; None where nothing had to be made. Progress goes to
    stderr. Raises PerfkitError where it cannot be made.
    """
    if config.preprocess != "offline":
        return None
    taken_s = None
    if mesh.rank == 0:
        stored: StoredImages = cast(Any, workload).stored(split)
        problem = stored.problem()
        if problem is not None:
            taken_s = _make(stored, split, problem)
    barrier(mesh)
    return taken_s


def _make(stored: StoredImages, split: str, problem: str) -> float:
    _tell(f"the stored {split} set {stored.folder} {problem}: making {len(stored)} images")
    started = time.perf_counter()
    workers = min(available_cores(), -(-len(stored) // CHUNK))
    # In processes of their own: what large blocks do to an allocator stays out of timed steps.
    chunks = DataLoader(
        _Originals(stored),
        batch_size=CHUNK,
        collate_fn=_Operate(stored),
        **worker_options(workers, StoredImages.__module__),
        generator=torch.Generator(),  # or it would draw from that of the training
    )
    stored.write(_told(in_one_line(chunks), len(stored)))
    taken_s = time.perf_counter() - started
    _tell(f"the stored {split} set was made in {taken_s:.1f} s, by {stored.made_by}")
    return taken_s


def _told(chunks: Iterator[tuple[Tensor, str]], whole: int) -> Iterator[tuple[Tensor, str]]:
    """Yield the chunks and tell now and then how many of ``whole`` images are done."""
    done, told_at = 0, time.monotonic()
    for chunk in chunks:
        yield chunk
        done += len(chunk[0])
        if time.monotonic() - told_at > TELL_EVERY_S:
            _tell(f"{done} of {whole} images")
            told_at = time.monotonic()


def _tell(what: str) -> None:
    print(f"perfkit: {what}", file=sys.stderr, flush=True)


class _Originals(Dataset[Tensor]):
    """The images that a set is to be made of."""

    def __init__(self, stored: StoredImages) -> None:
        self._source = stored.source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Tensor:
        return self._source.read(index)


class _Operate:
    """The operator on some images at once, and what ran it."""

    def __init__(self, stored: StoredImages) -> None:
        self._operator = stored.operator

    def __call__(self, images: Sequence[Tensor]) -> tuple[Tensor, str]:
        return self._operator(torch.stack(list(images))), self._operator.ran
