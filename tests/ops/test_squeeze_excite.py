"""The native Squeeze-and-Excitation on the CPU: values, gradients, and what it keeps for them."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import excitation
import pytest
import torch
from excitation import DTYPES, LAYOUTS, NAMES, Case, assert_right, by_formulas, evaluate, make
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from perfkit.core.errors import PerfkitError
from perfkit.ops import build_info, squeeze_excite
from perfkit.ops.reference.squeeze_excite import squeeze_excite as eager

SMALL = {"NCHW": (2, 3, 2, 3), "channels_last": (2, 3, 2, 3), "tokens": (2, 5, 3)}
# Batch 1 of the shapes that the operator is made for.
PLANES = ((64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7), (256, 28, 28), (96, 112, 112))
LARGE = [((1, *plane), layout) for plane in PLANES for layout in ("NCHW", "channels_last")]
LARGE.append(((1, 197, 768), "tokens"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for work burn the other tests' time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- Values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_results_and_gradients_are_those_of_the_formulas(dtype: torch.dtype, layout: str) -> None:
    for case in excitation.cases(dtype, layout):
        assert_right(case, evaluate(squeeze_excite, case))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_reference_computes_the_formulas(layout: str) -> None:
    for case in excitation.cases(torch.float64, layout):
        got = evaluate(eager, case)
        for name, want in by_formulas(case, got["y"]).items():
            torch.testing.assert_close(got[name], want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_every_instruction_set_computes_the_formulas(isa: str) -> None:
    if isa not in build_info().isas:
        pytest.skip(f"{isa} is not available on this CPU or in this build")
    if build_info().isa.startswith(isa):  # AVX-512 VBMI has nothing for this operator
        return  # the tests of this process
    done = subprocess.run(
        [sys.executable, excitation.__file__],
        env=os.environ | {"PERFKIT_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == isa


def error_ratios(cases: list[Case], names: Iterable[str]) -> dict[str, float]:
    """Return our root mean square error over eager torch's, of results and gradients."""
    totals = {name: [0.0, 0.0] for name in names}
    for case in cases:
        for index, function in enumerate((squeeze_excite, eager)):
            got = evaluate(function, case)
            want = by_formulas(case, got["y"])
            for name, errors in totals.items():
                error = (got[name].double() - want[name]).square().mean()
                errors[index] += float(error / want[name].square().mean())
    return {name: (ours / eagers) ** 0.5 for name, (ours, eagers) in totals.items()}


@pytest.mark.parametrize("exponent", [0, 6, -10])
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_errors_are_no_larger_than_those_of_eager_torch(dtype: torch.dtype, exponent: int) -> None:
    magnitude = 2.0 ** (exponent if dtype == torch.float16 else 3 * exponent)
    cases = []
    for shape, layout in LARGE:
        (x, w1, *rest), _, grad = make(shape, dtype, layout=layout)
        # The gates stay away from 0 and 1, and the gradients within float16.
        less = min(1.0, 1 / magnitude)
        cases.append(Case((x * magnitude, w1 * less, *rest), False, grad / magnitude / 64))
    # In float32 both round about as often, and a few percent are chance.
    limit = 1.1 if dtype == torch.float32 else 1.0
    for name, ratio in error_ratios(cases, ("y", *NAMES[:5])).items():
        assert ratio <= limit, f"{name}: {ratio:.3f} times the error of eager torch"


@pytest.mark.parametrize(("shape", "layout"), LARGE, ids=str)
def test_sums_over_pixels_are_as_good_as_those_of_eager_torch(
    shape: tuple[int, ...], layout: str
) -> None:
    cases, ours, eagers = [], 0.0, 0.0
    for seed in range(4):
        (x, w1, _, w2, b2, _), _, grad = make(shape, layout=layout, squeeze=1, seed=seed)
        # All gates are one half: b2's gradient is a quarter of the sum of x and the gradient.
        layers = (w1 * 0, None, w2 * 0, b2 * 0)
        cases.append(Case((x.abs(), *layers, None), False, grad.abs()))
        state = torch.ops.perfkit.squeeze_excite(x, *layers, None, False)[1]
        over = 1 if layout == "tokens" else (2, 3)
        want = x.double().mean(over)
        ours += float((state[:, : want.shape[1]] - want).square().sum())
        eagers += float((x.mean(over) - want).square().sum())
    assert (ours / eagers) ** 0.5 <= 1.25
    assert error_ratios(cases, ["b2"])["b2"] <= 1.25


