"""A ratio only where it means something, and otherwise the reason."""

from __future__ import annotations

import pytest
from records import a_cell, a_record, an_environment

from perfkit.analysis.compare import throughput_ratio, why_no_ratio
from perfkit.core.record import DataFacts, Record

SERIAL = a_cell([[0.2], [0.2]])
DDP = a_cell([[0.25, 0.25], [0.25, 0.25]])
REFERENCE = a_record(SERIAL)


def other_data() -> Record:
    data = DataFacts(
        name="photographs", train_samples=9, samples_per_epoch=9, class_counts=[], skipped=[]
    )
    return a_record(SERIAL, data=data)


def strong(global_batch: int, ranks: int = 1) -> Record:
    cell = a_cell([[0.2] * ranks], local_batch=global_batch // ranks)
    return a_record(cell, config={"local_batch": None, "global_batch": global_batch})


@pytest.mark.parametrize(
    ("record", "reference", "reason"),
    [
        (
            a_record(SERIAL, environment=an_environment(hardware="Another CPU, 4 cores")),
            REFERENCE,
            "other hardware",
        ),
        (a_record(a_cell([[0.1]], on_gpu=True)), REFERENCE, "other kind of device"),
        (a_record(SERIAL, config={"workload": "glaucoma"}), REFERENCE, "other workload"),
        (other_data(), REFERENCE, "other data"),
        (a_record(SERIAL, config={"image_size": 224}), REFERENCE, "other image size"),
        (
            a_record(a_cell([[0.2]], preprocess="none")),
            a_record(a_cell([[0.2]], preprocess="loader")),
            "other preprocessing",
        ),
        (strong(4), REFERENCE, "other scaling mode"),
        (strong(8), strong(16), "other global batch"),
        (a_record(a_cell([[0.2]], local_batch=8)), REFERENCE, "other local batch"),
    ],
)
def test_what_would_make_a_ratio_meaningless_is_the_reason_in_both_directions(
    record: Record, reference: Record, reason: str
) -> None:
    assert why_no_ratio(record, reference) == reason
    assert why_no_ratio(reference, record) == reason


@pytest.mark.parametrize(
    ("record", "reference"),
    [
        (REFERENCE, REFERENCE),
        (a_record(DDP), REFERENCE),  # weak: the global batch may differ
        (strong(8, ranks=2), strong(8)),  # strong: the local batch may differ
        (a_record(SERIAL, config={"seed": 5, "steps": 40}), REFERENCE),
        (
            a_record(a_cell([[0.2]], preprocess="device", ops="fused")),
            a_record(a_cell([[0.2]], preprocess="offline", ops="reference")),
        ),
        (a_record(a_cell([[0.2]], preprocess="none")), REFERENCE),  # of which nothing is known
        (a_record(SERIAL, environment=an_environment(hostname="twin")), REFERENCE),
    ],
)
def test_the_same_work_on_the_same_hardware_has_a_ratio(record: Record, reference: Record) -> None:
    assert why_no_ratio(record, reference) is None


def test_a_stand_in_is_the_same_kind_of_device_as_the_cpu_that_it_is() -> None:
    devices = [["stand-in:0", "stand-in:1"]]
    staged = a_cell([[0.2]], strategy="model_parallel", devices=devices, devices_per_rank=2)
    assert why_no_ratio(a_record(staged), REFERENCE) is None


def test_the_ratio_is_of_samples_a_second() -> None:
    # 8 samples in 0.25 s over 4 samples in 0.2 s.
    assert throughput_ratio(a_record(DDP), REFERENCE) == pytest.approx(1.6)
    assert throughput_ratio(REFERENCE, REFERENCE) == 1.0
