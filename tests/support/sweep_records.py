"""Sweeps whose processes are not run: Records with known costs take their places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from records import a_cell, a_record, an_environment

from perfkit.core.config import RunConfig
from perfkit.core.record import Record, write_record
from perfkit.core.sweep import Options, PlannedCell, Sweep, write_sweep
from perfkit.engine.sweep_folder import record_folder

BASE: Options = {"workload": "tiny:Tiny", "local_batch": 4, "image_size": 96}


def a_sweep(*changed: Options, rounds: int = 6, **changes: Any) -> Sweep:
    """Return a plan whose first cell is the base, trials behind it: ten seconds a process."""
    cells = [
        PlannedCell(
            label=" ".join(f"{k}={v}" for k, v in options.items()) or "base",
            options={**BASE, **options},
            planned_s=10.0,
        )
        for options in ({}, *changed)
    ]
    facts = {"command": "profile", "rounds": rounds, "seed": 1, "cells": cells}
    hardware = an_environment().hardware
    known = {"name": "a-sweep", "created_at": "2026-01-02T03:04:05+00:00", "hardware": hardware}
    return Sweep.model_validate({**known, **facts, **changes})


def one_process(sweep: Sweep, index: int, step_s: float, *, at: int = 0, **cell: Any) -> Record:
    """Return the Record of a process of a cell whose steps took ``step_s``; ``at`` orders them."""
    options = sweep.config(index).model_dump(exclude_unset=True)
    asked = RunConfig.model_validate(
        {k: v for k, v in options.items() if k in RunConfig.model_fields}
    )
    layout = {
        **{"strategy": asked.strategy, "workers": asked.workers, "precision": asked.precision},
        "local_batch": asked.local_batch or 4,
    }
    measured = a_cell([[step_s]] * 2, **{**layout, **cell})
    return a_record(measured, config=options, created_at=f"2026-01-02T03:{at:04}")


def written(sweep: Sweep, folder: Path, costs: Sequence[Sequence[float]]) -> Path:
    """Write a sweep whose cell i took ``costs[i][round]`` seconds a step, and return its folder."""
    folder.mkdir(parents=True)
    write_sweep(sweep, folder)
    for index, rounds in enumerate(costs):
        for number, step_s in enumerate(rounds):
            run = record_folder(folder, number, index)
            run.mkdir(parents=True)
            at = number * len(costs) + index
            record = one_process(sweep, index, step_s, at=at)
            write_record(record.model_copy(update={"name": run.name}), run)
    return folder
