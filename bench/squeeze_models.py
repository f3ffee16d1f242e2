"""A whole training step of each model with Squeeze-and-Excitation: fused beside plain torch.

``python bench/squeeze_models.py`` measures all models and prints the lines of docs/results; with
the fields of Setup as JSON it measures one and prints the samples in seconds.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import cache, partial
from typing import get_args

import torch
from fresh_process import measure_afresh
from torch import Tensor, nn

from perfkit.core.config import Ops
from perfkit.core.stats import Interval, ratio_interval
from perfkit.measure.paired import time_paired

CLASSES = 2


@dataclass(frozen=True)
class Setup:
    """One model and what it is trained with; float32, AdamW, random images."""

    model: str
    batch: int
    image_size: int
    rounds: int = 30
    threads: int = 2

    @property
    def name(self) -> str:
        """As in the lines."""
        return f"{self.model}-{self.image_size}-batch-{self.batch}"


SETUPS = (
    Setup("medical_cnn", 8, 224, rounds=40),
    Setup("resnet18_se", 16, 96),
    Setup("vit_b_16_se", 4, 96, rounds=15),
)


@cache
def measure(setup: Setup) -> dict[str, list[float]]:
    """Run ``setup`` in a fresh process; return the seconds of a step by what ran the blocks."""
    return measure_afresh(__file__, setup)


def main(setup: Setup) -> dict[str, list[float]]:
    """Measure, models in turn in every round."""
    from perfkit.models.registry import find_architecture

    torch.set_num_threads(setup.threads)
    torch.manual_seed(0)
    images = torch.randn(setup.batch, 3, setup.image_size, setup.image_size)
    labels = torch.randint(CLASSES, (setup.batch,))

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss: Tensor = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    steps = {}
    for ops in get_args(Ops):
        model = find_architecture(setup.model, setup.image_size).build(
            CLASSES, setup.image_size, ops
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        steps[ops] = partial(step, model, optimizer)
    return dict(time_paired(steps, rounds=setup.rounds, warmup=2).call_s)


def gain(setup: Setup) -> Interval:
    """Return how many times as long the step takes with plain torch."""
    seconds = measure(setup)
    return ratio_interval(seconds["reference"], seconds["fused"])


def finding(setup: Setup) -> str:
    """Return in one line how long a step takes and how much faster it is."""
    seconds, ratio = measure(setup), gain(setup)
    return (
        f"{setup.name}, {setup.threads} threads: a step takes {min(seconds['fused']) * 1e3:.0f} ms "
        f"in the fastest round, {min(seconds['reference']) * 1e3:.0f} ms with plain torch; "
        f"{ratio.estimate:.3f}x [{ratio.low:.3f}, {ratio.high:.3f}] paired"
    )


if __name__ == "__main__":
    if len(sys.argv) == 1:
        for one in SETUPS:
            print(finding(one), flush=True)
    else:
        print(json.dumps(main(Setup(**json.loads(sys.argv[1])))))
