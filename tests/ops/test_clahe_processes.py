"""The native CLAHE-gamma-median in loader workers, in threads and with each instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from opencv import noise
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from perfkit.ops import build_info, clahe_gamma_median, clahe_gamma_median_numpy

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


class Images(Dataset[Tensor]):
    """Noise, through the tensor face at even and the NumPy face at odd places."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        image = noise(40, 30, 3, seed=index)
        if index % 2:
            return torch.from_numpy(clahe_gamma_median_numpy(image))
        return clahe_gamma_median(torch.from_numpy(image))


# A fork carries the threads' locks of torch along; the loader's own workers are known to bear it.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_workers_give_the_bytes_of_the_main_process(start: str) -> None:
    dataset = Images()
    want = torch.stack([dataset[index] for index in range(len(dataset))])
    # The pool of threads has been used before the fork.
    assert torch.equal(clahe_gamma_median(torch.from_numpy(noise(40, 30, 3, seed=0))), want[0])
    loader = DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context=start)
    assert torch.equal(torch.cat(list(loader)), want)


def test_many_threads_at_once_give_the_bytes_of_one() -> None:
    images = [noise(20 + 7 * index, 150 - 9 * index, 3, seed=index) for index in range(12)]
    want = [clahe_gamma_median(torch.from_numpy(image)).numpy() for image in images]

    def both(index: int) -> bool:
        image = images[index % len(images)]
        tensor = clahe_gamma_median(torch.from_numpy(image)).numpy()
        array = clahe_gamma_median_numpy(image, threads=2)
        return bool(np.array_equal(tensor, array) and np.array_equal(array, want[index % 12]))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(both, range(48)))


def exactness(*arguments: str, isa: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS / "exactness.py"), "--here", *arguments],
        env=os.environ | {"PERFKIT_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512", "avx512_vbmi"])
def test_every_instruction_set_has_the_bytes_of_opencv(isa: str) -> None:
    if isa not in build_info().isas:
        pytest.skip(f"{isa} is not available on this CPU or in this build")
    done = exactness("--images", "120", "--most-px", "100", isa=isa)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{isa}: 12")
    assert " 0 differ" in done.stdout


def test_an_unknown_instruction_set_is_refused_in_one_line() -> None:
    done = exactness("--images", "1", isa="mmx")
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert "PERFKIT_CPU_ISA=mmx is not available here" in last
    assert "scalar" in last
