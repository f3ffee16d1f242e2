"""A training loop of the user's own, watched: a plain script gets the same Record and trace."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist
from torch import nn

from perfkit.core.config import RUN_NAME, SessionConfig
from perfkit.core.errors import PerfkitError
from perfkit.core.record import Block, Cell, DataFacts, HostLoad, Record, write_record
from perfkit.core.trace_summary import Traces
from perfkit.engine.cells import MIN_STEPS, load_taints
from perfkit.engine.group import gather, share
from perfkit.engine.start import nsys_notices
from perfkit.engine.traced_pass import join_traces, trace_path
from perfkit.measure.environment import describe_environment
from perfkit.measure.host_load import HostLoadMeter, tree_cpu_s
from perfkit.measure.memory import read_peak, reset_peak
from perfkit.measure.recorder import StepRecorder
from perfkit.strategies.base import Device, Mesh
from perfkit.trace.capture import WARMUP_STEPS, CapturedSteps, capture

T = TypeVar("T")

ROUNDS = 4

Report = Callable[[Path], None]


class Session:
    """Watches the first steps of a loop, and then gets out of its way.

    After ``warmup`` steps it times ``steps`` of them, cut into four blocks, and then traces
    ``trace_steps``; the rest of the loop runs as if nobody looked. Between the calls of ``steps``
    nothing is timed, so a loop may validate there. Under torch.distributed every rank watches
    itself and must leave the session; rank 0 writes the Record then.
    """

    def __init__(
        self,
        name: str,
        *,
        model: nn.Module | None,
        runs: Path,
        warmup: int,
        steps: int,
        trace_steps: int,
        report: Report,
    ) -> None:
        if not re.fullmatch(RUN_NAME, str(name)):
            raise PerfkitError(
                f"session {name!r}: a name has letters, digits and any of _ . + -, as in first-try"
            )
        counts = (warmup, steps, trace_steps)
        if not all(isinstance(n, int) for n in counts) or min(warmup, steps, trace_steps + 1) < 1:
            raise PerfkitError(
                f"session {name!r}: warmup={warmup}, steps={steps}, trace_steps={trace_steps}: "
                "at least 1 step of warm-up and 1 timed step are needed"
            )
        self.folder: Path | None = None  # known from the first step on
        self._name, self._runs, self._model, self._report = name, runs, model, report
        self._config = SessionConfig(
            workload=Path(sys.argv[0]).stem or "interactive",
            warmup=warmup,
            steps=steps,
            trace_steps=trace_steps,
        )
        self._created_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._watching = True
        self._taken = 0
        self._has_begun = False
        self._within_step = False
        self._mesh = Mesh(rank=0, world_size=1, devices=())  # until the first step
        self._cuda: list[torch.device] = []
        self._recorder: StepRecorder | None = None
        self._tracing = contextlib.ExitStack()
        self._captured: CapturedSteps | None = None
        self._warmup_s: list[float] = []
        self._first_step_s = 0.0
        self._blocks: list[Block] = []
        self._load: list[HostLoad] = []
        self._traced_s: list[float] = []
        self._batches: list[int | None] = []  # samples of every timed step
        self._workers = 0
        self._data = DataFacts(
            name="own data",
            train_samples=None,
            samples_per_epoch=None,
            class_counts=[],
            skipped=[],
        )

    def steps(self, loader: Iterable[T]) -> Iterator[T]:
        """Yield the batches of ``loader``; each turn of the loop is one step."""
        if self._within_step:
            raise PerfkitError(
                f"session {self._name!r}: steps() was called within a step of another steps(); end "
                "that loop first, or watch one loop only"
            )
        batches = iter(loader)
        if not self._has_begun:
            self._has_begun = True
            self._begin(loader)
        while self._watching:
            recorder = self._recorder_of_step()
            try:
                with recorder.step():
                    with recorder.phase("data_wait"):
                        batch = next(batches)
                    self._within_step = True
                    yield batch
                    self._within_step = False
            except (StopIteration, GeneratorExit):
                # No data are left, or the loop was left within a step: it was no whole one.
                self._drop_step()
                return
            except BaseException:  # the loader's own
                self._drop_step()
                raise
            if self._is_timed():
                self._batches.append(_samples_in(batch))
            self._end_step(recorder)
        yield from batches

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Return a context for one phase of a step; data_wait is there already."""
        if self._recorder is None or not self._within_step:
            return contextlib.nullcontext()
        return self._recorder.phase(name)

    def close(self, *, failed: bool) -> None:
        """Write the Record, where anything was timed; every rank must call this."""
        if not self._has_begun or (not self._watching and self._mesh.world_size == 1):
            return  # nothing to write, or written when the last watched step was done
        self._watching = False
        if failed:
            # Peers of a failed rank may never come: keep what this rank has.
            self._mesh = Mesh(rank=self._mesh.rank, world_size=1, devices=self._mesh.devices)
        if self._within_step:
            self._drop_step()
        self._end_block()
        self._write(failed=failed)

    def _begin(self, loader: Any) -> None:
        self._mesh = _mesh(self._model)
        self._cuda = [d.torch_device for d in self._mesh.devices if d.torch_device.type == "cuda"]
        folder = None
        if self._mesh.rank == 0:
            folder = _new_folder(self._runs, self._name)
        self.folder = share(folder, self._mesh)
        dataset = getattr(loader, "dataset", loader)
        samples = len(dataset) if hasattr(dataset, "__len__") else None
        self._data = self._data.model_copy(
            update={
                "name": type(dataset).__name__,
                "train_samples": samples if dataset is not loader else None,
                "samples_per_epoch": samples if dataset is not loader else None,
            }
        )
        self._workers = getattr(loader, "num_workers", 0)

    def _recorder_of_step(self) -> StepRecorder:
        """Return the recorder of the step that begins; one a block, one for each other step."""
        if self._recorder is None:
            self._recorder = StepRecorder(self._cuda)
            self._steps_in_block = 0
            if self._is_timed():
                reset_peak(self._cuda)
                self._meter, self._cpu_s = HostLoadMeter(), tree_cpu_s()
        return self._recorder

    def _is_timed(self) -> bool:
        first = self._config.warmup
        return first <= self._taken < first + self._config.steps

    def _end_step(self, recorder: StepRecorder) -> None:
        was_timed = self._is_timed()
        self._taken += 1
        if was_timed:
            self._steps_in_block += 1
            per_block = math.ceil(self._config.steps / ROUNDS)
            if self._steps_in_block == per_block or not self._is_timed():
                self._end_block()
        else:
            (sample,) = recorder.samples()
            self._recorder = None
            if self._taken == 1:
                self._first_step_s = time.time() - psutil.Process().create_time()
            elif self._captured is None:
                self._warmup_s.append(sample.host_s)
            else:
                self._traced(sample.host_s)
        if self._taken == self._config.warmup + self._config.steps:
            if self._config.trace_steps:
                self._start_trace()
            else:
                self._finish()

    def _drop_step(self) -> None:
        """Forget the step that was begun, and close its block: what comes next is no step."""
        self._within_step = False
        if self._recorder is not None:
            self._recorder.forget_step()
            self._end_block()

    def _end_block(self) -> None:
        """Close the block that is open, if a timed step of it was taken."""
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return
        started = time.perf_counter()
        samples = recorder.samples()
        waited_s = time.perf_counter() - started
        if not samples or self._captured is not None or not self._steps_in_block:
            return
        cpu_s = tree_cpu_s() - self._cpu_s
        index = len(self._load)
        self._load.append(self._meter.stop(index, own_cpu_s=cpu_s, cpus=psutil.cpu_count() or 1))
        self._blocks.append(
            Block(
                round=index,
                rank=self._mesh.rank,
                # Not from clock to clock: between two steps of a loop anything may happen.
                wall_s=sum(sample.host_s for sample in samples) + waited_s,
                turn_cpu_s=cpu_s,
                steps=samples,
            )
        )

    def _start_trace(self) -> None:
        assert self.folder is not None
        self._path = trace_path(self.folder, self._mesh)
        self._captured = self._tracing.enter_context(
            capture(self._path, steps=self._config.trace_steps, cuda=bool(self._cuda))
        )

    def _traced(self, step_s: float) -> None:
        assert self._captured is not None
        self._traced_s.append(step_s)
        self._captured.step()
        if self._captured.taken == WARMUP_STEPS + self._config.trace_steps:
            self._tracing.close()
            self._finish()

    def _finish(self) -> None:
        """Everything has been watched: alone, this rank can write now."""
        self._watching = False
        if self._mesh.world_size == 1:
            self._write(failed=False)

    def _write(self, *, failed: bool) -> None:
        folder = self.folder
        assert folder is not None
        taints = nsys_notices()
        traces: Traces | None = None
        wanted = WARMUP_STEPS + self._config.trace_steps
        # Merging is for all ranks together: one that ended earlier has no trace to bring.
        ended = gather(len(self._traced_s) == wanted, self._mesh)
        if share(bool(ended) and all(ended), self._mesh) and self._config.trace_steps:
            traced = self._traced_s[WARMUP_STEPS:]
            traces = join_traces(self._path, self._mesh, folder, traced, ["step", "data_wait"])
        elif self._config.trace_steps:
            taints.append("the loop ended before its traced steps: there is no trace")
            with contextlib.suppress(RuntimeError):  # the capture counts its steps
                self._tracing.close()
        blocks = [block for part in gather(self._blocks, self._mesh) for block in part]
        memory = gather(read_peak(self._cuda), self._mesh)
        first_step_s = gather(self._first_step_s, self._mesh)
        devices = gather([device.name for device in self._mesh.devices], self._mesh)
        if self._mesh.rank != 0:
            return
        if not blocks:
            with contextlib.suppress(OSError):
                folder.rmdir()
            print(
                f"perfkit: session {self._name}: nothing was timed: the loop took {self._taken} "
                f"steps, and the first {self._config.warmup} are warm-up",
                file=sys.stderr,
            )
            return
        known = [size for size in self._batches if size is not None]
        if len(set(self._batches)) != 1 or not known:
            sizes = ", ".join(map(str, sorted(set(known)))) or "unknown"
            taints.append(f"samples of a timed step: {sizes}; samples/s are of their rounded mean")
        batch = max(round(fmean(known)), 1) if known else 1
        timed = sum(len(block.steps) for block in blocks if block.rank == 0)
        if timed < MIN_STEPS:
            taints.append(f"{timed} timed steps are too few to trust (at least {MIN_STEPS})")
        ranks = self._mesh.world_size
        # Of several ranks the others' CPU time would count as that of foreign processes.
        load = self._load if ranks == 1 else []
        threads = torch.get_num_threads()
        words = f"{threads} thread{'s' if threads > 1 else ''}"
        cell = Cell(
            role="strategy",
            label="own loop, " + (f"{ranks} ranks x {words}" if ranks > 1 else words),
            strategy="own loop",
            ranks=ranks,
            devices_per_rank=len(self._mesh.devices),
            devices=devices,
            backend=dist.get_backend() if ranks > 1 else None,
            threads=threads,
            workers=self._workers,
            local_batch=batch,
            global_batch=batch * ranks,
            ceiling=float(ranks),
            time_to_first_step_s=first_step_s,
            warmup_step_s=self._warmup_s,
            observed=[],
            placement=[],
            stage_cost_s=[],
            crossings=None,
            blocks=blocks,
            load=load,
            memory=memory,
        )
        taints += load_taints(cell.label, load)
        model = self._model
        record = Record(
            name=folder.name,
            created_at=self._created_at,
            status="incomplete" if failed else "complete",
            kind="own loop",
            scaling="weak",
            config=self._config,
            environment=describe_environment("own loop"),
            data=self._data,
            parameters=None if model is None else sum(p.numel() for p in model.parameters()),
            gate=None,
            cells=[cell],
            traces=traces,
            taints=taints,
        )
        write_record(record, folder)
        self._report(folder)


