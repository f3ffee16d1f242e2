"""The native Squeeze-and-Excitation inside torch.compile, torch.export, autocast, DDP and FSDP."""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from excitation import LAYOUTS, Case, evaluate, make
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from perfkit.ops import SqueezeExcite, squeeze_excite
from perfkit.ops.reference.squeeze_excite import squeeze_excite as eager

# Inductor of torch 2.13 imports a module of torch's that warns of itself.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")

SHAPES = {"NCHW": (3, 20, 5, 4), "channels_last": (3, 20, 5, 4), "tokens": (3, 7, 20)}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Any:
    torch.compiler.reset()


def assert_equal(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, one in want.items():
        assert torch.equal(got[name], one), name
        assert got[name].stride() == one.stride(), name


# --- The operators to torch -----------------------------------------------------------------------


# torch's own check reads an attribute that torch warns of.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_operators_keep_their_promises_to_torch(layout: str) -> None:
    forms = [
        make(SHAPES[layout], layout=layout, residual=True, relu=True),
        make(SHAPES[layout], torch.bfloat16, layout=layout, form="float32 layers", bias=False),
        make(SHAPES[layout], torch.float64, layout=layout, form="conv", relu=True),
    ]
    for tensors, relu, grad in forms:
        forward = torch.ops.perfkit.squeeze_excite.default
        asking = [None if one is None else one.requires_grad_() for one in tensors]
        torch.library.opcheck(forward, (*asking, relu))
        x, w1, _, w2, *_ = tensors
        y, state = forward(*(None if one is None else one.detach() for one in tensors), relu)
        backward = torch.ops.perfkit.squeeze_excite_backward.default
        for wanted in ([True, relu, True, True, True, True], [True, False] * 3):
            given = (grad, x.detach(), y if relu else None, state, w1.detach(), w2.detach(), wanted)
            torch.library.opcheck(backward, given)


def test_fake_and_meta_tensors_have_the_shape_of_real_ones() -> None:
    for layout, dtype in itertools.product(LAYOUTS, (torch.float32, torch.bfloat16)):
        case = make(SHAPES[layout], dtype, layout=layout, residual=True, relu=True)
        want = evaluate(squeeze_excite, case)
        meta = Case(tuple(one.to("meta") for one in case.tensors), True, case.grad.to("meta"))
        for name, one in evaluate(squeeze_excite, meta).items():
            facts = (one.shape, one.dtype, one.stride())
            assert facts == (want[name].shape, want[name].dtype, want[name].stride()), name


# --- torch.compile and torch.export ---------------------------------------------------------------


def counting(graphs: list[torch.fx.GraphModule]) -> Callable[..., Any]:
    """Return a backend that keeps the graphs it is given, and compiles forward and backward."""

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    return backend


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_graph_serves_forward_and_backward_of_every_batch(layout: str) -> None:
    graphs: list[torch.fx.GraphModule] = []
    compiled = torch.compile(squeeze_excite, fullgraph=True, dynamic=True, backend=counting(graphs))
    for batch in (3, 5, 2, 8):
        shape = (batch, *SHAPES[layout][1:])
        case = make(shape, layout=layout, residual=True, relu=True, seed=batch)
        assert_equal(evaluate(compiled, case), evaluate(squeeze_excite, case))
    assert len(graphs) == 1


def test_inductor_compiles_forward_and_backward_among_other_operations() -> None:
    def block(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(x: Tensor, *layers: Tensor, residual: Tensor, activation: str | None) -> Tensor:
            y = function(x * 2, *layers, residual=residual.sin(), activation=activation)
            return y.cos()

        return run

    compiled = torch.compile(block(squeeze_excite), fullgraph=True, dynamic=True)
    for batch in (3, 4):
        case = make((batch, 20, 5, 4), layout="channels_last", residual=True, relu=True)
        got, want = evaluate(compiled, case), evaluate(block(squeeze_excite), case)
        for name, one in want.items():
            torch.testing.assert_close(got[name], one)
            assert got[name].stride() == one.stride(), name


class Block(nn.Module):
    def __init__(self, conv: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 20, 3)
        self.se = SqueezeExcite(20, 4, conv=conv, activation="relu")

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        out: Tensor = self.se(y, y)
        return out


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_program_serves_every_batch(strict: bool) -> None:
    block, x = Block(), torch.randn(3, 6, 8, 9)
    sizes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(block, (x,), dynamic_shapes=sizes, strict=strict)
    assert "perfkit.squeeze_excite" in program.graph_module.code
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for batch in (3, 1, 7):
        x = torch.randn(batch, 6, 8, 9)
        torch.testing.assert_close(loaded(x), block(x))


# --- Precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("of_residual", [None, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("of_x", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_gives_the_dtype_of_eager_torch(
    of_x: torch.dtype, of_residual: torch.dtype | None
) -> None:
    case = make(SHAPES["NCHW"], residual=of_residual is not None, relu=True)
    x, *layers, residual = case.tensors
    added = None if residual is None else residual.to(of_residual)
    case = case._replace(tensors=(x.to(of_x), *layers, added))

    def under_autocast(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*arguments: Any, **options: Any) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return function(*arguments, **options).float()  # as the gradient is

        return run

    for compiled in (False, True):
        ours = under_autocast(squeeze_excite)
        if compiled:
            ours = torch.compile(ours, fullgraph=True, backend="aot_eager")
        got, want = evaluate(ours, case), evaluate(under_autocast(eager), case)
        for name, one in want.items():
            assert got[name].dtype == one.dtype, name
            torch.testing.assert_close(got[name], one, rtol=0.05, atol=0.05 * one.abs().max())
    with torch.autocast("cpu", torch.bfloat16):
        *arguments, residual = case.tensors
        ours, theirs = (f(*arguments, residual=residual) for f in (squeeze_excite, eager))
    assert ours.dtype == theirs.dtype


def test_autocast_takes_layers_of_low_precision_with_a_residual_of_float32() -> None:
    case = make(SHAPES["NCHW"], residual=True)
    *low, residual = case.tensors
    low = [one.bfloat16() for one in low if one is not None]
    assert len(low) == 5
    with torch.autocast("cpu", torch.bfloat16):
        y = squeeze_excite(*low, residual=residual)
    assert y.dtype == torch.float32
    want = eager(*(one.float() for one in low), residual=residual)
    torch.testing.assert_close(y, want)


# --- Checkpointing, DDP and FSDP ------------------------------------------------------------------


def trained(block: nn.Module, run: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return result and gradients of one step."""
    torch.manual_seed(0)
    x = torch.randn(3, 6, 8, 9, requires_grad=True)
    y = run(x)
    block.zero_grad()
    y.square().sum().backward()
    results = {"y": y.detach(), "x": x.grad}
    for name, parameter in block.named_parameters():
        grad = parameter.grad
        results[name] = grad.full_tensor() if isinstance(grad, DTensor) else grad
    return results


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of this process alone."""
    store = dist.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_nothing(reentrant: bool) -> None:
    block = Block()
    want = trained(block, block)
    got = trained(block, lambda x: checkpoint(block, x, use_reentrant=reentrant))
    assert_equal(got, want)


@pytest.mark.usefixtures("group")
def test_ddp_changes_nothing() -> None:
    block = Block(conv=True)
    want = trained(block, block)
    assert_equal(trained(block, DistributedDataParallel(block)), want)


@pytest.mark.usefixtures("group")
def test_fsdp_changes_nothing() -> None:
    block = Block()
    want = trained(block, block)
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(block.se, mesh=mesh)
    fully_shard(block, mesh=mesh)
    assert isinstance(block.se.fc1.weight, DTensor)
    assert_equal(trained(block, block), want)


@pytest.mark.usefixtures("group")
def test_fsdp_in_bfloat16_gives_what_bfloat16_gives() -> None:
    block = Block()
    lower = copy.deepcopy(block).bfloat16()
    want = trained(lower, lambda x: lower(x.bfloat16()))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    fully_shard(block, mesh=init_device_mesh("cpu", (1,)), mp_policy=policy)
    for name, one in trained(block, block).items():
        torch.testing.assert_close(one, want[name], check_dtype=name == "y", rtol=0, atol=0)
