"""The forensics training from the command line, and what it says of its data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

from perfkit.core.record import read_record

SHORT = ("--steps", "4", "--rounds", "2", "--warmup", "3")


def profile(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "perfkit.profile", "--workload", "forensics", *flags, *SHORT)
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def test_resnet18_in_two_parts_trains_as_serial_does_and_the_split_is_recorded(
    tmp_path: Path,
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    rows = ["id,file_name,label"]
    for index in range(60):
        Image.new("RGB", (8, 8), (index, 4 * index, 0)).save(photos / f"{index}.png")
        rows.append(f"{index},{index}.png,{index % 2}")
    (photos / "7.png").write_bytes(b"no photo")
    (photos / "train.csv").write_text("\n".join(rows))
    flags = ("--strategy", "model_parallel", "--gpus", "2", "--seed", "3", "--name", "run")
    done = profile(tmp_path, *flags, "--data", "photos", "--image-size", "32")
    assert done.returncode == 0, done.stderr
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


def test_an_unknown_model_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = profile(tmp_path, "--model", "resnt18")
    assert done.returncode == 2
    assert "--model resnt18: no such model; did you mean resnet18? known are" in done.stderr
    assert "Traceback" not in done.stderr
