"""What a forward ran is counted as it was seen: products by dtype, SE blocks by what ran them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_se import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from trainings import restored_settings

from perfkit.core.config import Ops, RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.core.record import Cell
from perfkit.engine.cell import RankCell
from perfkit.engine.cells import CellLog
from perfkit.engine.forward_observer import ForwardObserver, check_products, check_squeeze_excites
from perfkit.ops import native, squeeze_excite
from perfkit.strategies.base import Device, Mesh

OPS: tuple[Ops, ...] = ("fused", "reference")
ALONE = Mesh(rank=0, world_size=1, devices=(Device(torch.device("cpu"), "cpu"),))
TOKENS = torch.rand(2, 3, 8)


def told(ops: str) -> str:
    return f"fused {native.build_info().isa}" if ops == "fused" else ops


class Calls(nn.Module):
    def __init__(self, call: Any) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.call(x)
        return out


@pytest.mark.parametrize(
    ("call", "count"),
    [
        (lambda x: x @ x, 1),
        (lambda x: F.linear(x, x, x[0]), 1),
        (lambda x: F.conv2d(x[None, None], x[None, None]), 1),
        (lambda x: F.conv_transpose2d(x[None, None], x[None, None]), 1),
        (lambda x: torch.einsum("ij,jk->ik", x, x), 1),
        (lambda x: torch.baddbmm(x[None], x[None], x[None]), 1),
        (lambda x: x.mv(x[0]), 1),
        (lambda x: F.scaled_dot_product_attention(*[x[None, None]] * 3), 1),
        (lambda x: (x * x).sum(), 0),
    ],
    ids=["mm", "linear", "conv", "transposed", "einsum", "baddbmm", "mv", "attention", "none"],
)
def test_every_kind_of_product_is_seen(call: Any, count: int) -> None:
    model, observer = Calls(call), ForwardObserver()
    x = torch.rand(4, 4, requires_grad=True)
    with observer.watching(model):
        out = model(x)
    assert observer.products.total() == count
    out.sum().backward()
    model(x)
    assert observer.products.total() == count  # neither backward nor what comes afterwards


def test_a_forward_that_fails_is_not_watched_any_longer() -> None:
    observer, other = ForwardObserver(), nn.Linear(3, 3)
    model = nn.Sequential(other)
    with observer.watching(model):
        with pytest.raises(RuntimeError):
            model(torch.ones(2, 5))
        other(torch.ones(2, 3))
    seen = observer.products.total()
    model(torch.ones(2, 3))
    assert observer.products.total() == seen <= 1


@pytest.mark.parametrize(
    ("dtypes", "seen"),
    [
        ({}, "none"),
        ({"torch.float32": 3}, "3 in torch.float32"),
        ({"torch.float32": 2, "torch.float16": 1}, "1 in torch.float16, 2 in torch.float32"),
    ],
)
def test_mixed_precision_without_a_product_in_it_is_refused_with_what_was_seen(
    dtypes: dict[str, int], seen: str
) -> None:
    with pytest.raises(PerfkitError) as refusal:
        check_products("bf16", Counter(dtypes))
    message = str(refusal.value)
    assert message.startswith("--precision bf16: no matrix product or convolution of the first")
    assert f"ran in torch.bfloat16 (seen: {seen});" in message


def test_one_product_is_enough_and_fp32_and_tf32_need_none() -> None:
    check_products("bf16", Counter({"torch.float32": 9, "torch.bfloat16": 1}))
    check_products("fp32", Counter())
    check_products("tf32", Counter())


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_se_blocks_are_counted_by_what_ran_them(ops: Ops, precision: torch.dtype | None) -> None:
    model, observer = nn.Sequential(Block(ops), Block(ops)), ForwardObserver()
    with observer.watching(model), torch.autocast("cpu", precision, enabled=bool(precision)):
        out = model(TOKENS)
        assert observer.squeeze_excites == {told(ops): 2}
    out.float().sum().backward()
    model(TOKENS)
    assert observer.squeeze_excites == {told(ops): 2}


def test_blocks_of_both_kinds_and_the_bare_operator_are_told_apart() -> None:
    def bare(x: Tensor) -> Tensor:
        return squeeze_excite(x, torch.ones(1, 8), None, torch.ones(8, 1), None)

    model = nn.Sequential(Block("fused"), Block("reference"), Calls(bare), Block("reference"))
    observer = ForwardObserver()
    with observer.watching(model):
        model(TOKENS)
    assert observer.squeeze_excites == {told("fused"): 2, "reference": 2}


@pytest.mark.parametrize("ops", OPS)
def test_a_block_that_is_computed_again_in_the_backward_counts_once(ops: Ops) -> None:
    block, observer = Block(ops), ForwardObserver()
    model = nn.Sequential(Calls(lambda x: checkpoint(block, x, use_reentrant=False)), block)
    with observer.watching(model):
        model(TOKENS).sum().backward()
    assert observer.squeeze_excites == {told(ops): 2}


@pytest.mark.parametrize(
    ("ops", "seen"),
    [
        ("fused", {}),
        ("reference", {}),
        ("fused", {"fused avx2": 16}),
        ("fused", {"fused cuda": 12, "reference": 4}),
        ("reference", {"reference": 2}),
    ],
)
def test_what_was_asked_for_and_ran_somewhere_is_let_through(ops: Ops, seen: Any) -> None:
    check_squeeze_excites(ops, Counter(seen))


@pytest.mark.parametrize(
    ("ops", "seen", "words"),
    [
        ("fused", {"reference": 16}, "16 reference"),
        ("reference", {"fused cuda": 2, "fused avx2": 1}, "1 fused avx2, 2 fused cuda"),
    ],
)
def test_another_run_under_the_name_of_an_operator_is_refused(
    ops: Ops, seen: dict[str, int], words: str
) -> None:
    with pytest.raises(PerfkitError) as refusal:
        check_squeeze_excites(ops, Counter(seen))
    message = str(refusal.value)
    assert message.startswith(f"--ops {ops}: no Squeeze-and-Excitation of the first forward ran ")
    assert f"(seen: {words})" in message
    assert "\n" not in message


def cell_of(workload: str, ops: Ops, strategy: str = "serial") -> tuple[Cell, bool]:
    """Return a rank's cell after its first step, and whether it needs the correctness gate."""
    options = {"workload": workload, "ops": ops, "strategy": strategy, "local_batch": 4}
    config = RunConfig.model_validate({**options, "threads": 1})
    with restored_settings():
        rank = RankCell(config, ALONE)
        facts = rank.first_step()
        rank.close()
    return CellLog("strategy", "", config, None, lambda *_: [], [facts]).as_cell(), rank.needs_gate


def test_a_cell_says_which_operator_was_asked_for_and_which_ran() -> None:
    for ops in OPS:
        cell, needs_gate = cell_of("tiny_se:TinySe", ops)
        assert (cell.ops, cell.squeeze_excites) == (ops, [{told(ops): 2}])
        assert needs_gate == (ops == "fused")
    plain, needs_gate = cell_of("tiny:Tiny", "fused")
    assert (plain.ops, plain.squeeze_excites, needs_gate) == (None, [], False)
    assert cell_of("tiny:Tiny", "fused", "ddp")[1]


def test_a_model_that_does_not_run_what_was_asked_for_ends_the_run_at_its_first_step() -> None:
    assert cell_of("tiny_se:Stubborn", "reference")[0].squeeze_excites == [{"reference": 2}]
    with pytest.raises(PerfkitError, match=r"^--ops fused: no .* \(seen: 2 reference\)"):
        cell_of("tiny_se:Stubborn", "fused")