def test_sums_over_samples_are_as_good_as_those_of_eager_torch() -> None:
    cases = [make((256, 512, 1, 2), seed=seed) for seed in range(4)]
    for name, ratio in error_ratios(cases, NAMES[1:5]).items():
        assert ratio <= 1.25, f"{name}: {ratio:.3f} times the error of eager torch"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES[1:3], ids=str)
def test_every_16_bit_number_is_read_and_rounded_as_torch_does(
    dtype: torch.dtype, layout: str
) -> None:
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    residual = torch.cat((numbers, numbers[:39]))
    # Means have to be finite.
    x = residual.where(residual.abs() < 1e30, 0).roll(12345)
    if layout == "tokens":
        x, residual = (one.reshape(1, 1075, 61) for one in (x, residual))
    elif layout == "channels_last":
        x, residual = (one.reshape(1, 43, 61, 25).permute(0, 3, 1, 2) for one in (x, residual))
    else:
        x, residual = (one.reshape(1, 25, 43, 61) for one in (x, residual))
    channels = x.shape[2] if layout == "tokens" else x.shape[1]
    w1, w2 = torch.zeros(1, channels), torch.zeros(channels, 1)  # the gates are one half
    y = squeeze_excite(x, w1, None, w2, None, residual=residual)
    want = (x.float() / 2 + residual.float()).to(dtype)
    torch.testing.assert_close(y, want, rtol=0, atol=0, equal_nan=True)


def with_number(case: Case, name: str, number: float) -> Case:
    """Return the case with one number of a tensor replaced, in the middle."""
    tensors = dict(zip((*NAMES, "grad"), (*case.tensors, case.grad), strict=True))
    changed = tensors[name]
    assert changed is not None
    flat = changed.clone(memory_format=torch.contiguous_format).flatten()
    flat[flat.numel() // 2] = number
    tensors[name] = torch.empty_like(changed).copy_(flat.reshape(changed.shape))
    *others, grad = tensors.values()
    assert grad is not None
    return Case(tuple(others), case.relu, grad)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [*NAMES, "grad"])
def test_what_is_not_finite_spreads_as_in_eager_torch(name: str, number: float) -> None:
    for layout, relu in itertools.product(LAYOUTS, (False, True)):
        shape = (3, 20, 37) if layout == "tokens" else (3, 37, 5, 4)
        case = make(shape, layout=layout, residual=True, relu=relu, squeeze=5)
        case = with_number(case, name, number)
        got, want = evaluate(squeeze_excite, case), evaluate(eager, case)
        if math.isnan(number) and not relu:
            assert not all(bool(one.isfinite().all()) for one in want.values())
        for key, one in want.items():
            torch.testing.assert_close(got[key], one, rtol=1e-4, atol=1e-4, equal_nan=True)


# --- Layouts ------------------------------------------------------------------------------------


def test_gaps_and_permutations_do_not_change_results() -> None:
    dense = make((4, 6, 5, 7), residual=True, relu=True)
    want = evaluate(squeeze_excite, dense)

    def wide(one: Tensor) -> Tensor:
        return one.repeat_interleave(2, 3)[..., ::2]

    def rotated(one: Tensor) -> Tensor:
        return one.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)

    def columns(one: Tensor) -> Tensor:
        return one.transpose(2, 3).contiguous().transpose(2, 3)

    def last(one: Tensor) -> Tensor:
        return one.contiguous(memory_format=torch.channels_last)

    for of_x, of_rest in itertools.product((wide, rotated, columns), (wide, last)):
        x, *layers, residual = dense.tensors
        assert x is not None
        assert residual is not None
        tensors = (of_x(x), *layers, of_rest(residual))
        assert not tensors[0].is_contiguous()
        got = evaluate(squeeze_excite, Case(tensors, True, of_rest(dense.grad)))
        for name, one in want.items():
            assert torch.equal(got[name], one), name


