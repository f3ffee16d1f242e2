"""The SMDG folder: what is read, what is skipped and named, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from perfkit.core.errors import PerfkitError
from perfkit.data.smdg import SmdgFolder, damage_of

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
    for index in (0, 7, 20, 39):
        image = data.read(index)
        assert (image.shape, image.dtype) == ((3, SIZE, SIZE), torch.uint8)
        assert image[:, 0, 0].tolist() == [40 if index < 20 else 200, index % 20, 0]


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (3, 500), (500, 3), (16, 16), (33, 17), (600, 700)]
)
def test_any_image_size_is_resized_with_antialiasing(height: int, width: int, root: Path) -> None:
    image = pixels(height, width)
    Image.fromarray(image).save(root / "train" / "0" / "00.png")
    got = SmdgFolder(root, "train", size=SIZE).read(0)
    assert (got.shape, got.dtype) == ((3, SIZE, SIZE), torch.uint8)
    if (height, width) == (16, 16):
        assert np.array_equal(got.permute(1, 2, 0), image)
    if (height, width) == (600, 700):  # noise is averaged away, not sampled
        assert float(got.float().std()) < 10
        assert abs(float(got.float().mean()) - image.mean()) < 2


def save_16_bit_grey(path: Path, image: np.ndarray) -> None:
    grey = np.asarray(Image.fromarray(image).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(path)


def save_16_bit_colour(path: Path, image: np.ndarray) -> None:
    cv2.imwrite(str(path), image[..., ::-1].astype(np.uint16) * 257)


def save_as(mode: str) -> Callable[[Path, np.ndarray], None]:
    return lambda path, image: Image.fromarray(image).convert(mode).save(path)


def save_translucent_palette(path: Path, image: np.ndarray) -> None:
    Image.fromarray(image).quantize(256).save(path, transparency=bytes(range(256)))


@pytest.mark.parametrize(
    ("name", "save", "is_grey"),
    [
        pytest.param("00.png", save_as("RGB"), False, id="RGB"),
        pytest.param("00.png", save_as("RGBA"), False, id="RGBA"),
        pytest.param("00.png", save_as("L"), True, id="L"),
        pytest.param("00.png", save_as("LA"), True, id="LA"),
        pytest.param("00.png", save_as("P"), False, id="P"),
        pytest.param("00.png", save_translucent_palette, False, id="translucent P"),
        pytest.param("00.png", save_16_bit_grey, True, id="16-bit grey"),
        pytest.param("00.png", save_16_bit_colour, False, id="16-bit colour"),
        pytest.param("00.JPG", save_as("RGB"), False, id="JPEG"),
        pytest.param("00.jpeg", save_as("L"), True, id="grey JPEG"),
        pytest.param("00.jpg", save_as("CMYK"), False, id="CMYK JPEG"),
    ],
)
def test_any_mode_is_read_as_the_same_picture(
    name: str, save: Callable[[Path, np.ndarray], None], is_grey: bool, root: Path
) -> None:
    yy, xx = np.mgrid[0:SIZE, 0:SIZE] * 255 // (SIZE - 1)
    picture = np.stack([yy, xx, 255 - yy], axis=2).astype(np.uint8)
    (root / "train" / "0" / "00.png").unlink()
    save(root / "train" / "0" / name, picture)
    data = SmdgFolder(root, "train", size=SIZE)
    assert data.skipped == ()
    got = data.read(0).permute(1, 2, 0).numpy().astype(float)
    if is_grey:
        assert np.array_equal(got[..., 0], got[..., 2])
        got, picture = got[..., 0], np.asarray(Image.fromarray(picture).convert("L"))
    # A palette and JPEG lose a little; a clipped or inverted picture is off by a hundred.
    assert np.abs(got - picture).mean() < 16


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


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_no_cut_through_a_file_goes_unnoticed(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    Image.fromarray(pixels(40, 40)).save(path)
    assert damage_of(path) is None
    content = path.read_bytes()
    last_chunk_sum = 4  # of an IEND chunk, which holds no pixels
    for length in (*range(0, len(content) - last_chunk_sum, 61), len(content) - 13):
        path.write_bytes(content[:length])
        assert damage_of(path) is not None, f"{length} of {len(content)} bytes"


def test_a_flipped_bit_in_a_png_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(pixels(40, 40)).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "damaged" in str(damage_of(path))


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
            "train has one class only, train/1 holds no image",
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
