"""Checkpoints come back as they were, are whole or not there, and are read without running code."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trainable
from torch import nn
from torch.optim import AdamW
from trainings import flattened

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.engine.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_model,
    random_state,
    save_checkpoint,
    set_random_state,
)
from perfkit.engine.loading import endless_batches
from perfkit.engine.training import Training
from perfkit.measure.recorder import StepRecorder
from perfkit.strategies.base import Device, Mesh

ALONE = Mesh(rank=0, world_size=1, devices=(Device(torch.device("cpu"), "cpu"),))
CONFIG = RunConfig(local_batch=4)


class Adaptive(trainable.ThreeClasses):
    """An optimiser with more state than a momentum."""

    def optimizer(self, model: nn.Module) -> AdamW:
        return AdamW(model.parameters(), lr=0.01)


def training_of(
    workload: trainable.ThreeClasses, *, start: int = 0, precision: Any = "fp32"
) -> Training:
    torch.manual_seed(start)
    batches = endless_batches(workload, CONFIG, ALONE, 4, start=start)
    return Training(
        workload, workload.model(), batches, ALONE, steps_per_epoch=3, precision=precision
    )


def checkpoint_of(training: Training) -> Checkpoint:
    return Checkpoint(
        workload="trainable:ThreeClasses",
        epoch=2,
        steps=5,
        ranks=1,
        global_batch=4,
        model=training.model.state_dict(),
        training=training.state(),
        random=[random_state([])],
    )


def content(checkpoint: Checkpoint) -> dict[str, Any]:
    return flattened(dataclasses.asdict(checkpoint))


@pytest.mark.parametrize("kind", [trainable.ThreeClasses, Adaptive])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_training_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(
    kind: type[trainable.ThreeClasses], precision: str, tmp_path: Path
) -> None:
    whole = training_of(kind(CONFIG), precision=precision)
    whole.run(5, StepRecorder())
    save_checkpoint(checkpoint_of(whole), tmp_path / "last.pt")
    whole.run(4, StepRecorder())

    found = load_checkpoint(tmp_path / "last.pt")
    again = training_of(kind(CONFIG), start=found.steps, precision=precision)
    load_model(again.model, found)
    again.load_state(found.training)
    set_random_state(found.random[0], [])
    assert content(checkpoint_of(again)) != content(checkpoint_of(whole))
    again.run(4, StepRecorder())
    assert content(checkpoint_of(again)) == content(checkpoint_of(whole))
    assert again.learning_rate == pytest.approx(whole.learning_rate)


def test_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    training = training_of(Adaptive(CONFIG))
    training.run(4, StepRecorder())
    saved = checkpoint_of(training)
    save_checkpoint(saved, tmp_path / "folder" / "last.pt")
    found = load_checkpoint(tmp_path / "folder" / "last.pt")
    assert content(found) == content(saved)


DRAWS: list[Callable[[], Any]] = [
    random.random,
    lambda: random.gauss(0, 1),
    np.random.random,
    np.random.normal,
    lambda: float(torch.rand(())),
]


def test_every_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    for draw in DRAWS:  # the second half of a pair of normal numbers is kept until asked for
        draw()
    training = training_of(trainable.ThreeClasses(CONFIG))
    save_checkpoint(checkpoint_of(training), tmp_path / "last.pt")
    expected = [[draw() for draw in DRAWS] for _ in range(3)]
    set_random_state(load_checkpoint(tmp_path / "last.pt").random[0], [])
    assert [[draw() for draw in DRAWS] for _ in range(3)] == expected


def test_a_training_may_go_on_without_the_gpu_that_it_was_begun_on() -> None:
    state = random_state([]) | {"cuda": [torch.zeros(16, dtype=torch.uint8)]}
    expected = torch.rand(3)
    set_random_state(state, [])
    assert torch.equal(torch.rand(3), expected)


def test_numbers_of_numpy_in_a_schedule_do_not_make_it_unreadable(tmp_path: Path) -> None:
    saved = checkpoint_of(training_of(trainable.ThreeClasses(CONFIG)))
    saved.training["optimizer"]["param_groups"][0]["lr"] = np.float64(0.25)
    saved.training["schedule"]["_last_lr"] = [np.float32(0.25)]
    saved.training["optimizer"]["param_groups"][0]["betas"] = (np.float64(0.5), 0.75)
    saved.training["schedule"]["table"] = np.array([1.0, 2.0])
    save_checkpoint(saved, tmp_path / "last.pt")
    found = load_checkpoint(tmp_path / "last.pt").training
    assert found["optimizer"]["param_groups"][0]["lr"] == 0.25
    assert found["schedule"]["_last_lr"] == [0.25]
    assert found["optimizer"]["param_groups"][0]["betas"] == (0.5, 0.75)
    assert found["schedule"]["table"].tolist() == [1.0, 2.0]


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before_and_nothing_else(
    tmp_path: Path,
) -> None:
    saved = checkpoint_of(training_of(trainable.ThreeClasses(CONFIG)))
    save_checkpoint(saved, tmp_path / "last.pt")
    before = (tmp_path / "last.pt").read_bytes()
    unsavable = dataclasses.replace(saved, training={"schedule": lambda: None})
    with pytest.raises(Exception, match=r"pickle|local object"):
        save_checkpoint(unsavable, tmp_path / "last.pt")
    assert (tmp_path / "last.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize(
    "content",
    [
        {"0.weight": torch.ones(2)},  # a state_dict
        {"model": {"0.weight": torch.ones(2)}, "epoch": 3},  # somebody else's checkpoint
        [torch.ones(2)],
        torch.ones(2),
        None,
    ],
)
def test_files_of_something_else_are_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(PerfkitError, match=r"last\.pt: is no checkpoint of perfkit train"):
        load_checkpoint(tmp_path / "last.pt")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (nn.Sequential(nn.Linear(8, 16)), "Unexpected key"),
        (nn.Sequential(nn.Linear(8, 4), nn.Identity(), nn.Linear(16, 16), nn.Linear(16, 3)), ""),
        (nn.Linear(8, 3), "Missing key"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_in_one_line(other: nn.Module, words: str) -> None:
    checkpoint = checkpoint_of(training_of(trainable.ThreeClasses(CONFIG)))
    with pytest.raises(PerfkitError, match="the checkpoint is of another model") as refusal:
        load_model(other, checkpoint)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_checkpoint_of_another_optimiser_is_refused_in_one_line() -> None:
    training = training_of(trainable.ThreeClasses(CONFIG))
    state = training.state()
    state["optimizer"]["param_groups"] *= 2
    with pytest.raises(PerfkitError, match="is of another optimiser, schedule or precision") as no:
        training.load_state(state)
    assert "\n" not in str(no.value)


def test_a_checkpoint_of_fp32_does_not_go_on_in_fp16() -> None:
    state = training_of(trainable.ThreeClasses(CONFIG)).state()
    with pytest.raises(PerfkitError, match="is of another optimiser, schedule or precision"):
        training_of(trainable.ThreeClasses(CONFIG), precision="fp16").load_state(state)
