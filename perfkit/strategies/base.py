"""What a strategy is, and the words it is told in: layout, device, mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from perfkit.core.config import RunConfig

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist
    from torch import Tensor, nn

    from perfkit.strategies.placement import Placement


@dataclass(frozen=True)
class Layout:
    """Processes x devices: ``ranks`` processes, each on ``devices_per_rank`` devices."""

    ranks: int
    devices_per_rank: int = 1

    @property
    def devices(self) -> int:
        """Devices in all."""
        return self.ranks * self.devices_per_rank


@dataclass(frozen=True)
class Device:
    """A place for a stage. A stand-in shares the CPU with others but is a device of its own."""

    torch_device: torch.device
    name: str  # "cuda:0", "cpu", "stand-in:1"

    @property
    def is_stand_in(self) -> bool:
        """Whether this is a logical device on the CPU."""
        return self.name.startswith("stand-in:")


@dataclass(frozen=True)
class Mesh:
    """Where one rank stands: its devices, and the groups it shares the batch with.

    ``group`` carries gradients (NCCL or gloo), ``control`` small messages (always gloo: its
    waiting ranks sleep). Both are None where the world is one rank.
    """

    rank: int
    world_size: int
    devices: tuple[Device, ...]
    group: dist.ProcessGroup | None = None
    control: dist.ProcessGroup | None = None

    @property
    def first_device(self) -> torch.device:
        """The device that a batch is copied to."""
        return self.devices[0].torch_device


@dataclass(frozen=True)
class Cut:
    """A model cut into modules that are called one after the other.

    ``sample`` is one input batch, by which the modules are weighed unless their ``placement`` is
    already known.
    """

    stages: Sequence[nn.Module]
    sample: Tensor
    placement: Placement | None = None


class Strategy(Protocol):
    """A module of this package with these three functions is a strategy.

    The modules import torch only inside ``parallelize``: the command line asks for layouts
    before it pays for that import.
    """

    def layout(self, config: RunConfig) -> Layout:
        """Return processes x devices; PerfkitError where the flags do not go together."""

    def ceiling(self, layout: Layout) -> float:
        """Return the most that this strategy can gain over one device, as a factor."""

    def parallelize(
        self, model: nn.Module, cut: Cut | None, mesh: Mesh, config: RunConfig
    ) -> nn.Module:
        """Return ``model`` spread over the devices of ``mesh``.

        ``cut`` is None where the workload does not say how to cut its model.
        """