@contextlib.contextmanager
def watch(session: Session) -> Iterator[Session]:
    """Close the session at the end of the block, however it ends."""
    try:
        yield session
    except BaseException:
        session.close(failed=True)
        raise
    session.close(failed=False)


def _mesh(model: nn.Module | None) -> Mesh:
    """Return where this process stands: its rank, and the devices of the model or of torch."""
    found = dict.fromkeys(parameter.device for parameter in model.parameters()) if model else {}
    devices = list(found)
    if not devices:
        is_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        devices = [
            torch.device("cuda", torch.cuda.current_device()) if is_cuda else torch.device("cpu")
        ]
    named = tuple(Device(device, str(device)) for device in devices)
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return Mesh(rank=0, world_size=1, devices=named)
    control = dist.new_group(backend="gloo")
    assert not isinstance(control, int)  # only a rank outside the group gets a number
    return Mesh(
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        devices=named,
        group=dist.group.WORLD,
        control=control,
    )


def _new_folder(runs: Path, name: str) -> Path:
    """Make and return a folder of this name, or of the name with the next free number."""
    for number in itertools.count(1):
        folder = runs / (name if number == 1 else f"{name}-{number}")
        try:
            runs.mkdir(parents=True, exist_ok=True)
            if not folder.exists():
                folder.mkdir()
                return folder
        except OSError as error:
            raise PerfkitError(f"run folder {folder} cannot be made ({error.strerror})") from None
    raise AssertionError  # there is always a next number


def _samples_in(batch: Any) -> int | None:
    """Return the length of the first tensor or array in a batch; None where there is none."""
    shape = getattr(batch, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else None
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if not isinstance(batch, list | tuple):  # whatever else there is may be read only once
        return None
    return next((found for value in batch if (found := _samples_in(value))), None)
