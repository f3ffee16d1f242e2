"""The forensics training from the command line, and what it says of its data."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from trainings import rank_here

from perfkit import profile
from perfkit.core.record import read_record

SHORT = (
    *("--workload", "forensics", "--steps", "4", "--rounds", "2", "--warmup", "3"),
    *("--threads", "1", "--baseline", "none", "--trace-steps", "0"),
)


def test_resnet18_in_two_parts_trains_as_serial_does_and_the_split_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = tmp_path / "photos"
    photos.mkdir()
    rows = ["id,file_name,label"]
    for index in range(60):
        Image.new("RGB", (8, 8), (index, 4 * index, 0)).save(photos / f"{index}.png")
        rows.append(f"{index},{index}.png,{index % 2}")
    (photos / "7.png").write_bytes(b"no photo")
    (photos / "train.csv").write_text("\n".join(rows))
    flags = ("--strategy", "model_parallel", "--gpus", "2", "--seed", "3", "--name", "run")
    assert rank_here(profile, *SHORT, *flags, "--data", "photos", "--image-size", "32") == 0
    record = read_record(tmp_path / "runs" / "run")
    assert record.parameters == 11_177_538
    assert record.gate is not None
    assert record.gate.max_abs_difference <= 1e-9
    assert record.cells[0].crossings == 1
    assert record.data.name == "photos/train"
    assert record.data.split == "stratified 80/10/10 by seed 3"
    assert record.data.normalisation.endswith("(ImageNet)")
    assert record.data.skipped == ["7.png: not an image"]
    assert record.data.class_counts == [24, 23]


def test_an_unknown_model_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert rank_here(profile, *SHORT, "--model", "resnt18") == 2
    told = capsys.readouterr().err
    assert "--model resnt18: no such model; did you mean resnet18? known are" in told
    assert "Traceback" not in told
