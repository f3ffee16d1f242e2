"""The synthetic photographs are a function of their key, and the cup decides the label."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from perfkit.core.errors import PerfkitError
from perfkit.data.synthetic_fundus import SPLITS, SyntheticFundus, render_fundus, write_smdg

PRINT_DIGESTS = """
import hashlib
from perfkit.data.synthetic_fundus import SyntheticFundus
photos = SyntheticFundus("val", count=6, size=48, seed=5)
for index in reversed(range(6)):
    digest = hashlib.sha256(photos.read(index).numpy().tobytes()).hexdigest()
    print(index, photos.labels[index].item(), digest)
"""


def photographs(
    split: str = "train", *, count: int = 10, size: int = 48, seed: int = 0
) -> SyntheticFundus:
    return SyntheticFundus(split, count=count, size=size, seed=seed)


@pytest.mark.parametrize("size", [16, 33, 96])
def test_a_photograph_is_uint8_rgb_of_the_size_asked_for(size: int) -> None:
    image = render_fundus((0, 1, 2), cup_to_disc_ratio=0.5, size=size)
    assert image.dtype == torch.uint8
    assert image.shape == (3, size, size)


def test_the_same_key_gives_the_same_bytes_whatever_the_global_generators_hold() -> None:
    first = render_fundus((7, 0, 3), cup_to_disc_ratio=0.4, size=64)
    np.random.seed(1)
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1]
    assert torch.equal(first, render_fundus((7, 0, 3), cup_to_disc_ratio=0.4, size=64))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize("key", [(8, 0, 3), (7, 1, 3), (7, 0, 4)])
def test_another_seed_split_or_index_gives_another_photograph(key: tuple[int, ...]) -> None:
    first = render_fundus((7, 0, 3), cup_to_disc_ratio=0.4, size=64).float()
    other = render_fundus(key, cup_to_disc_ratio=0.4, size=64).float()
    assert (first - other).abs().mean() > 5  # sensor noise alone differs by about 2 grey levels


def test_no_two_photographs_of_a_data_set_are_the_same() -> None:
    digests = {
        photos.read(index).numpy().tobytes()
        for seed in (0, 1)
        for split in SPLITS
        for photos in [photographs(split, seed=seed, size=16)]
        for index in range(len(photos))
    }
    assert len(digests) == 2 * 3 * 10


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_another_process_reads_the_same_bytes_in_any_order(hash_seed: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", PRINT_DIGESTS],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    photos = photographs("val", count=6, seed=5)
    assert sorted(told.splitlines()) == [
        f"{index} {photos.labels[index].item()} "
        + hashlib.sha256(photos.read(index).numpy().tobytes()).hexdigest()
        for index in range(6)
    ]


def test_a_pickled_data_set_reads_the_same_bytes() -> None:
    photos = photographs()
    again = pickle.loads(pickle.dumps(photos))
    assert torch.equal(again.labels, photos.labels)
    assert torch.equal(again.read(4), photos.read(4))


def test_a_photograph_and_its_label_do_not_depend_on_how_many_there_are() -> None:
    few, many = photographs(count=7), photographs(count=50)
    assert torch.equal(few.labels, many.labels[:7])
    assert torch.equal(few.read(6), many.read(6))


def test_a_key_shows_the_same_eye_at_every_size() -> None:
    for index in range(4):
        small, large = (
            render_fundus((0, 0, index), cup_to_disc_ratio=0.5, size=size).float()[None]
            for size in (64, 192)
        )
        reduced = F.interpolate(large, size=(64, 64), mode="area")
        assert torch.corrcoef(torch.stack([small.flatten(), reduced.flatten()]))[0, 1] > 0.98


def test_the_surround_is_dark_and_the_eye_is_red_before_green_before_blue() -> None:
    for index in range(8):
        image = photographs(size=96).read(index).float()
        corner, middle = image[:, :8, :8], image[:, 24:72, 24:72].mean(dim=(1, 2))
        assert corner.mean() < 10
        assert middle[0] > middle[1] > middle[2]


@pytest.mark.parametrize("split", SPLITS)
def test_the_label_follows_from_the_cup_as_the_pixels_show_it(split: str) -> None:
    """Cup diameter over disc diameter, from the pixels that a cup makes brighter."""
    photos = photographs(split, count=20, size=160)
    shown = torch.stack([cup(photos, i, None) / cup(photos, i, 1.0) for i in range(len(photos))])
    assert torch.equal((shown > 0.6).long(), photos.labels)


def cup(photos: SyntheticFundus, index: int, ratio: float | None) -> torch.Tensor:
    """Return the diameter (up to a factor) of the cup, its own or one of ``ratio``."""
    bare = pickle.loads(pickle.dumps(photos))
    bare.cup_to_disc_ratios[:] = 0
    cupped = pickle.loads(pickle.dumps(photos))
    if ratio is not None:
        cupped.cup_to_disc_ratios[:] = ratio
    brighter = (cupped.read(index).float() - bare.read(index).float()).sum(dim=0)
    return (brighter > 25).sum().sqrt()


def test_a_wider_cup_changes_the_disc_alone_and_makes_it_brighter() -> None:
    for index in range(6):
        narrow, wide = (
            render_fundus((0, 0, index), cup_to_disc_ratio=ratio, size=96).float().sum(dim=0)
            for ratio in (0.3, 0.8)
        )
        changed = (wide != narrow).nonzero()
        assert (wide - narrow).sum() > 0
        extent = changed.amax(dim=0) - changed.amin(dim=0)
        assert (extent < 96 * 0.25).all()


def test_two_of_every_five_are_glaucoma_so_that_small_sets_hold_both_classes() -> None:
    for seed in range(20):
        labels = photographs(count=100, seed=seed).labels
        assert labels.dtype == torch.int64
        assert (labels.view(-1, 5).sum(dim=1) == 2).all()


def test_shuffled_labels_are_a_permutation_that_leaves_the_photographs_alone() -> None:
    plain = photographs(count=500, size=16)
    shuffled = SyntheticFundus("train", count=500, size=16, seed=0, shuffle_labels=True)
    assert shuffled.labels.sum() == plain.labels.sum()
    assert torch.equal(shuffled.read(11), plain.read(11))
    # Independent labels agree on 0.4 * 0.4 + 0.6 * 0.6 of the photographs.
    assert (shuffled.labels == plain.labels).float().mean().item() == pytest.approx(0.52, abs=0.08)


def test_it_names_itself_and_skips_nothing() -> None:
    assert photographs().name == "synthetic fundus"
    assert photographs().skipped == ()


def test_a_folder_holds_the_very_photographs_that_the_data_set_reads(tmp_path: Path) -> None:
    counts = {"train": 10, "val": 5, "test": 4}
    write_smdg(tmp_path / "new" / "set", counts, size=40, seed=9)
    for split, count in counts.items():
        photos = photographs(split, count=count, size=40, seed=9)
        files = sorted((tmp_path / "new" / "set" / split).glob("*/*.png"), key=lambda p: p.name)
        assert [int(file.parent.name) for file in files] == photos.labels.tolist()
        for index, file in enumerate(files):
            with Image.open(file) as image:
                assert image.mode == "RGB"
                pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            assert torch.equal(pixels, photos.read(index))
    assert sorted(p.name for p in (tmp_path / "new" / "set").iterdir()) == ["test", "train", "val"]


def test_a_folder_that_holds_anything_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(PerfkitError, match="is not empty; name a new or empty folder"):
        write_smdg(tmp_path, {"train": 5}, size=16, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PerfkitError, match=f"{place}: cannot be written") as refusal:
        write_smdg(tmp_path / place, {"train": 5}, size=16, seed=0)
    assert "\n" not in str(refusal.value)
