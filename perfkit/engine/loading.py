"""Batches of one rank: endless ones to train on, and a shard of a split to evaluate."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import warnings
from collections.abc import Generator, Iterable, Sequence
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.data.batches import EndlessBatchSampler, SampleKey, SeededDataset
from perfkit.launch.child import die_with_parent
from perfkit.strategies.base import Mesh
from perfkit.workloads.base import Workload, implementation_of, prepare_of

T = TypeVar("T")

PREFETCH_FACTOR = 2


class Batch(NamedTuple):
    """Some samples, as a loader hands them over."""

    inputs: Tensor
    targets: Tensor
    seeds: Sequence[int] | None = None
    """One a sample, of what is random in it; None where nothing may be."""
    implementation: str = ""
    """What ran the workload's operator where the batch was made."""


class Collate:
    """The workload's collate on what SeededDataset yields."""

    def __init__(self, workload: Workload, *, random: bool) -> None:
        self._workload = workload
        self._random = random

    def __call__(self, samples: Sequence[tuple[Any, int]]) -> Batch:
        """Return the samples as one batch."""
        seeds = [seed for _, seed in samples] if self._random else None
        inputs, targets = self._workload.collate([sample for sample, _ in samples], seeds)
        return Batch(inputs, targets, seeds, implementation_of(self._workload))


def fixed_batch(
    workload: Workload, config: RunConfig, samples: Sequence[Any], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return (inputs, targets) of samples as they reach the model, with nothing random in them."""
    inputs, targets = workload.collate(samples, None)
    prepare = prepare_of(workload, config)
    return (inputs if prepare is None else prepare(inputs.to(device), None)), targets


def training_keys(
    workload: Workload, config: RunConfig, mesh: Mesh, global_batch: int, *, start: int = 0
) -> EndlessBatchSampler:
    """Return the keys of this rank's share of every global batch from number ``start`` on."""
    return EndlessBatchSampler(
        len(workload.dataset("train")),  # type: ignore[arg-type]
        global_batch=global_batch,
        rank=mesh.rank,
        world_size=mesh.world_size,
        seed=config.seed,
        start=start,
    )


def endless_batches(
    workload: Workload, config: RunConfig, mesh: Mesh, global_batch: int, *, start: int = 0
) -> Generator[Batch]:
    """Yield this rank's share of every global batch, loaded by ``config.workers`` workers.

    The workers live from the first batch until the generator is closed.
    """
    keys = training_keys(workload, config, mesh, global_batch, start=start)
    loader = _loader(workload, workload.dataset("train"), keys, config, mesh, random=True)
    yield from in_one_line(loader)


def in_one_line(batches: Iterable[T]) -> Generator[T]:
    """Yield batches; a worker's PerfkitError comes without the traceback in its message."""
    try:
        yield from batches
    except PerfkitError as error:
        raise PerfkitError(str(error).rpartition("PerfkitError: ")[2].strip()) from None


class ShardSampler(Sampler[list[SampleKey]]):
    """Keys of every ``world_size``-th sample from ``rank`` on, in batches; none stands twice.

    The shards may differ by one sample: padding them would count samples twice.
    """

    def __init__(self, samples: int, *, batch: int, rank: int, world_size: int) -> None:
        self._indices = range(rank, samples, world_size)
        self._batch = batch

    def __iter__(self) -> Generator[list[SampleKey]]:
        for first in range(0, len(self._indices), self._batch):
            yield [SampleKey(0, index) for index in self._indices[first : first + self._batch]]


def shard_loader(
    workload: Workload, dataset: Dataset[Any], config: RunConfig, mesh: Mesh, batch: int
) -> DataLoader[Any]:
    """Return a loader of this rank's shard of ``dataset``, with nothing random in it."""
    samples = len(dataset)  # type: ignore[arg-type]
    keys = ShardSampler(samples, batch=batch, rank=mesh.rank, world_size=mesh.world_size)
    return _loader(workload, dataset, keys, config, mesh, random=False)


def _loader(
    workload: Workload,
    dataset: Dataset[Any],
    keys: Sampler[list[SampleKey]],
    config: RunConfig,
    mesh: Mesh,
    *,
    random: bool,
) -> DataLoader[Any]:
    # More workers than cores are the user's choice, and a notice of the run.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    return DataLoader(
        SeededDataset(dataset, config.seed),
        batch_sampler=keys,
        collate_fn=Collate(workload, random=random),
        **worker_options(config.workers, type(workload).__module__),
        persistent_workers=bool(config.workers),
        prefetch_factor=PREFETCH_FACTOR if config.workers else None,
        pin_memory=mesh.first_device.type == "cuda",
        # Or it would draw from torch's own, once for each process a training goes through.
        generator=torch.Generator().manual_seed(config.seed),
    )


def worker_options(workers: int, module: str) -> dict[str, Any]:
    """Return the options of a DataLoader with so many workers.

    ``module`` is of what the workers are to do: the first loader of a process decides what all its
    workers share.
    """
    if not workers:
        return {"num_workers": 0}
    # Imported once by the server that the workers are forked off: torch takes each of them seconds.
    multiprocessing.set_forkserver_preload([__name__, module])
    return {
        "num_workers": workers,
        # A forked worker would keep the sockets of the process group open: after the death of a
        # rank its peers would wait for the time-out.
        "multiprocessing_context": "forkserver",
        "worker_init_fn": _start_worker,
    }


def _start_worker(_: int) -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the rank's to answer
    # A batch that a dead rank no longer reads is no error to print a traceback of.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.excepthook = _tell_no_lost_connection
    torch.set_num_threads(1)


def _tell_no_lost_connection(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Be silent where the thread that hands out a worker's batches finds its rank dead."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)
