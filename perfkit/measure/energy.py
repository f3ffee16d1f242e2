"""Energy by counters that only grow: RAPL of CPU packages, NVML of GPUs.

RAPL is in Linux's powercap (/sys/class/powercap, files that only root may read unless they were
opened to all); NVML counts from Volta on. What cannot be read is missing, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from socket import gethostname
from typing import Any, NamedTuple

import torch

from perfkit.core.record import GPU

POWERCAP = Path("/sys/class/powercap")


class Counter(NamedTuple):
    """A counter as it stood."""

    joules: float
    wraps_at: float
    """Joules after which it begins at 0 again; 0 where it never does."""


class EnergyMeter:
    """Counters of this host's CPU packages and of some GPUs."""

    def __init__(self, cuda_devices: Sequence[torch.device], powercap: Path = POWERCAP) -> None:
        self._gpus, self._powercap = _handles(cuda_devices), powercap
        self._before: dict[str, Counter] = {}

    def start(self) -> None:
        """Read the counters."""
        self._before = self._read()

    def joules(self) -> dict[str, float]:
        """Return the joules since the start by counter; none may have wrapped twice."""
        found = {}
        for name, now in self._read().items():
            before = self._before.get(name)
            if before is not None:
                used = now.joules - before.joules
                found[name] = used if used >= 0 else used + now.wraps_at
        return found

    def _read(self) -> dict[str, Counter]:
        return {**_packages(self._powercap), **_counted(self._gpus)}


def _packages(powercap: Path) -> dict[str, Counter]:
    """Return the counters of the CPU packages that may be read, by host and name."""
    found = {}
    for zone in sorted(powercap.glob("intel-rapl:*")):  # on AMD too
        with suppress(OSError, ValueError):
            name = (zone / "name").read_text(encoding="ascii").strip()
            # Cores and memory controllers are zones within those of the packages.
            if name.startswith("package"):
                most = int((zone / "max_energy_range_uj").read_text(encoding="ascii")) / 1e6
                joules = int((zone / "energy_uj").read_text(encoding="ascii")) / 1e6
                found[f"{gethostname()} {name}"] = Counter(joules, most)
    return found


def _handles(devices: Sequence[torch.device]) -> dict[str, Any]:
    """Return NVML's handles of these GPUs by UUID, as far as it knows them."""
    found: dict[str, Any] = {}
    if not devices:
        return found
    try:
        import pynvml
    except ImportError:
        return found
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return found
    for device in devices:
        with suppress(pynvml.NVMLError):
            uuid = f"{GPU}{torch.cuda.get_device_properties(device).uuid}"
            found[uuid] = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    return found


def _counted(gpus: Mapping[str, Any]) -> dict[str, Counter]:
    """Return the counters of GPUs by UUID, of those that have one."""
    found = {}
    for uuid, handle in gpus.items():
        import pynvml

        with suppress(pynvml.NVMLError):
            joules = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
            found[uuid] = Counter(joules, 0.0)
    return found
