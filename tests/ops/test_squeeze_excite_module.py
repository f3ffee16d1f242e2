"""The Squeeze-and-Excitation module: its parameters are those of timm and torchvision."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perfkit.core.errors import PerfkitError
from perfkit.ops import SqueezeExcite


class LinearPair(nn.Module):
    """The two layers without biases of MedicalCNN's blocks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // 16, bias=False)
        self.fc2 = nn.Linear(channels // 16, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x, [N, C, H, W], with its channels scaled."""
        gates = torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3))))))
        return x * gates[:, :, None, None]


def others() -> dict[str, tuple[nn.Module, SqueezeExcite]]:
    """Return modules from elsewhere, each with ours of the same form."""
    timm = pytest.importorskip("timm.layers")
    torchvision = pytest.importorskip("torchvision.ops")
    return {
        "timm": (timm.SEModule(64), SqueezeExcite(64, 8, conv=True)),
        "timm without biases": (
            timm.SEModule(64, rd_channels=4, bias=False),
            SqueezeExcite(64, conv=True, bias=False),
        ),
        "torchvision": (torchvision.SqueezeExcitation(48, 12), SqueezeExcite(48, 12, conv=True)),
    }


@pytest.mark.parametrize("ops", ["fused", "reference"])
@pytest.mark.parametrize("name", ["timm", "timm without biases", "torchvision", "linear pair"])
def test_state_dicts_go_both_ways_and_give_the_same_results(name: str, ops: Any) -> None:
    if name == "linear pair":
        other, ours = LinearPair(64), SqueezeExcite(64, bias=False)
    else:
        other, ours = others()[name]
    ours.ops = ops
    x = torch.randn(3, ours.fc1.weight.shape[1], 5, 4)
    # Trained weights are larger than fresh ones.
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    assert not torch.allclose(ours(x), other(x))
    ours.load_state_dict(other.state_dict(), strict=True)
    torch.testing.assert_close(ours(x), other(x))
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    other.load_state_dict(ours.state_dict(), strict=True)
    torch.testing.assert_close(other(x), ours(x))


@pytest.mark.parametrize("conv", [False, True])
def test_weights_of_the_other_shape_are_taken_and_left_as_they_are(conv: bool) -> None:
    other = nn.Sequential(nn.ReLU(), SqueezeExcite(32, 4, conv=not conv))
    state = other.state_dict()
    shapes = {name: one.shape for name, one in state.items()}
    for assign in (False, True):
        ours = nn.Sequential(nn.ReLU(), SqueezeExcite(32, 4, conv=conv))
        ours.load_state_dict(state, strict=True, assign=assign)
        assert isinstance(ours[1].fc1, nn.Conv2d if conv else nn.Linear)
        assert ours[1].fc1.weight.dim() == (4 if conv else 2)
        x = torch.randn(3, 32, 5, 4)
        assert torch.equal(ours(x), other(x))
    assert {name: one.shape for name, one in state.items()} == shapes


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize(
    "shape", [(4, 31), (5, 32), (32, 4), (4, 32, 1), (4, 32, 3, 3), (4, 16, 2, 1), (128,)]
)
def test_weights_of_a_wrong_shape_are_refused(conv: bool, shape: tuple[int, ...]) -> None:
    ours = SqueezeExcite(32, 4, conv=conv)
    state = ours.state_dict() | {"fc1.weight": torch.zeros(shape)}
    with pytest.raises(RuntimeError, match=r"size mismatch for fc1\.weight"):
        ours.load_state_dict(state)


def test_missing_and_unknown_parameters_are_refused() -> None:
    ours = SqueezeExcite(32)
    with pytest.raises(RuntimeError, match=r'Missing key.*"fc1.bias", "fc2.bias"'):
        ours.load_state_dict(SqueezeExcite(32, bias=False).state_dict())
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"bn.weight"'):
        ours.load_state_dict(ours.state_dict() | {"bn.weight": torch.zeros(2)})


def test_the_squeeze_is_a_sixteenth_of_the_channels_and_at_least_one() -> None:
    sizes = {channels: SqueezeExcite(channels).fc1.weight.shape[0] for channels in (1, 31, 64, 100)}
    assert sizes == {1: 1, 31: 1, 64: 4, 100: 6}


def test_fused_and_reference_are_the_same_function_of_the_same_parameters() -> None:
    for activation in (None, "relu"):
        fused = SqueezeExcite(32, activation=activation)
        reference = SqueezeExcite(32, activation=activation, ops="reference")
        reference.load_state_dict(fused.state_dict())
        x, residual = torch.randn(2, 3, 32, 6, 5)
        torch.testing.assert_close(fused(x, residual), reference(x, residual))
        tokens = x.flatten(2).transpose(1, 2)
        torch.testing.assert_close(fused(tokens), reference(tokens))


def test_copies_are_equal_and_apart() -> None:
    ours = SqueezeExcite(32, 4, conv=True, activation="relu")
    x = torch.randn(3, 32, 5, 4)
    want = ours(x)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    copies = [copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))]
    copies.append(torch.load(file, weights_only=False))
    nn.init.zeros_(ours.fc2.bias)
    for one in copies:
        assert torch.equal(one(x), want)
        one.load_state_dict(SqueezeExcite(32, 4).state_dict())  # of the other shape


def test_the_module_names_its_form() -> None:
    text = repr(SqueezeExcite(32, 4, bias=False, activation="relu"))
    assert "activation='relu', ops='fused'" in text
    assert "(fc1): Linear(in_features=32, out_features=4, bias=False)" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "`channels` must be an integer of at least 1, got 0"),
        ({"channels": -3}, "`channels` must be an integer of at least 1, got -3"),
        ({"channels": 8.0}, "`channels` must be an integer of at least 1, got 8.0"),
        ({"channels": "8"}, "`channels` must be an integer of at least 1, got '8'"),
        ({"channels": None}, "`channels` must be an integer of at least 1, got None"),
        ({"channels": True}, "`channels` must be an integer of at least 1, got True"),
        ({"channels": 8, "squeeze_channels": 0}, "`squeeze_channels` must be an integer .*, got 0"),
        ({"channels": 8, "squeeze_channels": 2.5}, "`squeeze_channels` must be .*, got 2.5"),
        ({"channels": 8, "activation": ["relu"]}, r"`activation` must be .*, got \['relu'\]"),
        ({"channels": 8, "activation": "gelu"}, "`activation` must be None or 'relu', got 'gelu'"),
        ({"channels": 8, "ops": "fast"}, "`ops` must be 'fused' or 'reference', got 'fast'"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed_and_what_came(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(PerfkitError, match=f"^SqueezeExcite: {message}$"):
        SqueezeExcite(**arguments)
