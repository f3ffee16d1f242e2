"""Image files of any kind become pictures of one size, and damage is seen before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from perfkit.data.images import ImageFiles, Photographs, damage_of

SIZE = 16


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def read(path: Path) -> torch.Tensor:
    """Read one file as the data sets do, beside another that makes a second class."""
    other = path.with_name("other.png")
    Image.new("RGB", (4, 4)).save(other)
    files = [(path, 0), (other, 1)]
    data = ImageFiles(path.parent, "train", files, size=SIZE, how="by hand")
    assert data.skipped == ()
    return data.read(0)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (3, 500), (500, 3), (16, 16), (33, 17), (600, 700)]
)
def test_any_image_size_is_resized_with_antialiasing(
    height: int, width: int, tmp_path: Path
) -> None:
    image = pixels(height, width)
    Image.fromarray(image).save(tmp_path / "00.png")
    got = read(tmp_path / "00.png")
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
    name: str, save: Callable[[Path, np.ndarray], None], is_grey: bool, tmp_path: Path
) -> None:
    yy, xx = np.mgrid[0:SIZE, 0:SIZE] * 255 // (SIZE - 1)
    picture = np.stack([yy, xx, 255 - yy], axis=2).astype(np.uint8)
    save(tmp_path / name, picture)
    got = read(tmp_path / name).permute(1, 2, 0).numpy().astype(float)
    if is_grey:
        assert np.array_equal(got[..., 0], got[..., 2])
        got, picture = got[..., 0], np.asarray(Image.fromarray(picture).convert("L"))
    # A palette and JPEG lose a little; a clipped or inverted picture is off by a hundred.
    assert np.abs(got - picture).mean() < 16


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


def test_a_source_says_its_name_and_how_it_was_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels(4, 4)).save(tmp_path / "photos" / "a.png")
    monkeypatch.chdir(tmp_path / "photos")
    files = [(Path("a.png"), 0), (Path("a.png"), 1)]
    data = ImageFiles(Path(), "val", files, size=SIZE, how="by hand")
    assert (data.name, data.split) == ("photos/val", "by hand")


def test_photographs_may_name_an_image_repeatedly(tmp_path: Path) -> None:
    for label in (0, 1):
        Image.new("RGB", (4, 4), (100 * label, 0, 0)).save(tmp_path / f"{label}.png")
    files = [(tmp_path / f"{label}.png", label) for label in (0, 1)]
    source = ImageFiles(tmp_path, "train", files, size=SIZE, how="by hand")
    photographs = Photographs(source, torch.tensor([1, 0, 1]))
    assert photographs.source is source
    assert photographs.labels.tolist() == [1, 0, 1]
    assert len(photographs) == 3
    for position, label in enumerate([1, 0, 1]):
        image, found = photographs[position]
        assert (image[0, 0, 0], found) == (100 * label, label)