def test_an_expanded_gradient_is_taken() -> None:
    case = make((3, 6, 4, 5), layout="channels_last", residual=True)
    ones = torch.ones(()).expand(case.grad.shape)
    got = evaluate(squeeze_excite, case._replace(grad=ones))
    want = evaluate(squeeze_excite, case._replace(grad=torch.ones_like(case.grad)))
    for name, one in want.items():
        assert torch.equal(got[name], one), name


def test_weights_need_not_be_contiguous() -> None:
    x, w1, b1, w2, b2, _ = make((3, 6, 4, 5)).tensors
    want = squeeze_excite(x, w1, b1, w2, b2)
    twice = b1.repeat_interleave(2)[::2]
    assert torch.equal(squeeze_excite(x, w1.T.contiguous().T, twice, w2.T.contiguous().T, b2), want)


def test_x_may_be_its_own_residual_or_overlap_it() -> None:
    case = make((4, 6, 5, 7), relu=True)
    x, *layers, _ = case.tensors
    for of_residual in (x[1:], x[:-1]):
        y = squeeze_excite(x[1:], *layers, residual=of_residual, activation="relu")
        want = eager(x[1:], *layers, residual=of_residual.clone(), activation="relu")
        torch.testing.assert_close(y, want)

    def doubled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, *rest, **options: function(x, *rest, **options | {"residual": x})

    got, want = evaluate(doubled(squeeze_excite), case), evaluate(doubled(eager), case)
    for name, one in want.items():
        torch.testing.assert_close(got[name], one)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_batch_gives_an_empty_result_and_gradients_of_zero(layout: str) -> None:
    shape = (0, 5, 6) if layout == "tokens" else (0, 6, 5, 4)
    case = make(shape, layout=layout, residual=True, relu=True)
    got = evaluate(squeeze_excite, case)
    assert got["y"].shape == got["x"].shape == got["residual"].shape == shape
    for name, tensor in zip(NAMES[1:5], case.tensors[1:5], strict=True):
        assert torch.equal(got[name], torch.zeros_like(tensor)), name


@pytest.mark.parametrize("shape", [(0, 6, 5, 4), (0, 5, 6)], ids=["image", "tokens"])
def test_an_empty_batch_takes_strides_of_any_kind(shape: tuple[int, ...]) -> None:
    w1, w2 = torch.ones(2, 6), torch.ones(6, 2)
    x = torch.ones(shape, requires_grad=True)
    squeeze_excite(x, w1, None, w2, None).sum().backward()  # a gradient of strides 0
    assert x.grad is not None
    assert x.grad.shape == shape
    gaps = torch.ones(*shape[:-1], 2 * shape[-1])[..., ::2]
    flipped = torch.ones(shape[0], *shape[:0:-1]).permute(0, *range(len(shape) - 1, 0, -1))
    assert squeeze_excite(gaps, w1, None, w2, None, residual=flipped).shape == shape


# --- Determinism --------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(25, 20), (7, 7)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_are_the_same_from_run_to_run_and_for_any_number_of_threads(
    layout: str, height: int, width: int
) -> None:
    # Enough for samples, and rows of the layers, to be worth a thread.
    shape = (9, height * width, 130) if layout == "tokens" else (9, 130, height, width)
    case = make(shape, layout=layout, residual=True, relu=True, squeeze=64)
    want = evaluate(squeeze_excite, case)
    for threads in (1, 2, 2, 3):
        torch.set_num_threads(threads)
        for name, one in evaluate(squeeze_excite, case).items():
            assert torch.equal(one, want[name]), (threads, name)


