"""Squeeze-and-Excitation on a CUDA device: float64's values, and CUDA's manners."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from perfkit.core.errors import PerfkitError
from perfkit.ops.native import require_cuda
from perfkit.ops.reference.squeeze_excite import squeeze_excite as reference
from perfkit.ops.squeeze_excite_torch import squeeze_excite

GPUS = torch.cuda.device_count()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(GPUS == 0, reason="no CUDA device")]

BUSY_CYCLES = 200_000_000  # about a tenth of a second
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# What the results may be further off than eager's: float sums in another order.
MARGIN, LEAST_ERROR = 1.2, 1e-6


@pytest.fixture(autouse=True, scope="module")
def _library() -> None:
    require_cuda()


@contextmanager
def no_synchronisation() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Call:
    """One call's tensors; ``run`` gives its result and all gradients."""

    def __init__(
        self,
        *shape: int,
        hidden: int = 8,
        dtype: torch.dtype = torch.float32,
        weight_dtype: torch.dtype | None = None,
        layout: str = "contiguous",
        full: bool = True,
        device: str = "cuda",
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        channels = shape[2] if len(shape) == 3 else shape[1]
        weight_dtype = weight_dtype or dtype

        def drawn(dtype: torch.dtype, *size: int) -> Tensor:
            return torch.randn(size, generator=generator).to(device, dtype)

        def pixels() -> Tensor:
            one = drawn(dtype, *shape)
            return one.contiguous(memory_format=LAYOUTS[layout]) if one.dim() == 4 else one

        self.grad = pixels()
        self.tensors = [
            pixels(),
            drawn(weight_dtype, hidden, channels) * channels**-0.5,
            drawn(weight_dtype, hidden),
            drawn(weight_dtype, channels, hidden),
            drawn(weight_dtype, channels),
        ]
        if full:
            self.tensors.append(pixels())

    def run(self, operator: object = squeeze_excite) -> list[Tensor]:
        """Return y, and the gradients of x, w1, b1, w2, b2, residual."""
        inputs = [one.detach().requires_grad_() for one in self.tensors]
        residual = inputs[5] if len(inputs) == 6 else None
        activation = None if residual is None else "relu"
        y = operator(*inputs[:5], residual=residual, activation=activation)  # type: ignore[operator]
        return [y.detach(), *torch.autograd.grad(y, inputs, self.grad)]

    def to(self, **options: object) -> Call:
        """Return the same call on another device or in another dtype."""
        other = object.__new__(Call)
        other.grad = self.grad.to(**options)  # type: ignore[call-overload]
        other.tensors = [one.to(**options) for one in self.tensors]  # type: ignore[call-overload]
        return other


def errors(got: list[Tensor], want: list[Tensor]) -> list[float]:
    # A gradient may be zero, where no hidden value is above 0.
    return [
        float((one.double() - right).norm() / right.norm().clamp(min=1e-30))
        for one, right in zip(got, want, strict=True)
    ]


def assert_no_worse_than_eager(call: Call) -> None:
    got, want = call.run(), call.to(dtype=torch.float64).run(reference)
    weights = call.tensors[1].dtype
    eager = call if weights == call.grad.dtype else call.to(dtype=call.grad.dtype)
    for ours, theirs in zip(errors(got, want), errors(eager.run(reference), want), strict=True):
        assert ours <= MARGIN * theirs + LEAST_ERROR
    assert all(one.dtype == of.dtype for one, of in zip(got[1:], call.tensors, strict=True))


SHAPES = [
    (32, 64, 56, 56),
    (5, 128, 28, 28),
    (33, 256, 14, 14),
    (64, 512, 7, 7),
    (3, 96, 112, 112),
    (9, 197, 768),
    (2, 5, 3, 7),
    (3, 7, 1, 1),
    (70_000, 8, 2, 1),
    (1, 2048, 7, 7),
]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_errors_are_no_larger_than_eagers(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, full: bool
) -> None:
    hidden = max((shape[2] if len(shape) == 3 else shape[1]) // 16, 1)
    assert_no_worse_than_eager(Call(*shape, hidden=hidden, dtype=dtype, layout=layout, full=full))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_layers_serve_low_precision(dtype: torch.dtype) -> None:
    assert_no_worse_than_eager(Call(9, 64, 20, 21, dtype=dtype, weight_dtype=torch.float32))


def test_unaligned_tensors_are_right() -> None:
    call = Call(4, 16, 9, 9, dtype=torch.float16)
    want = call.run()
    wide = torch.empty(call.tensors[0].numel() + 1, dtype=torch.float16, device="cuda")
    call.tensors[0] = wide[1:].view_as(call.tensors[0]).copy_(call.tensors[0])
    got = call.run()
    torch.testing.assert_close(got, want, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_results_are_the_cpus(dtype: torch.dtype, layout: str) -> None:
    call = Call(6, 64, 14, 14, dtype=dtype, layout=layout)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-3
    for got, want in zip(call.run(), call.to(device="cpu").run(), strict=True):
        torch.testing.assert_close(got.cpu(), want, rtol=tolerance, atol=tolerance * 10)


def test_results_are_the_same_from_run_to_run() -> None:
    for shape in ((64, 512, 7, 7), (16, 64, 56, 56), (4, 96, 112, 112)):
        call = Call(*shape, dtype=torch.float16)
        first = call.run()
        for _ in range(5):
            assert all(map(torch.equal, call.run(), first))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_propagate_as_in_eager(value: float) -> None:
    call = Call(3, 16, 7, 7)
    call.tensors[0][1, 3, 2, 2] = value
    for got, want in zip(call.run(), call.run(reference), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_it_runs_on_the_current_stream_and_returns_before_it_is_done() -> None:
    call = Call(8, 64, 28, 28)
    want = call.run()
    late = Call(8, 64, 28, 28, seed=1)
    late.run()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), no_synchronisation():
        torch.cuda._sleep(BUSY_CYCLES)
        for to, of in zip([late.grad, *late.tensors], [call.grad, *call.tensors], strict=True):
            to.copy_(of)
        got = late.run()
        assert not stream.query(), "the operator waited for the device"
    stream.synchronize()
    assert all(map(torch.equal, got, want))


@pytest.mark.parametrize("shape", [(16, 512, 7, 7), (4, 96, 112, 112)])
def test_a_captured_graph_follows_new_values(shape: tuple[int, ...]) -> None:
    given = Call(*shape, dtype=torch.float16)
    given.run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = given.run()
    for seed in range(1, 3):
        call = Call(*shape, dtype=torch.float16, seed=seed)
        given.grad.copy_(call.grad)
        for to, of in zip(given.tensors, call.tensors, strict=True):
            to.copy_(of)
        graph.replay()
        assert all(map(torch.equal, got, call.run()))


def test_all_memory_is_torchs() -> None:
    call = Call(32, 64, 56, 56)
    call.run()
    torch.cuda.synchronize()
    free, allocated = torch.cuda.mem_get_info()[0], torch.cuda.memory_allocated()
    for _ in range(10):
        call.run()
    torch.cuda.synchronize()
    assert torch.cuda.mem_get_info()[0] == free
    assert torch.cuda.memory_allocated() == allocated


@pytest.mark.skipif(GPUS < 2, reason="needs two CUDA devices")
def test_it_runs_on_the_device_of_x() -> None:
    call = Call(4, 16, 14, 14)
    with torch.cuda.device(0):
        got = call.to(device="cuda:1").run()
        assert torch.cuda.current_device() == 0
    assert {one.device for one in got} == {torch.device("cuda:1")}
    torch.testing.assert_close([one.cuda(0) for one in got], call.run())


def test_calls_on_several_streams_do_not_disturb_each_other() -> None:
    calls = [Call(16, 64, 28, 28, seed=seed) for seed in range(4)]
    want = [call.run() for call in calls]
    streams = [torch.cuda.Stream() for _ in calls]
    torch.cuda.synchronize()
    found = []
    for call, stream in zip(calls * 5, streams * 5, strict=True):
        with torch.cuda.stream(stream):
            found.append(call.run())
    torch.cuda.synchronize()
    for got, right in zip(found, want * 5, strict=True):
        assert all(map(torch.equal, got, right))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_compiles_without_a_break(layout: str) -> None:
    call = Call(6, 32, 14, 14, dtype=torch.float16, layout=layout)
    compiled = torch.compile(squeeze_excite, fullgraph=True)
    got, want = call.run(compiled), call.run()
    assert all(map(torch.equal, got, want))
    assert got[0].stride() == want[0].stride()


@pytest.mark.parametrize("shape", SHAPES[:6], ids=str)
def test_compiled_eager_is_right_before_it_is_a_baseline(shape: tuple[int, ...]) -> None:
    torch.compiler.reset()
    call = Call(*shape, dtype=torch.float16)
    want = call.to(dtype=torch.float64).run(reference)
    compiled = errors(call.run(torch.compile(reference, fullgraph=True, dynamic=False)), want)
    for one, eager in zip(compiled, errors(call.run(reference), want), strict=True):
        assert one <= 1.5 * eager + LEAST_ERROR


def test_opcheck_passes() -> None:
    call = Call(3, 16, 7, 7)
    x, w1, b1, w2, b2, residual = (one.requires_grad_() for one in call.tensors)
    forward = (x, w1, b1, w2, b2, residual, True)
    torch.library.opcheck(torch.ops.perfkit.squeeze_excite.default, forward)
    y, state = (one.detach() for one in torch.ops.perfkit.squeeze_excite(*forward))
    backward = (call.grad, x.detach(), y, state, w1.detach(), w2.detach(), [True] * 6)
    torch.library.opcheck(torch.ops.perfkit.squeeze_excite_backward.default, backward)


def test_float64_runs_the_reference() -> None:
    call = Call(3, 16, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(call.run(), call.run(reference))


def test_devices_are_not_mixed() -> None:
    x, w1, b1, w2, b2, _ = Call(3, 16, 7, 7).tensors
    with pytest.raises(PerfkitError, match="`w1` must be"):
        squeeze_excite(x, w1.cpu(), b1, w2, b2)


def test_an_empty_batch_stays_empty() -> None:
    y, grad_x, *rest = Call(0, 16, 7, 7, full=False).run()
    assert y.shape == grad_x.shape == (0, 16, 7, 7)
    assert not any(one.any() for one in rest)


def needs(gigabytes: int) -> None:
    if torch.cuda.mem_get_info()[0] < gigabytes << 30:
        pytest.skip(f"needs {gigabytes} GiB of device memory")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batches_of_more_than_int32_elements_are_right(layout: str) -> None:
    needs(24)
    few = Call(2, 64, 56, 56, dtype=torch.float16, layout=layout, full=False)
    count = 2**31 // few.grad[0].numel() // 2 * 2 + 2
    many = few.to(device="cuda")
    many.tensors[0] = few.tensors[0].repeat(count // 2, 1, 1, 1)
    many.tensors[0] = many.tensors[0].contiguous(memory_format=LAYOUTS[layout])
    many.grad = few.grad.expand_as(few.grad).repeat(count // 2, 1, 1, 1)
    many.grad = many.grad.contiguous(memory_format=LAYOUTS[layout])
    assert many.grad.numel() > 2**31
    y, grad_x = many.run()[:2]
    want = few.run()
    for got, right in ((y, want[0]), (grad_x, want[1])):
        for part in got.split(256):
            repeated = right.repeat(len(part) // 2, 1, 1, 1)
            torch.testing.assert_close(part, repeated, rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_a_sample_of_more_than_int32_elements_is_right() -> None:
    needs(40)
    call = Call(1, 1, 8, 8, hidden=1, dtype=torch.float16, full=False)
    side = 46_400
    call.tensors[0] = torch.ones(1, 1, side, side, dtype=torch.float16, device="cuda")
    call.grad = torch.ones_like(call.tensors[0])
    assert call.grad.numel() > 2**31
    y = call.run()[0]
    small = [torch.ones(1, 1, 8, 8, dtype=torch.float16, device="cuda"), *call.tensors[1:]]
    want = squeeze_excite(*small)[0, 0, 0, 0]
    assert float((y - want).abs().max()) < 2e-3
