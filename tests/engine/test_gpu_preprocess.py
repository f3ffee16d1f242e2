"""``--preprocess device`` on a GPU: the bytes of the CPU, in a phase of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_gpu import GLAUCOMA, record_of

from perfkit.core.config import RunConfig
from perfkit.measure.recorder import PHASES
from perfkit.workloads.glaucoma import Glaucoma

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

RAN = {"fused": "fused cuda", "reference": "reference"}


@pytest.mark.parametrize("ops", RAN)
def test_a_gpu_gives_the_bytes_of_the_cpu_and_evaluates_on_the_same_inputs(ops: str) -> None:
    facts = {"image_size": 100, "preprocess": "device", "ops": ops}
    here, there = (Glaucoma(RunConfig.model_validate(facts)) for _ in range(2))
    images = torch.stack([here.dataset("train")[index][0] for index in range(6)])
    enhanced = there._enhance(images.cuda())
    assert enhanced.device.type == "cuda"
    assert torch.equal(enhanced.cpu(), here._enhance(images))
    assert there.implementation == RAN[ops]
    inputs = there.prepare(images.cuda(), None).cpu()
    torch.testing.assert_close(inputs, here.prepare(images, None))
    seeds = list(range(6))
    augmented = there.prepare(images.cuda(), seeds).cpu()
    off = (augmented - here.prepare(images, seeds)).abs()
    assert float((off > 0.1).float().mean()) < 0.01  # the same draws, but for rounding


@pytest.mark.parametrize("ops", RAN)
def test_a_run_has_the_phase_by_events_too_and_says_what_ran(ops: str, tmp_path: Path) -> None:
    flags = (*GLAUCOMA, "--preprocess", "device", "--ops", ops, "--workers", "1")
    (cell,) = record_of(*flags, gpus=1, cwd=tmp_path).cells
    assert cell.implementation == [RAN[ops]]
    for step in (step for block in cell.blocks for step in block.steps):
        assert tuple(step.device_phases_s) == (*PHASES[:2], "preprocess", *PHASES[2:])
        assert step.device_phases_s["preprocess"] > 0
