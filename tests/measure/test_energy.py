"""Energy is what counters say it is, and missing where they cannot be read."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from perfkit.measure.energy import EnergyMeter


def a_zone(powercap: Path, zone: str, name: str, microjoules: int, most: int = 10**9) -> Path:
    folder = powercap / zone
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


@pytest.fixture(autouse=True)
def _one_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perfkit.measure.energy.gethostname", lambda: "host")


def test_packages_are_counted_and_the_zones_within_them_are_not(tmp_path: Path) -> None:
    first = a_zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    second = a_zone(tmp_path, "intel-rapl:1", "package-1", 1_000_000)
    core = a_zone(tmp_path, "intel-rapl:0:0", "core", 1_000_000)
    meter = EnergyMeter([], tmp_path)
    meter.start()
    for counter, microjoules in ((first, 7_500_000), (second, 1_250_000), (core, 2_000_000)):
        counter.write_text(f"{microjoules}\n")
    assert meter.joules() == {"host package-0": 2.5, "host package-1": 0.25}


def test_a_counter_that_wrapped_goes_on(tmp_path: Path) -> None:
    counter = a_zone(tmp_path, "intel-rapl:0", "package-0", 95_000_000, most=100_000_000)
    meter = EnergyMeter([], tmp_path)
    meter.start()
    counter.write_text("3000000\n")
    assert meter.joules() == {"host package-0": pytest.approx(8.0)}


def test_what_cannot_be_read_is_missing_and_not_zero(tmp_path: Path) -> None:
    (a_zone(tmp_path, "intel-rapl:0", "package-0", 1)).unlink()
    a_zone(tmp_path, "intel-rapl:1", "package-1", 1).write_text("")
    for powercap in (tmp_path, tmp_path / "none"):
        meter = EnergyMeter([], powercap)
        meter.start()
        assert meter.joules() == {}


class FakeError(Exception):
    pass


def fake_nvml(monkeypatch: pytest.MonkeyPatch, millijoules: dict[str, list[int]]) -> None:
    """Put an NVML in place whose GPUs, by UUID, count like this; one without a list has none."""

    def handle(uuid: str) -> str:
        if uuid not in millijoules:
            raise FakeError(uuid)
        return uuid

    def energy(uuid: str) -> int:
        if not millijoules[uuid]:
            raise FakeError("not supported")
        return millijoules[uuid].pop(0)

    facts = {
        "NVMLError": FakeError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": handle,
        "nvmlDeviceGetTotalEnergyConsumption": energy,
    }
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(**facts))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=device.index)
    )


def test_gpus_are_counted_by_uuid_and_one_without_a_counter_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvml(monkeypatch, {"GPU-0": [1_000, 3_500], "GPU-1": []})
    meter = EnergyMeter([torch.device("cuda", index) for index in range(3)], tmp_path)
    meter.start()
    assert meter.joules() == {"GPU-0": 2.5}


def test_without_nvml_the_energy_of_gpus_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = EnergyMeter([torch.device("cuda", 0)], tmp_path)
    meter.start()
    assert meter.joules() == {}
