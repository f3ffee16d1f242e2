"""Records with known costs, so that a test can say by hand what must come out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perfkit.core.config import ProfileConfig, TrainConfig
from perfkit.core.environment import Environment
from perfkit.core.record import (
    Block,
    Cell,
    DataFacts,
    Gate,
    HostLoad,
    Memory,
    Record,
    StepSample,
)
from perfkit.core.trace_summary import TraceFile, Traces
from perfkit.core.training_result import Epoch, Evaluation, TrainingResult

# What is left of a step, a twentieth, belongs to no phase.
SHARES = {
    "data_wait": 0.10,
    "host_to_device": 0.05,
    "forward": 0.30,
    "backward": 0.40,
    "optimizer": 0.10,
}


def a_cell(
    rounds: Sequence[Sequence[float]],
    *,
    steps: int = 2,
    local_batch: int = 4,
    communication_s: float | None = None,
    on_gpu: bool = False,
    foreign: float = 0.0,
    **changes: Any,
) -> Cell:
    """Return a cell whose rank r took ``rounds[i][r]`` seconds for each step of round i.

    On a GPU every phase took half as long by CUDA events as by the host clock.
    """
    ranks = len(rounds[0]) if rounds else 1
    blocks = [
        Block(
            round=index,
            rank=rank,
            wall_s=seconds * steps,
            turn_cpu_s=seconds * steps,
            steps=[_step(seconds, communication_s, on_gpu)] * steps,
        )
        for index, costs in enumerate(rounds)
        for rank, seconds in enumerate(costs)
    ]
    facts = {
        "role": "strategy",
        "label": f"ddp, {ranks} ranks x 1 thread" if ranks > 1 else "serial, 1 thread",
        "strategy": "ddp" if ranks > 1 else "serial",
        "ranks": ranks,
        "devices_per_rank": 1,
        "devices": [[f"cuda:{rank}" if on_gpu else "cpu"] for rank in range(ranks)],
        "backend": "gloo" if ranks > 1 else None,
        "threads": 1,
        "workers": 0,
        "local_batch": local_batch,
        "global_batch": local_batch * ranks,
        "ceiling": float(ranks),
        "time_to_first_step_s": [3.0] * ranks,
        "warmup_step_s": [0.1] * 3,
        "observed": [],
        "placement": [],
        "stage_cost_s": [],
        "crossings": None,
        "blocks": blocks,
        "load": [_load(index, foreign) for index in range(len(rounds))],
        "memory": [_memory(on_gpu) for _ in range(ranks)],
    }
    return Cell.model_validate(facts | changes)


def a_baseline(rounds: Sequence[float], *, threads: int = 1, **changes: Any) -> Cell:
    """Return serial training that took ``rounds[i]`` seconds for each step of round i."""
    label = f"serial, {threads} thread{'s' if threads > 1 else ''}"
    changes = {"role": "baseline", "label": label, "threads": threads} | changes
    return a_cell([[seconds] for seconds in rounds], **changes)


def a_record(*cells: Cell, config: dict[str, Any] | None = None, **changes: Any) -> Record:
    """Return a complete run of ``cells``, the strategy first, without a trace."""
    asked = ProfileConfig(
        **{
            "workload": "tiny:Tiny",
            "strategy": cells[0].strategy,
            "image_size": 96,
            "local_batch": cells[0].local_batch,
            **(config or {}),
        }
    )
    facts = {
        "name": "a-run",
        "created_at": "2026-01-02T03:04:05+00:00",
        "status": "complete",
        "kind": "quick look",
        "scaling": asked.scaling,
        "config": asked,
        "environment": an_environment(),
        "data": DataFacts(
            name="vectors",
            train_samples=64,
            samples_per_epoch=64,
            class_counts=[40, 24],
            skipped=[],
        ),
        "parameters": 482,
        "gate": Gate(steps=5, global_batch=4, max_abs_difference=5e-17, tolerance=1e-9),
        "cells": cells,
        "traces": None,
        "taints": [],
    }
    return Record.model_validate(facts | changes)


def a_training(
    losses: Sequence[float], *, cell: Cell | None = None, end: str = "all epochs", **test: Any
) -> Record:
    """Return a training whose epochs ended with these validation losses.

    Epoch k took 4 + k s, of which 1 s validation, and its accuracy was 1 - loss / 2. ``test`` are
    changes of the evaluation on the test set.
    """
    worth = {"accuracy": 0.75, "auc": 0.875, "precision": 0.5, "recall": 0.25, "f1": 0.375}
    facts = {"split": "test", "samples": 20, "loss": 0.5, "metrics": worth}
    tested = Evaluation.model_validate(facts | {"confusion": [[9, 1], [4, 6]]} | test)
    epochs = [
        Epoch(
            epoch=number,
            train_loss=loss / 2,
            learning_rate=0.1,
            train_s=3.0 + number,
            evaluate_s=1.0,
            skipped_steps=0,
            loss_scale=None,
            validation=tested.model_copy(
                update={
                    "split": "val",
                    "loss": loss,
                    "metrics": dict.fromkeys(tested.metrics, 1 - loss / 2),
                }
            ),
        )
        for number, loss in enumerate(losses, 1)
    ]
    training = TrainingResult(
        epochs=epochs,
        resumed_after=[],
        monitor="loss",
        best_epoch=1 + losses.index(min(losses)),
        end=end,
        test=tested if end != "interrupted" else None,
    )
    cell = cell or a_cell([[0.2]] * len(losses), precision="fp32")
    record = a_record(cell, kind="training", training=training)
    config = TrainConfig(workload="tiny:Tiny", image_size=96, local_batch=cell.local_batch)
    return record.model_copy(update={"config": config})


def an_environment(**changes: Any) -> Environment:
    """Return a machine with four cores and no GPU."""
    facts = {
        "hostname": "host",
        "hardware": "A CPU, 4 cores",
        "cpu": "A CPU",
        "cores": 4,
        "memory_mib": 8192.0,
        "gpus": [],
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
        "variables": {},
        "launcher": "perfkit",
        "git_commit": None,
        "git_dirty": None,
        "deterministic": False,
        "cudnn_benchmark": False,
        "tf32_matmul": False,
        "tf32_convolution": True,
    }
    return Environment.model_validate(facts | changes)


def some_traces(step_s: Sequence[float]) -> Traces:
    """Return the summary of a trace of one rank, and the merged one."""
    sizes = {"traces/rank0.json.gz": (0, 3000), "traces/merged.json.gz": (None, 2048)}
    files = [
        TraceFile(
            path=path,
            rank=rank,
            size_bytes=size_bytes,
            events=100,
            steps=len(step_s),
            ranges={"perfkit.forward": len(step_s)},
            gpu_kernels=0,
        )
        for path, (rank, size_bytes) in sizes.items()
    ]
    return Traces(step_s=list(step_s), files=files)


def _step(seconds: float, communication_s: float | None, on_gpu: bool) -> StepSample:
    return StepSample(
        host_s=seconds,
        phases_s={name: share * seconds for name, share in SHARES.items()},
        device_phases_s=(
            {name: share * seconds / 2 for name, share in SHARES.items()} if on_gpu else {}
        ),
        communication_s=communication_s,
        loss=0.5,
    )


def _load(index: int, foreign: float) -> HostLoad:
    return HostLoad(round=index, foreign_cpu_share=foreign, pressure_share=None, steal_share=0.0)


def _memory(on_gpu: bool) -> Memory:
    gpu = [1024.0] if on_gpu else []
    return Memory(
        cpu_peak_mib=700.0, cpu_pss_mib=500.0, cuda_allocated_mib=gpu, cuda_reserved_mib=gpu
    )
