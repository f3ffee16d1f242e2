"""The synthetic photographs are a function of their key; noise and grid decide the label."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from perfkit.data import SPLITS
from perfkit.data.synthetic_photos import SyntheticPhotos, render_photo

PRINT_DIGESTS = """
import hashlib
from perfkit.data.synthetic_photos import SyntheticPhotos
photos = SyntheticPhotos("val", count=6, size=48, seed=5)
for index in reversed(range(6)):
    digest = hashlib.sha256(photos.read(index).numpy().tobytes()).hexdigest()
    print(index, photos.labels[index].item(), digest)
"""


def photographs(
    split: str = "train", *, count: int = 10, size: int = 48, seed: int = 0
) -> SyntheticPhotos:
    return SyntheticPhotos(split, count=count, size=size, seed=seed)


@pytest.mark.parametrize("generated", [False, True])
@pytest.mark.parametrize("size", [16, 33, 96])
def test_a_photograph_is_uint8_rgb_of_the_size_asked_for(size: int, generated: bool) -> None:
    image = render_photo((0, 1, 2), generated=generated, size=size)
    assert image.dtype == torch.uint8
    assert image.shape == (3, size, size)


def test_the_same_key_gives_the_same_bytes_whatever_the_global_generators_hold() -> None:
    first = render_photo((7, 0, 3), generated=True, size=64)
    np.random.seed(1)
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1]
    assert torch.equal(first, render_photo((7, 0, 3), generated=True, size=64))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


def test_no_two_photographs_of_a_data_set_are_the_same() -> None:
    digests = {
        photos.read(index).numpy().tobytes()
        for seed in (0, 1)
        for split in SPLITS
        for photos in [photographs(split, seed=seed, size=16)]
        for index in range(len(photos))
    }
    assert len(digests) == 2 * 3 * 10


def test_another_process_reads_the_same_bytes_in_any_order() -> None:
    told = subprocess.run(
        [sys.executable, "-c", PRINT_DIGESTS],
        env={**os.environ, "PYTHONHASHSEED": "1"},
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


def test_one_of_every_two_is_generated_so_that_small_sets_hold_both_classes() -> None:
    for seed in range(20):
        labels = photographs(count=100, seed=seed).labels
        assert labels.dtype == torch.int64
        assert (labels.view(-1, 2).sum(dim=1) == 1).all()
    assert 10 < photographs(count=100).labels[::2].sum() < 40  # and not every other


@pytest.mark.parametrize("generated", [False, True])
def test_a_key_shows_the_same_scene_at_every_size_and_of_either_kind(generated: bool) -> None:
    for index in range(4):
        small = render_photo((0, 0, index), generated=generated, size=64).float()[None]
        large = render_photo((0, 0, index), generated=False, size=192).float()[None]
        reduced = F.interpolate(large, size=(16, 16), mode="area")
        small = F.interpolate(small, size=(16, 16), mode="area")
        assert torch.corrcoef(torch.stack([small.flatten(), reduced.flatten()]))[0, 1] > 0.95


def noise(image: Tensor) -> Tensor:
    """Return what is left of a picture when its neighbourhoods are taken out: [3, H, W]."""
    picture = image.float()[None]
    return (picture - F.avg_pool2d(picture, 5, stride=1, padding=2))[0, :, 4:-4, 4:-4]


def test_neighbours_share_their_noise_in_generated_photographs_alone() -> None:
    shared = {
        generated: [
            float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])
            for index in range(30)
            for left in [noise(render_photo((1, index), generated=generated, size=96))]
            for a, b in [(left[:, :-1, :-1], left[:, 1:, 1:])]
        ]
        for generated in (False, True)
    }
    assert np.median(shared[True]) > np.median(shared[False]) + 0.2


def test_averages_hardly_tell_the_kinds_apart() -> None:
    for index in range(10):
        real, generated = (
            render_photo((2, index), generated=kind, size=96).float() for kind in (False, True)
        )
        assert (real.mean((1, 2)) - generated.mean((1, 2))).abs().max() < 1.5  # of 255
        assert torch.allclose(real.std((1, 2)), generated.std((1, 2)), atol=1.5)


def test_shuffled_labels_are_a_permutation_that_leaves_the_photographs_alone() -> None:
    plain = photographs(count=500, size=16)
    shuffled = SyntheticPhotos("train", count=500, size=16, seed=0, shuffle_labels=True)
    assert shuffled.labels.sum() == plain.labels.sum()
    assert torch.equal(shuffled.read(11), plain.read(11))
    assert (shuffled.labels == plain.labels).float().mean().item() == pytest.approx(0.5, abs=0.08)


def test_it_names_itself_says_how_it_was_split_and_skips_nothing() -> None:
    photos = photographs()
    assert (photos.name, photos.split, photos.skipped) == ("synthetic photos", "drawn apart", ())
