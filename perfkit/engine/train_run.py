"""One training, as every rank goes through it: epochs, validation, checkpoints, test."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

import psutil

from perfkit.core.config import TrainConfig
from perfkit.core.errors import PerfkitError
from perfkit.core.record import (
    Block,
    Cell,
    Gate,
    Memory,
    Record,
    StepSample,
    read_record,
    write_record,
)
from perfkit.core.training_result import Epoch, Evaluation, TrainingResult
from perfkit.engine.cell import RankCell
from perfkit.engine.cells import CellLog, differences, label_of, late_taints
from perfkit.engine.checkpoint import (
    BEST,
    FOLDER,
    LAST,
    Checkpoint,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from perfkit.engine.companion import alone, run_gate
from perfkit.engine.evaluate import Evaluator
from perfkit.engine.folder import run_folder
from perfkit.engine.group import barrier, gather, share
from perfkit.engine.history import write_history
from perfkit.engine.resolve import batch_sizes
from perfkit.engine.start import Start, started
from perfkit.engine.training import unwrapped
from perfkit.launch.detect import Place
from perfkit.measure.environment import describe_environment
from perfkit.measure.host_load import HostLoadMeter, tree_cpu_s
from perfkit.measure.memory import highest, read_peak, reset_peak

LOOK_EVERY_S = 2.0
"""How often the ranks look at their losses together, which makes them wait for their devices."""
MOST_SKIPPED = 25
"""Steps in a row that the gradient scaler may skip: by then it has divided 2^16 by 2^25."""
MOST_SAMPLES = 100
"""Steps of an epoch that the Record keeps: a long training would fill hundreds of megabytes."""


class Listener(Protocol):
    """Told how far a training is."""

    def expect(self, parts: int) -> None:
        """Tell how many steps there are in all."""

    def advance(self, parts: int) -> None:
        """Tell how many steps were just done."""

    def start(self, what: str) -> None:
        """Tell what begins now."""

    def say(self, notice: str) -> None:
        """Tell what the user must know before the results."""

    def epoch(self, epoch: Epoch, *, is_best: bool, left_s: float) -> None:
        """Tell what an epoch came to, and in how many seconds all would be done."""


def train_rank(config: TrainConfig, place: Place, listener: Listener) -> Path:
    """Train as the rank that ``place`` says; return the run folder.

    Raises PerfkitError for what the user can mend. After every epoch rank 0 writes the last and,
    where it is, the best checkpoint, the history and the Record.
    """
    with started(config, place, open_folder) as start:
        TrainRun(start).train(listener)
        return start.folder


@contextlib.contextmanager
def open_folder(config: TrainConfig, rank: int) -> Iterator[Path | None]:
    """Yield at rank 0 the folder to go on in, or a new one; None elsewhere."""
    if config.resume is None:
        with run_folder(config, rank) as folder:
            yield folder
    else:
        yield config.resume if rank == 0 else None


class TrainRun:
    """One training as one rank goes through it; rank 0 also keeps its files up to date."""

    def __init__(self, start: Start[TrainConfig]) -> None:
        self.config = start.config
        self.place = start.place
        self.choice = start.choice
        self.mesh = start.mesh
        self.folder = start.folder
        self.epochs: list[Epoch] = []
        self.resumed_after: list[int] = []
        self.gate: Gate | None = None
        self.test: Evaluation | None = None
        self._notices = start.notices
        self._before: Cell | None = None  # as an earlier process left it
        self._skipped_in_a_row = 0
        self._can_be_read = False  # what this process saves
        self._has_begun = False  # the first step of this process is trained under hooks
        self._created_at = datetime.now(UTC).isoformat(timespec="seconds")

    def train(self, listener: Listener) -> None:
        """Go through the training: first step, epochs, test."""
        for notice in self._notices:
            listener.say(notice)
        listener.start("loading")
        checkpoint = self._last_checkpoint()
        cell = RankCell(self.config, self.mesh, checkpoint)
        with contextlib.closing(cell):
            self._environment = describe_environment(self.place.launcher)
            self.log = self._log(cell)
            if checkpoint is not None:
                self._take_up(checkpoint)
            if cell.needs_gate:
                listener.start("correctness gate")
                self.gate = run_gate(cell, self.config, self.place, self.choice)
            batch = batch_sizes(self.config, self.mesh.world_size).local
            validation, testing = (
                Evaluator(cell.workload, split, self.config, self.mesh, batch)
                for split in ("val", "test")
            )
            first = len(self.epochs) + 1
            listener.expect((self.config.epochs - first + 1) * cell.steps_per_epoch)
            self._begun_at = time.monotonic()
            for number in range(first, self.config.epochs + 1):
                if self._stops_early():
                    break
                listener.start(f"epoch {number} of {self.config.epochs}")
                self._epoch(number, cell, validation, listener)
                self._tell(listener, first)
            listener.start("test set")
            self._load_best(cell)
            self.test = testing.evaluate(cell.training)
        if self.mesh.rank == 0:
            self._save("early stopping" if self._stops_early() else "all epochs")

    def _tell(self, listener: Listener, first: int) -> None:
        """Tell what the epoch came to, and about how long the rest takes."""
        last = self.epochs[-1]
        done = last.epoch - first + 1
        per_epoch_s = (time.monotonic() - self._begun_at) / done
        left_s = per_epoch_s * (self.config.epochs - last.epoch)
        listener.epoch(last, is_best=self._best() is last, left_s=left_s)

    def _log(self, cell: RankCell) -> CellLog:
        backend = self.choice.backend if self.mesh.group is not None else None
        label = label_of(self.config, alone(self.choice))
        return CellLog("strategy", label, self.config, backend, lambda *_: [], [cell.facts])

    def _last_checkpoint(self) -> Checkpoint | None:
        if self.config.resume is None:
            return None
        path = self.folder / FOLDER / LAST
        checkpoint = load_checkpoint(path)
        if checkpoint.workload != self.config.workload:
            raise PerfkitError(
                f"{path}: is of workload {checkpoint.workload}, this training of "
                f"{self.config.workload}; put back the run's own, or start a new training"
            )
        batch = batch_sizes(self.config, self.mesh.world_size).whole
        if (checkpoint.ranks, checkpoint.global_batch) != (self.mesh.world_size, batch):
            raise PerfkitError(
                f"{path}: was trained by {checkpoint.ranks} rank(s) with a global batch of "
                f"{checkpoint.global_batch}, this is {self.mesh.world_size} with {batch}; a "
                "training goes on at the size it began with"
            )
        return checkpoint

    def _take_up(self, checkpoint: Checkpoint) -> None:
        """Go on with the epochs that the Record of the folder has; one may be ahead of it."""
        record = read_record(self.folder)
        before = record.training
        if before is None or len(before.epochs) < checkpoint.epoch:
            raise PerfkitError(
                f"--resume {self.folder}: its Record and its checkpoint do not belong together; "
                "start a new training"
            )
        self._created_at = record.created_at
        self.epochs = before.epochs[: checkpoint.epoch]
        self.resumed_after = [*before.resumed_after, checkpoint.epoch]
        had, have = record.data, self.log.facts[0].data
        if (had.samples_per_epoch, had.class_counts) != (have.samples_per_epoch, have.class_counts):
            raise PerfkitError(
                f"--resume {self.folder}: it began with {had.samples_per_epoch} samples an epoch "
                f"of {had.name}, here are {have.samples_per_epoch} of {have.name}; a training goes "
                "on with the data it began with"
            )
        if self.mesh.rank != 0:
            return
        self._before = kept = record.cells[0]
        changes = differences(record, self.log.as_cell(), self._environment.hardware)
        if changes:
            told = f"epochs up to {checkpoint.epoch} ran under other conditions: "
            self._notices = (*self._notices, told + "; ".join(changes))
        self.log.blocks = [block for block in kept.blocks if block.round < checkpoint.epoch]
        self.log.load = [load for load in kept.load if load.round < checkpoint.epoch]
        self.log.memory = kept.memory
        if self.epochs and self._best().epoch == checkpoint.epoch:
            save_checkpoint(checkpoint, self.folder / FOLDER / BEST)

    def _epoch(
        self, number: int, cell: RankCell, validation: Evaluator, listener: Listener
    ) -> None:
        learning_rate = cell.training.learning_rate
        reset_peak(cell.cuda)
        meter, cpu_s = HostLoadMeter(), tree_cpu_s()
        cell.energy.start()
        started = time.perf_counter()
        samples = self._steps(number, cell, listener)
        train_s = time.perf_counter() - started
        costs = {"wall_s": train_s, "cpu_s": tree_cpu_s() - cpu_s}
        self._note(number, cell, samples, **costs, energy_j=cell.energy.joules())
        if self.mesh.rank == 0:
            blocks = self.log.blocks[-self.mesh.world_size :]
            own = sum(block.turn_cpu_s for block in blocks[: self.place.local_world_size])
            cpus = psutil.cpu_count() or 1
            self.log.load.append(meter.stop(number - 1, own_cpu_s=own, cpus=cpus))
        started = time.perf_counter()
        evaluation = validation.evaluate(cell.training)
        evaluate_s = time.perf_counter() - started
        if not math.isfinite(evaluation.loss):
            raise self._not_finite(f"on the validation set after epoch {number}")
        self.epochs.append(
            Epoch(
                epoch=number,
                train_loss=self._mean_loss(samples),
                learning_rate=learning_rate,
                train_s=train_s,
                evaluate_s=evaluate_s,
                skipped_steps=sum(sample.skipped for sample in samples),
                loss_scale=cell.training.loss_scale,
                validation=evaluation,
            )
        )
        checkpoint = cell.checkpoint(number, number * cell.steps_per_epoch)
        if checkpoint is not None:
            # In this order a process that ends in between leaves what can be gone on with: the
            # Record may be ahead of the last checkpoint, and that ahead of the best one.
            self._save("interrupted")
            write_history(self.epochs, self.folder)
            save_checkpoint(checkpoint, self.folder / FOLDER / LAST)
            if not self._can_be_read:
                load_checkpoint(self.folder / FOLDER / LAST)  # now, not when all is trained
                self._can_be_read = True
            if self._best().epoch == number:
                save_checkpoint(checkpoint, self.folder / FOLDER / BEST)

    def _steps(self, number: int, cell: RankCell, listener: Listener) -> list[StepSample]:
        """Train the steps of one epoch, looking at the losses now and then."""
        samples: list[StepSample] = []
        together = 1
        while len(samples) < cell.steps_per_epoch:
            recorder = cell.recorder()
            started = time.perf_counter()
            if self._has_begun:
                cell.training.run(together, recorder)
            else:
                self.log.facts = gather(cell.first_step(recorder), self.mesh)
                self._has_begun = True
            fresh = recorder.samples()
            step_s = (time.perf_counter() - started) / len(fresh)
            listener.advance(len(fresh))
            self._look(number, len(samples), fresh, cell)
            samples += fresh
            left = cell.steps_per_epoch - len(samples)
            together = share(max(min(int(LOOK_EVERY_S / step_s), left), 1), self.mesh)
        return samples

    def _look(self, number: int, done: int, fresh: list[StepSample], cell: RankCell) -> None:
        """Raise PerfkitError, on every rank, if the loss of any is not finite."""
        bad = None
        for index, sample in enumerate(fresh):
            self._skipped_in_a_row = self._skipped_in_a_row + 1 if sample.skipped else 0
            if sample.loss is None and not sample.skipped and bad is None:
                bad = done + index + 1
        found = [step for step in gather(bad or 0, self.mesh) if step]
        first = share(min(found, default=0), self.mesh)
        of = f"of {cell.steps_per_epoch} in epoch {number}"
        if first:
            raise self._not_finite(f"at step {first} {of}")
        if self._skipped_in_a_row >= MOST_SKIPPED:
            raise PerfkitError(
                f"the gradient scaler skipped {MOST_SKIPPED} steps in a row, up to step "
                f"{done + len(fresh)} {of}: gradients overflow in fp16 at any scale; "
                f"{self._last_good()}; use --precision bf16 or fp32"
            )

    def _not_finite(self, where: str) -> PerfkitError:
        return PerfkitError(
            f"the loss is not finite {where}: the training has diverged or the data holds such "
            f"values; {self._last_good()}; try a lower learning rate, or look at the data"
        )

    def _last_good(self) -> str:
        if not self.epochs:
            return "no epoch had ended, so there is no checkpoint"
        return f"the last good checkpoint is {self.folder / FOLDER / LAST}, of epoch " + str(
            self.epochs[-1].epoch
        )

    def _mean_loss(self, samples: list[StepSample]) -> float:
        """Return the mean loss of the global batches: the mean over ranks of their parts."""
        losses = [sample.loss for sample in samples if sample.loss is not None]
        parts = gather(sum(losses) / len(losses) if losses else 0.0, self.mesh)
        return share(sum(parts) / max(len(parts), 1), self.mesh)

    def _note(
        self,
        number: int,
        cell: RankCell,
        samples: list[StepSample],
        *,
        wall_s: float,
        cpu_s: float,
        energy_j: dict[str, float],
    ) -> None:
        """Gather what the epoch cost on every rank."""
        # Drawn, not every so many-th: stalls of loader workers come at regular distances.
        kept = sorted(
            random.Random(number).sample(range(len(samples)), min(len(samples), MOST_SAMPLES))
        )
        block = Block(
            round=number - 1,
            rank=self.mesh.rank,
            wall_s=wall_s,
            turn_cpu_s=cpu_s,
            energy_j=energy_j,
            steps=[samples[index] for index in kept],
            taken=len(samples) if len(kept) < len(samples) else None,
        )
        self.log.blocks += gather(block, self.mesh)
        peaks = gather(read_peak(cell.cuda), self.mesh)
        before: Sequence[Memory | None] = self.log.memory or [None] * len(peaks)
        self.log.memory = [highest(old, new) for old, new in zip(before, peaks, strict=True)]

    def _best(self) -> Epoch:
        """Return the earliest of the best epochs."""
        monitor = self.config.monitor

        def badness(epoch: Epoch) -> float:
            if monitor == "loss":
                return epoch.validation.loss
            value = epoch.validation.metrics.get(monitor)
            if value is None and any(monitor in e.validation.metrics for e in self.epochs):
                return math.inf  # not defined in this epoch
            if value is None:
                known = ", ".join(["loss", *epoch.validation.metrics])
                raise PerfkitError(
                    f"--monitor {monitor}: the validation set has none; it has {known}"
                )
            return -value

        return min(self.epochs, key=badness)

    def _stops_early(self) -> bool:
        patience = self.config.patience
        if patience is None or not self.epochs:
            return False
        return self.epochs[-1].epoch - self._best().epoch >= patience

    def _load_best(self, cell: RankCell) -> None:
        barrier(self.mesh)  # rank 0 has written it by then
        load_model(unwrapped(cell.training.model), load_checkpoint(self.folder / FOLDER / BEST))

    def _save(self, end: Literal["all epochs", "early stopping", "interrupted"]) -> None:
        # A process that had only the test left to do has seen no step of its own.
        unchanged = self._before if not self._has_begun else None
        record = Record(
            name=self.folder.name,
            created_at=self._created_at,
            status="incomplete" if end == "interrupted" else "complete",
            kind="training",
            scaling=self.config.scaling,
            config=self.config,
            environment=self._environment,
            data=self.log.facts[0].data,
            parameters=self.log.facts[0].parameters,
            new_parameters=self.log.facts[0].new_parameters,
            gate=self.gate,
            cells=[unchanged or self.log.as_cell()],
            traces=None,
            training=TrainingResult(
                epochs=self.epochs,
                resumed_after=self.resumed_after,
                monitor=self.config.monitor,
                best_epoch=self._best().epoch,
                end=end,
                test=self.test,
            ),
            taints=[*self._notices, *late_taints([self.log])],
        )
        write_record(record, self.folder)
