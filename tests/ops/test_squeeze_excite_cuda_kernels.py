"""Squeeze-and-Excitation's CUDA kernels, run on the CPU unchanged: values, bounds and no race."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cuda_kernels import RACE, barriers, build
from cuda_squeeze_excite import Case, Device, Plan, Planner, run

OPERATOR = "squeeze_excite"
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
# One rounding to the dtype; sums and layers in float add a little.
TOLERANCE = {F32: 4e-6, F16: 1e-3, BF16: 8e-3}
# Blocks, samples and channels in every combination that the planning makes of a small device.
ALONE = Device(has_clusters=False)
SMALL = Device(shared_bytes=3 << 10)  # keeps a part of a tile, in clusters of 8
TIGHT = Device(shared_bytes=5 << 10, has_clusters=False, threads=128)
BUSY = Device(processors=40)  # wants many blocks: clusters even for tiny samples


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program in which a step out of bounds or off alignment is an error."""
    checks = "alignment,bounds,signed-integer-overflow"
    flags = (f"-fsanitize=address,{checks}", f"-fno-sanitize-recover={checks}", "-O0")
    return build(tmp_path_factory.mktemp("checked"), *flags, operator=OPERATOR)


@pytest.fixture(scope="module")
def racing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program in which two threads that share memory without a barrier are an error."""
    folder = tmp_path_factory.mktemp("racing")
    program = build(folder, "-fsanitize=thread", "-O0", operator=OPERATOR)
    done, _ = run(program, folder, [])
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer cannot run on this kernel: vm.mmap_rnd_bits is too high")
    assert done.returncode == 0, done.stderr
    return program


def assert_values(program: Path, folder: Path, *cases: Case) -> None:
    done, results = run(program, folder, cases)
    assert done.returncode == 0, done.stderr
    for case, got in zip(cases, results, strict=True):
        for name, want in case.expected(got["y"]).items():
            tolerance = TOLERANCE[got[name].dtype]
            scale = float(want.nan_to_num(0, 0, 0).abs().max())
            torch.testing.assert_close(
                got[name].double(),
                want,
                rtol=tolerance,
                atol=tolerance * scale,
                equal_nan=True,
                msg=lambda text, case=case, name=name: f"{name} of {case}: {text}",
            )


@pytest.mark.parametrize("device", [Device(), ALONE, SMALL, TIGHT, BUSY])
@pytest.mark.parametrize("channels_last", [False, True])
def test_values_are_those_of_float64(
    channels_last: bool, device: Device, checked: Path, tmp_path: Path
) -> None:
    plain = Case(3, 16, 49, 4, channels_last=channels_last, device=device)
    full = replace(plain, residual=True, relu=True)
    assert_values(
        checked,
        tmp_path,
        plain,
        full,
        replace(plain, count=1, pixels=1),
        replace(plain, count=5, channels=5, hidden=3, pixels=7),  # nothing is aligned
        replace(plain, channels=7, pixels=2, hidden=1),
        replace(plain, channels=24, pixels=12, hidden=40),  # weights outweigh a sample
        replace(full, channels=40, pixels=20, hidden=9, biases=False),  # a short last block
        replace(plain, count=2, channels=8, pixels=700),
        replace(full, dtype=F16),
        replace(full, dtype=F16, channels=40, pixels=196),
        replace(plain, dtype=F16, channels=3, pixels=5),
        replace(full, dtype=BF16, weight_dtype=BF16),
        replace(full, dtype=F16, weight_dtype=F16, shift=2),  # x begins between vectors
    )


@pytest.mark.parametrize("channels_last", [False, True])
def test_more_channels_than_threads_are_right(
    channels_last: bool, checked: Path, tmp_path: Path
) -> None:
    device = Device(threads=32, has_clusters=False)
    case = Case(2, 160, 4, 70, channels_last=channels_last, device=device)
    assert_values(checked, tmp_path, case)


@pytest.mark.parametrize("planted", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_propagate_as_in_torch(
    planted: float, checked: Path, tmp_path: Path
) -> None:
    case = Case(3, 8, 9, 2, planted=planted)
    assert_values(checked, tmp_path, case, replace(case, residual=True, relu=True))


def test_gradients_that_nobody_wants_are_not_computed(checked: Path, tmp_path: Path) -> None:
    assert_values(checked, tmp_path, Case(3, 16, 49, 4, gradients=False))


def test_too_many_channels_are_refused(checked: Path, tmp_path: Path) -> None:
    done, _ = run(checked, tmp_path, [Case(1, 4096, 1, 8, device=ALONE)])
    assert done.returncode == 3
    assert "do not fit" in done.stderr


# A row for several warps, rows that share vectors, several samples of a cluster, tiles that are
# kept in part, and more clusters than run at a time.
_SHARED = (
    Case(3, 16, 49, 4, dtype=F16, residual=True, relu=True, device=SMALL),
    Case(6, 24, 12, 40, channels_last=True, device=replace(BUSY, threads=32)),
    Case(3, 2, 700, 2, device=ALONE),
)


def test_threads_and_blocks_never_race(racing: Path, tmp_path: Path) -> None:
    assert_values(racing, tmp_path, *_SHARED)


@pytest.mark.parametrize("barrier", barriers(OPERATOR), ids=":".join)
def test_a_removed_barrier_is_noticed(
    barrier: tuple[str, str], racing: Path, tmp_path: Path
) -> None:
    done, _ = run(racing, tmp_path, _SHARED, removed_barrier=barrier)
    assert done.returncode == RACE, f"exit code {done.returncode}\n{done.stderr}"
    assert "ThreadSanitizer" in done.stderr


# Shared memory of a block and a multiprocessor, multiprocessors, threads, blocks of a cluster.
H100 = (232_448, 233_472, 132, 1024, 16)
A100 = (166_912, 167_936, 108, 1024, 1)
SHAPES = {
    "64x56x56": (256, 64, 56 * 56, 4),
    "128x28x28": (256, 128, 28 * 28, 8),
    "256x14x14": (256, 256, 14 * 14, 16),
    "512x7x7": (256, 512, 7 * 7, 32),
    "256x28x28": (256, 256, 28 * 28, 16),
    "96x112x112": (256, 96, 112 * 112, 6),
    "tokens": (256, 768, 197, 48),
}


@pytest.fixture(scope="module")
def planner(tmp_path_factory: pytest.TempPathFactory) -> Planner:
    return Planner(tmp_path_factory.mktemp("planner"))


def tile_bytes(plan: Plan, shape: tuple[int, int, int, int], element_bytes: int) -> int:
    return plan.samples * plan.channels * shape[2] * element_bytes


@pytest.mark.parametrize("element_bytes", [2, 4])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_samples_stay_on_the_chip_where_clusters_have_room(
    name: str, channels_last: bool, element_bytes: int, planner: Planner
) -> None:
    shape = SHAPES[name]
    plan = planner.plan(
        shape, channels_last=channels_last, element_bytes=element_bytes, device=H100
    )
    assert plan.vector * element_bytes == 16
    assert plan.shared_bytes <= H100[0]
    held = plan.held * 16 / tile_bytes(plan, shape, element_bytes)
    if shape[1] * shape[2] * element_bytes <= 12 * 200_000:
        assert held == 1
    else:
        assert held > 0.5
    if name != "96x112x112":
        assert 2 * (plan.shared_bytes + 1024) <= H100[1], "no two blocks share a multiprocessor"
        assert plan.blocks <= 8


@pytest.mark.parametrize("device", [H100, A100])
def test_every_plan_covers_the_channels_and_fits(
    device: tuple[int, int, int, int, int], planner: Planner
) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        count, channels, pixels, hidden = (
            int(2 ** (torch.rand((), generator=generator) * log2)) for log2 in (9, 11, 13, 7)
        )
        channels_last, aligned = (bool(torch.randint(2, (), generator=generator)) for _ in "ab")
        plan = planner.plan(
            (count, channels, pixels, hidden),
            channels_last=channels_last,
            element_bytes=2,
            aligned=aligned,
            device=device,
        )
        assert 1 <= plan.blocks <= device[4]
        assert (plan.blocks - 1) * plan.channels < channels <= plan.blocks * plan.channels
        run_elements = plan.channels if plan.channels_last else plan.channels * pixels
        assert plan.blocks == 1 or run_elements % plan.vector == 0
        assert plan.held_at % 16 == 0
        assert plan.shared_bytes == plan.held_at + plan.held * plan.vector * 2 <= device[0]
        assert plan.threads % 32 == 0
        assert plan.lanes * plan.folded * (plan.parts if plan.channels_last else 1) <= plan.threads
