"""The native CLAHE-gamma-median inside torch.compile, torch.export and fake modes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from opencv import noise
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from perfkit.ops import clahe_gamma_median, clahe_gamma_median_normalize, clahe_tables

# Inductor of torch 2.13 imports a module of torch's that warns of itself.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture
def images() -> Tensor:
    return torch.from_numpy(noise(2, 50, 60, 3))


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Any:
    torch.compiler.reset()


def normalised(images: Tensor, **options: Any) -> Tensor:
    return clahe_gamma_median_normalize(images, mean=MEAN, std=STD, **options)


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float16, torch.bfloat16])
def test_the_operator_keeps_its_promises_to_torch(
    images: Tensor, dtype: torch.dtype | None
) -> None:
    table = torch.arange(256, dtype=torch.uint8)
    values = None if dtype is None else torch.rand(3, 256).to(dtype)
    out = torch.empty(images.shape, dtype=dtype or torch.uint8)
    operator = torch.ops.perfkit.clahe_gamma_median.default
    for view in (images, images.transpose(1, 2)):
        arguments = (view, table, values, 2.0, 8, 8, torch.empty_like(out).reshape(view.shape))
        torch.library.opcheck(operator, arguments)


def test_the_tables_keep_their_promises_to_torch() -> None:
    cpu = torch.device("cpu")
    torch.library.opcheck(torch.ops.perfkit.gamma_values.default, (1.2, cpu))
    arguments = (MEAN, STD, torch.float16, cpu)
    torch.library.opcheck(torch.ops.perfkit.normalised_values.default, arguments)


def test_a_compiled_function_gives_the_same_bytes(images: Tensor) -> None:
    def function(images: Tensor) -> tuple[Tensor, Tensor]:
        equalised = clahe_gamma_median(images)
        return equalised, normalised(equalised, memory_format=torch.channels_last) * 2

    for got, want in zip(
        torch.compile(function, fullgraph=True)(images), function(images), strict=True
    ):
        assert torch.equal(got, want)
        assert got.stride() == want.stride()


def test_one_graph_serves_all_sizes(images: Tensor) -> None:
    graphs = 0

    def count(graph: torch.fx.GraphModule, _: list[Any]) -> Any:
        nonlocal graphs
        graphs += 1
        return graph.forward

    compiled = torch.compile(normalised, fullgraph=True, dynamic=True, backend=count)
    for view in (images, images[:, :33], torch.cat((images, images))[:, :, :41]):
        assert torch.equal(compiled(view.contiguous()), normalised(view))
    assert graphs == 1


def test_a_compiled_function_follows_its_parameters(images: Tensor) -> None:
    def function(images: Tensor, clip_limit: float, gamma: float, columns: int) -> Tensor:
        return clahe_gamma_median(
            images, clip_limit=clip_limit, gamma=gamma, tile_grid=(columns, 3)
        )

    for dynamic in (True, None):
        compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="eager")
        for parameters in ((2.0, 1.2, 8), (3.5, 1.2, 8), (3.5, 0.7, 8), (3.5, 0.7, 5)):
            assert torch.equal(compiled(images, *parameters), function(images, *parameters))


def test_a_compiled_function_of_any_size_gives_the_same_bytes(images: Tensor) -> None:
    compiled = torch.compile(clahe_gamma_median, fullgraph=True, dynamic=True)
    for view in (images, images[:1, :33].contiguous()):
        assert torch.equal(compiled(view), clahe_gamma_median(view))


def test_a_compiled_function_fills_out(images: Tensor) -> None:
    def function(images: Tensor, out: Tensor) -> Tensor:
        return clahe_gamma_median(images, out=out, tile_grid=(3, 5))

    out = torch.zeros_like(images)
    torch.compile(function, fullgraph=True)(images, out)
    assert torch.equal(out, clahe_gamma_median(images, tile_grid=(3, 5)))


def test_what_was_compiled_does_not_spoil_later_calls(images: Tensor) -> None:
    before = normalised(images, gamma=1.7)
    compiled = torch.compile(lambda images: normalised(images, gamma=1.7).mul_(0), fullgraph=True)
    compiled(images)
    assert torch.equal(normalised(images, gamma=1.7), before)


def fake(function: Callable[[Tensor], object], images: Tensor) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        function(images)


def fake_without_images(function: Callable[[Tensor], object], images: Tensor) -> None:
    with FakeTensorMode():
        function(torch.empty(images.shape, dtype=torch.uint8))


def functional(function: Callable[[Tensor], object], images: Tensor) -> None:
    # torch has no functional form of an operator that writes into its argument.
    with pytest.raises(RuntimeError, match="only support functionalizing"):
        torch.func.functionalize(function)(images)


def differentiated(function: Callable[[Tensor], object], images: Tensor) -> None:
    def loss(weight: Tensor) -> Tensor:
        function(images)
        return weight * 2

    torch.func.grad(loss)(torch.ones(()))


def inferred(function: Callable[[Tensor], object], images: Tensor) -> None:
    with torch.inference_mode():
        function(images)


@pytest.mark.parametrize("first", [fake, fake_without_images, functional, differentiated, inferred])
def test_where_a_table_was_first_made_does_not_spoil_later_calls(
    images: Tensor, first: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    want = clahe_gamma_median(images), normalised(images)
    monkeypatch.setattr(clahe_tables, "_kept", {})

    def both(images: Tensor) -> tuple[Tensor, Tensor]:
        return clahe_gamma_median(images), normalised(images)

    for _ in range(2):  # without tables, and with
        first(both, images)
        for got, expected in zip(both(images), want, strict=True):
            assert torch.equal(got, expected)


class Model(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return normalised(clahe_gamma_median(images))


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_program_serves_all_sizes(images: Tensor, strict: bool) -> None:
    sizes = {dim: torch.export.Dim(name) for dim, name in enumerate(("n", "h", "w"))}
    program = torch.export.export(Model(), (images,), dynamic_shapes=(sizes,), strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for view in (images, images[:1, :33], torch.cat((images, images))):
        assert torch.equal(loaded(view), Model()(view))


def test_fake_and_meta_tensors_have_the_shape_of_real_ones(images: Tensor) -> None:
    options: dict[str, Any] = {"dtype": torch.float16, "memory_format": torch.channels_last}
    want = normalised(images, **options)
    with FakeTensorMode() as mode:
        for fake in (mode.from_tensor(images), torch.empty(images.shape, dtype=torch.uint8)):
            assert clahe_gamma_median(fake).shape == images.shape
            got = normalised(fake, gamma=3.25, **options)
            assert (got.shape, got.stride(), got.dtype) == (want.shape, want.stride(), want.dtype)
    assert normalised(images.to("meta"), **options).stride() == want.stride()
    # Nothing fake was kept for the real call.
    assert torch.isfinite(normalised(images, gamma=3.25)).all()
