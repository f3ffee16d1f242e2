"""The SMDG folder: what is read, what is skipped and named, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perfkit.core.errors import PerfkitError
from perfkit.data.smdg import SmdgFolder

SIZE = 16


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A training split of twenty images a class, 0 being dark and 1 bright."""
    for label, level in ((0, 40), (1, 200)):
        folder = tmp_path / "smdg" / "train" / str(label)
        folder.mkdir(parents=True)
        for index in range(20):
            Image.new("RGB", (24, 20), (level, index, 0)).save(folder / f"{index:02d}.png")
    return tmp_path / "smdg"


def test_images_come_class_by_class_in_the_order_of_their_names(root: Path) -> None:
    data = SmdgFolder(root, "train", size=SIZE)
    assert data.name == "smdg/train"
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == [0] * 20 + [1] * 20
    assert len(data) == 40
    assert data.skipped == ()
    assert data.split == "folders of the data set"
    for index in (0, 7, 20, 39):
        image = data.read(index)
        assert (image.shape, image.dtype) == ((3, SIZE, SIZE), torch.uint8)
        assert image[:, 0, 0].tolist() == [40 if index < 20 else 200, index % 20, 0]


def truncate(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def test_damaged_files_are_skipped_counted_and_named(root: Path) -> None:
    first = root / "train" / "0"
    for index in range(20, 60):  # three of 83 are less than 5 %
        Image.fromarray(pixels(24, 20, seed=index)).save(first / f"{index}.png")
    truncate(first / "30.png", 0.8)
    Image.fromarray(pixels(64, 64)).save(first / "photo.jpg")
    truncate(first / "photo.jpg", 0.6)
    (first / "notes.png").write_text("this is not an image")
    (first / "readme.txt").write_text("nor is this, and nobody asked for it")
    data = SmdgFolder(root, "train", size=SIZE)
    assert len(data) == 79
    assert len(data.labels) == 79
    assert [line.partition(":")[0] for line in data.skipped] == [
        "train/0/30.png",
        "train/0/notes.png",
        "train/0/photo.jpg",
    ]
    assert "damaged" in data.skipped[0]
    assert "not an image" in data.skipped[1]
    assert "damaged" in data.skipped[2]
    assert all("\n" not in line for line in data.skipped)
    for index in range(len(data)):
        data.read(index)


def test_more_than_five_per_cent_of_damaged_files_is_an_error(root: Path) -> None:
    for index in range(2):  # exactly 5 % of 40
        truncate(root / "train" / "0" / f"{index:02d}.png", 0.5)
    assert len(SmdgFolder(root, "train", size=SIZE)) == 38
    truncate(root / "train" / "1" / "00.png", 0.5)
    with pytest.raises(PerfkitError) as error:
        SmdgFolder(root, "train", size=SIZE)
    assert "3 of 40 files in train are not whole images (at most 5%" in str(error.value)
    assert "train/0/00.png" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("prepare", "split", "words"),
    [
        pytest.param(lambda root: None, "val", "has no folder 'val'", id="missing"),
        pytest.param(
            lambda root: (root / "val").mkdir(), "val", "hold no .png or .jpg", id="empty"
        ),
        pytest.param(
            lambda root: [path.unlink() for path in (root / "train" / "1").iterdir()],
            "train",
            "train has one class only, no image of it has label 1",
            id="one class",
        ),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_refused_in_one_line(
    prepare: Callable[[Path], object], split: str, words: str, root: Path
) -> None:
    prepare(root)
    with pytest.raises(PerfkitError) as error:
        SmdgFolder(root, split, size=SIZE)
    assert f"--data {root}" in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("split", "normal", "glaucoma"), [("train", 50, 70), ("val", 13, 15), ("test", 20, 20)]
)
def test_real_photographs_are_all_read(
    split: str, normal: int, glaucoma: int, data_dir: Path
) -> None:
    data = SmdgFolder(data_dir / "smdg-fundus", split, size=64)
    assert torch.bincount(data.labels).tolist() == [normal, glaucoma]
    assert data.skipped == ()
    image = data.read(0).float()
    # A fundus photograph: red over green over blue, on black.
    red, green, blue = image.mean((1, 2))
    assert red > green > blue
