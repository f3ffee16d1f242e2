"""A stored set is whole and of these very images, or it is made anew."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from PIL import Image
from torch import Tensor

from perfkit.core.errors import PerfkitError
from perfkit.data.smdg import SmdgFolder
from perfkit.data.stored import ABOUT, IMAGES, StoredImages
from perfkit.data.synthetic_fundus import SyntheticFundus
from perfkit.data.synthetic_photos import SyntheticPhotos

SIZE, COUNT = 16, 5
FACTS = {"operator": {"clip_limit": 2.0, "tile_grid": (8, 8)}}


class Inverted:
    """An operator that is easily told."""

    ran = "inverting"

    def __call__(self, images: Tensor) -> Tensor:
        return 255 - images


def source(**changes: Any) -> SyntheticFundus:
    return SyntheticFundus("train", **{"count": COUNT, "size": SIZE, "seed": 0, **changes})


def of(root: Path) -> StoredImages:
    return StoredImages(source(), Inverted(), root, FACTS, size=SIZE)


def chunks(stored: StoredImages, size: int = 2) -> Iterator[tuple[Tensor, str]]:
    for first in range(0, len(stored), size):
        indices = range(first, min(first + size, len(stored)))
        yield stored.operator(torch.stack([stored.source.read(i) for i in indices])), "inverting"


@pytest.fixture
def stored(tmp_path: Path) -> StoredImages:
    found = of(tmp_path)
    assert found.problem() == "is not there"
    found.write(chunks(found))
    return found


def test_every_image_comes_back_as_the_operator_left_it(stored: StoredImages) -> None:
    assert stored.problem() is None
    assert stored.made_by == "inverting"
    for index in range(COUNT):
        image = stored.read(index)
        assert (image.dtype, image.shape) == (torch.uint8, (3, SIZE, SIZE))
        assert torch.equal(image, 255 - stored.source.read(index))
    image += 1  # what is done to an image stays out of the file
    assert stored.problem() is None
    assert np.load(stored.folder / IMAGES).shape == (COUNT, 3, SIZE, SIZE)


def test_it_is_a_source_like_the_one_it_was_made_from(stored: StoredImages) -> None:
    assert len(stored) == COUNT
    assert torch.equal(stored.labels, stored.source.labels)
    for name in ("name", "skipped", "split"):
        assert getattr(stored, name) == getattr(stored.source, name)


def test_a_second_process_finds_the_set_and_is_not_sent_the_images(stored: StoredImages) -> None:
    stored.read(0)
    sent = pickle.dumps(stored)
    assert len(sent) < COUNT * 3 * SIZE * SIZE
    assert torch.equal(pickle.loads(sent).read(3), stored.read(3))
    again = of(stored.folder.parent)
    assert again.folder == stored.folder
    assert again.problem() is None


def flip(folder: Path) -> None:
    with (folder / IMAGES).open("r+b") as file:
        file.seek(-7, 2)
        byte = file.read(1)
        file.seek(-7, 2)
        file.write(bytes([byte[0] ^ 1]))


def cut(folder: Path) -> None:
    content = (folder / IMAGES).read_bytes()
    (folder / IMAGES).write_bytes(content[:-1])


def swap_type(folder: Path) -> None:
    np.save(folder / IMAGES, np.load(folder / IMAGES).astype(np.float32))


def lose_an_image(folder: Path) -> None:
    np.save(folder / IMAGES, np.load(folder / IMAGES)[1:])


def shape_anew(*shape: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:  # the pixels and so their check sum stay
        np.save(folder / IMAGES, np.load(folder / IMAGES).reshape(shape))

    return spoil


def archive(folder: Path) -> None:
    with (folder / IMAGES).open("wb") as file:
        np.savez(file, np.zeros(1))


def tell_of_facts(folder: Path) -> None:
    about = orjson.loads((folder / ABOUT).read_bytes())
    about["facts"]["operator"]["clip_limit"] = 3.0
    (folder / ABOUT).write_bytes(orjson.dumps(about))


def tell_no_maker(folder: Path) -> None:
    about = orjson.loads((folder / ABOUT).read_bytes())
    del about["made_by"]
    (folder / ABOUT).write_bytes(orjson.dumps(about))


def tell_a_null_maker(folder: Path) -> None:
    about = orjson.loads((folder / ABOUT).read_bytes())
    (folder / ABOUT).write_bytes(orjson.dumps({**about, "made_by": None}))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "one bit": (flip, "is damaged"),
    "an end": (cut, "is damaged"),
    "other type": (swap_type, "is damaged"),
    "fewer images": (lose_an_image, "is damaged"),
    "empty": (lambda folder: (folder / IMAGES).write_bytes(b""), "is damaged"),
    "no JSON": (lambda folder: (folder / ABOUT).write_text("{"), "is damaged"),
    "no object": (lambda folder: (folder / ABOUT).write_text("[]"), "is damaged"),
    "nothing told": (lambda folder: (folder / ABOUT).write_text("{}"), "is damaged"),
    "depths": (lambda folder: (folder / ABOUT).write_text("[" * 100_000), "is damaged"),
    "no maker": (tell_no_maker, "is damaged"),
    "null maker": (tell_a_null_maker, "is damaged"),
    "channels last": (shape_anew(COUNT, SIZE, SIZE, 3), "is damaged"),
    "oblong": (shape_anew(COUNT, 3, SIZE // 2, SIZE * 2), "is damaged"),
    "flat": (shape_anew(-1), "is damaged"),
    "archive": (archive, "is damaged"),
    "foreign": (tell_of_facts, "is of other images"),
    "no images": (lambda folder: (folder / IMAGES).unlink(), "is not there"),
    "no about": (lambda folder: (folder / ABOUT).unlink(), "is not there"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_or_foreign_is_noticed_and_can_be_made_anew(
    stored: StoredImages, damage: str
) -> None:
    spoil, told = DAMAGES[damage]
    spoil(stored.folder)
    fresh = of(stored.folder.parent)
    assert fresh.problem() == told
    fresh.write(chunks(fresh))
    assert fresh.problem() is None
    assert torch.equal(fresh.read(0), 255 - source().read(0))


def folder_for(name: str) -> Callable[[Path], object]:
    return lambda folder: ((folder / name).unlink(), (folder / name).mkdir())


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


def no_root(folder: Path) -> None:
    shutil.rmtree(folder.parent)
    folder.parent.touch()


def loop(folder: Path) -> None:
    shutil.rmtree(folder.parent)
    folder.parent.symlink_to(folder.parent)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (folder_for(IMAGES), "Is a directory"),
        (folder_for(ABOUT), "Is a directory"),
        (no_folder, "File exists"),
        (no_root, "Not a directory"),
        (loop, "Too many levels of symbolic links"),
    ],
)
def test_what_stands_in_the_way_is_told_in_one_line(
    tmp_path: Path, block: Callable[[Path], object], reason: str
) -> None:
    stored = of(tmp_path / "preprocessed")
    stored.write(chunks(stored))
    block(stored.folder)
    assert stored.problem() == "is damaged"
    with pytest.raises(PerfkitError) as caught:
        stored.write(chunks(stored))
    assert str(caught.value) == (
        f"--preprocess offline: {stored.folder} cannot be written ({reason}); move away what is "
        "there, or name another folder with --runs"
    )


def test_room_is_asked_for_only_where_there_is_none(tmp_path: Path) -> None:
    def on_a_full_disk() -> Iterator[tuple[Tensor, str]]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield

    stored = of(tmp_path)
    with pytest.raises(
        PerfkitError, match=r"\(No space left on device\); make room there, or name"
    ):
        stored.write(on_a_full_disk())


def test_what_changes_the_bytes_changes_the_folder(tmp_path: Path) -> None:
    def folder(images: Any, facts: Any = FACTS, size: int = SIZE) -> Path:
        return StoredImages(images, Inverted(), tmp_path, facts, size=size).folder

    photos = SyntheticPhotos("train", count=COUNT, size=SIZE, seed=0)
    folders = [
        folder(source()),
        folder(source(seed=1)),
        folder(source(count=4)),
        folder(SyntheticFundus("val", count=COUNT, size=SIZE, seed=0)),
        folder(photos),
        folder(source(), size=32),
        folder(source(), {"operator": {"clip_limit": 3.0, "tile_grid": (8, 8)}}),
    ]
    assert len(set(folders)) == len(folders)
    assert folder(source()) == folders[0]


def test_files_are_known_by_their_contents_whatever_their_folder_and_dates(tmp_path: Path) -> None:
    for root in ("here", "there"):
        for label in (0, 1):
            folder = tmp_path / root / "train" / str(label)
            folder.mkdir(parents=True)
            for index in range(2):
                colour = (50 * index, 90 * label, 0)
                Image.new("RGB", (8, 8), colour).save(folder / f"{index}.png")
    here, there = (SmdgFolder(tmp_path / root, "train", size=SIZE) for root in ("here", "there"))
    assert here.fingerprint() == there.fingerprint()
    Image.new("RGB", (8, 8), (50, 91, 0)).save(tmp_path / "there" / "train" / "1" / "1.png")
    assert here.fingerprint() != there.fingerprint()
    (tmp_path / "there" / "train" / "0" / "0.png").unlink()
    with pytest.raises(PerfkitError, match=r"0\.png: cannot be read \(No such file"):
        there.fingerprint()


def test_a_set_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    def broken(stored: StoredImages) -> Iterator[tuple[Tensor, str]]:
        yield from list(chunks(stored))[:2]
        raise KeyboardInterrupt

    stored = of(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        stored.write(broken(stored))
    assert list(stored.folder.iterdir()) == []
    with pytest.raises(ValueError, match="4 images for a set of 5"):
        stored.write(list(chunks(stored))[:2])
    assert stored.problem() == "is not there"