# --- Gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", [False, True], ids=["plain", "residual and ReLU"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_those_of_finite_differences(layout: str, rest: bool) -> None:
    case = make(SMALL[layout], torch.float64, layout=layout, residual=rest, relu=rest)
    tensors = [None if one is None else one.requires_grad_() for one in case.tensors]

    def function(*tensors: Tensor | None) -> Tensor:
        *arguments, residual = tensors
        return squeeze_excite(*arguments, residual=residual, activation="relu" if rest else None)

    assert torch.autograd.gradcheck(function, tensors)


def test_second_derivatives_are_refused() -> None:
    x, *layers = (one.requires_grad_() for one in make(SMALL["NCHW"]).tensors[:5])
    (grad,) = torch.autograd.grad(squeeze_excite(x, *layers).sum(), x, create_graph=True)
    with pytest.raises(PerfkitError, match="second derivatives are not supported; use the ref"):
        grad.sum().backward()


@pytest.mark.parametrize("learns", [False, True])
def test_the_profiler_counts_each_call_once(learns: bool) -> None:
    x, *layers = make(SMALL["NCHW"]).tensors[:5]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        y = squeeze_excite(x.requires_grad_(learns), *layers)
        if learns:
            y.sum().backward()
    names = [event.name for event in profile.events()]
    assert names.count("perfkit::squeeze_excite") == 1
    assert names.count("perfkit::squeeze_excite_backward") == learns


def test_the_graph_names_the_operator() -> None:
    x, *layers = make(SMALL["NCHW"]).tensors[:5]
    node = squeeze_excite(x.requires_grad_(), *layers).grad_fn
    assert node is not None
    assert "SqueezeExcite" in node.name()


class Backwards(TorchDispatchMode):
    """Notes which gradients each run of the backward operator was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: list[list[bool]] = []

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.perfkit.squeeze_excite_backward.default:
            self.wanted.append(list(args[6]))
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("relu", [False, True])
def test_gradients_are_computed_only_for_tensors_that_ask(relu: bool) -> None:
    for asking in itertools.product((False, True), repeat=6):
        if not any(asking):
            continue
        case = make(SMALL["NCHW"], residual=True, relu=relu)
        tensors = [one.requires_grad_(ask) for one, ask in zip(case.tensors, asking, strict=True)]
        *arguments, residual = tensors
        with Backwards() as backwards:
            y = squeeze_excite(*arguments, residual=residual, activation="relu" if relu else None)
            y.backward(case.grad)
        assert [one.grad is not None for one in tensors] == list(asking)
        of_x, *of_layers, of_residual = asking
        wanted = [of_x, of_residual and relu, *of_layers]
        # Without a ReLU the residual's gradient is that of the result.
        assert backwards.wanted == ([wanted] if any(wanted) else [])


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_only_x_the_layers_and_the_numbers_of_each_sample_are_kept(
    dtype: torch.dtype, relu: bool
) -> None:
    kept: list[Tensor] = []
    case = make((3, 32, 9, 9), dtype, residual=True, relu=relu)
    x, w1, b1, w2, b2, residual = (one.requires_grad_() for one in case.tensors)
    with saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        y = squeeze_excite(
            x, w1, b1, w2, b2, residual=residual, activation="relu" if relu else None
        )
    places = {one.data_ptr(): one for one in kept}
    for own in (x, w1, w2, *([y] if relu else [])):
        del places[own.data_ptr()]
    (state,) = places.values()
    assert state.shape == (3, 2 * 32 + 2)
    assert state.dtype == torch.float32


def test_a_result_that_the_backward_reads_must_not_change() -> None:
    x, *layers, _ = make(SMALL["NCHW"]).tensors
    x.requires_grad_()
    squeeze_excite(x, *layers).mul_(2).sum().backward()
    y = squeeze_excite(x, *layers, activation="relu").mul_(2).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()
