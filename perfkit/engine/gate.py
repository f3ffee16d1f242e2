"""The correctness gate: a strategy must train as serial training does before it is timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from perfkit.core.config import MIN_LOCAL_BATCH, RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.core.record import Gate
from perfkit.data.batches import SeededDataset
from perfkit.engine.forward_observer import ForwardObserver
from perfkit.engine.loading import Batch, fixed_batch, training_keys
from perfkit.engine.training import Training
from perfkit.measure.recorder import StepRecorder
from perfkit.ops import SqueezeExcite
from perfkit.strategies.base import Mesh
from perfkit.workloads.base import Workload

STEPS = 5
TOLERANCE = 1e-9

Parallelize = Callable[[nn.Module, Mesh], nn.Module]


def equality_gate(
    workload: Workload, parallelize: Parallelize, mesh: Mesh, config: RunConfig
) -> Gate:
    """Train a few steps under the strategy and serially, and compare every parameter.

    The serial training runs SE blocks by the reference. float64, BatchNorm and dropout in eval
    mode, no augmentation, the same global batches: what is left is the order of sums. Raises
    PerfkitError if any rank's parameters differ by more than the tolerance.
    """
    global_batch = MIN_LOCAL_BATCH * mesh.world_size
    tested, seen = _train(workload, parallelize, mesh, config, global_batch)
    alone = Mesh(rank=0, world_size=1, devices=mesh.devices[:1])
    serial: list[Tensor] | None = None
    if mesh.rank == 0:
        serial, _ = _train(workload, _serial, alone, config, global_batch)
    difference = _largest_difference(tested, serial, mesh)
    if math.isnan(difference):
        raise PerfkitError(
            f"the correctness gate of --strategy {config.strategy} came to nan: the training "
            f"diverges within {STEPS} steps in float64; look at the loss, its weights and the data"
        )
    if difference > TOLERANCE:
        differs = f"--strategy {config.strategy} does not train as serial training does"
        if config.strategy == "serial":
            differs = f"--ops {config.ops} does not train as --ops reference does"
        raise PerfkitError(
            f"{differs}: after {STEPS} steps in float64 parameters differ by {difference:.3g} (at "
            f"most {TOLERANCE:g}), so its speed would mean nothing; look for state that the ranks "
            "or stages do not share, and whether --ops reference differs too"
        )
    return Gate(
        steps=STEPS,
        global_batch=global_batch,
        squeeze_excites=dict(seen.squeeze_excites),
        max_abs_difference=difference,
        tolerance=TOLERANCE,
    )


def _serial(model: nn.Module, mesh: Mesh) -> nn.Module:
    for module in model.modules():
        if isinstance(module, SqueezeExcite):
            module.ops = "reference"
    return model.to(mesh.first_device)


def _train(
    workload: Workload, parallelize: Parallelize, mesh: Mesh, config: RunConfig, global_batch: int
) -> tuple[list[Tensor], ForwardObserver]:
    """Return the parameters after training, and what was seen to run."""
    torch.manual_seed(config.seed)
    model = parallelize(workload.model().double(), mesh)
    training = Training(
        workload,
        model.eval(),
        _float64_batches(workload, mesh, config, global_batch),
        mesh,
        steps_per_epoch=STEPS,
    )
    observer = ForwardObserver()
    with observer.watching(model):
        training.run(STEPS, StepRecorder())
    return [parameter.detach().cpu() for parameter in model.parameters()], observer


def _float64_batches(
    workload: Workload, mesh: Mesh, config: RunConfig, global_batch: int
) -> Generator[Batch]:
    dataset = workload.dataset("train")
    samples = SeededDataset(dataset, config.seed)  # what it draws must not depend on the ranks
    for batch in training_keys(workload, config, mesh, global_batch):
        chosen = [samples[key][0] for key in batch]
        inputs, targets = fixed_batch(workload, config, chosen, mesh.first_device)
        yield Batch(inputs.double(), targets)


def _largest_difference(tested: list[Tensor], serial: list[Tensor] | None, mesh: Mesh) -> float:
    """Return the largest difference of any rank's parameters from rank 0's serial ones."""
    differences = [torch.zeros((), dtype=torch.float64)]
    for index, parameter in enumerate(tested):
        reference = parameter.clone() if serial is None else serial[index]
        if mesh.control is not None:
            dist.broadcast(reference, src=0, group=mesh.control)
        if parameter.numel():
            differences.append((parameter - reference).abs().max())
    # Tensor.max passes nan on, which Python's max would lose.
    worst = torch.stack(differences).max()
    if mesh.control is not None:
        ranks = [torch.empty_like(worst) for _ in range(mesh.world_size)]
        dist.all_gather(ranks, worst, group=mesh.control)
        worst = torch.stack(ranks).max()
    return float(worst)
