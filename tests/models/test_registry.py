"""The models by name: their size, and their stages, which are the model itself in pieces."""

from __future__ import annotations

import pickle
from copy import deepcopy

import pytest
import torch
from small_vit import SMALL_VIT, SMALL_VIT_SE
from torch import Tensor, nn

from perfkit.core.config import Ops
from perfkit.core.errors import PerfkitError
from perfkit.models.registry import ARCHITECTURES, Architecture, find_architecture
from perfkit.ops import SqueezeExcite
from perfkit.strategies.base import Device
from perfkit.strategies.placement import Placement
from perfkit.strategies.staged import StagedModel

SIZE = 32
STAGES = {"medical_cnn": 5, "resnet18": 5, "resnet18_se": 5, "vit_b_16": 14, "vit_b_16_se": 14}
SE_BLOCKS = {"medical_cnn": 16, "resnet18_se": 8, "vit_b_16_se": 12}
OPS: tuple[Ops, ...] = ("fused", "reference")
WHOLE = pytest.mark.parametrize("name", ARCHITECTURES)


# A small ViT: the stages are cut in the same way, and the real one is slow in float64.
SMALL = {"small ViT": SMALL_VIT, "small ViT with SE": SMALL_VIT_SE}


@pytest.fixture(params=["medical_cnn", "resnet18_se", *SMALL])
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return (ARCHITECTURES | SMALL)[request.param]


@pytest.fixture
def model(architecture: Architecture) -> nn.Module:
    torch.manual_seed(0)
    return architecture.build(2, SIZE, "fused")


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, SIZE, SIZE, generator=generator).to(dtype)


def in_turn(architecture: Architecture, model: nn.Module, x: Tensor) -> Tensor:
    for stage in architecture.stages(model):
        x = stage(x)
    return x


@pytest.mark.parametrize(
    ("name", "image_size", "count"),
    [
        ("medical_cnn", 224, 22_494_274),
        ("resnet18", 224, 11_177_538),
        ("resnet18_se", 224, 11_264_578),
        ("vit_b_16", 224, 85_800_194),
        ("vit_b_16", 96, 85_800_194 - (14 * 14 - 6 * 6) * 768),
        ("vit_b_16_se", 224, 86_684_930),
    ],
)
def test_each_has_its_number_of_parameters_whatever_runs_it(
    name: str, image_size: int, count: int
) -> None:
    build = find_architecture(name, image_size).build
    with torch.device("meta"):
        states = [build(2, image_size, ops).state_dict() for ops in OPS]
        model = build(2, image_size, "fused")
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    fused, reference = ([(key, state[key].shape) for key in state] for state in states)
    assert fused == reference


@WHOLE
def test_se_is_in_the_models_that_say_so_and_run_by_what_was_asked_for(name: str) -> None:
    architecture = ARCHITECTURES[name]
    for ops in OPS:
        with torch.device("meta"):
            model = architecture.build(2, SIZE, ops)
        blocks = [m for m in model.modules() if isinstance(m, SqueezeExcite)]
        assert len(blocks) == SE_BLOCKS.get(name, 0)
        assert architecture.has_squeeze_excite == bool(blocks)
        assert all(block.ops == ops for block in blocks)
        assert all(block.fc1.bias is block.fc2.bias is None for block in blocks)
        assert all(block.fc1.in_features == 16 * block.fc1.out_features for block in blocks)


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16"])
def test_se_only_adds_names_to_those_of_the_plain_network(name: str) -> None:
    with_se = ARCHITECTURES[f"{name}_se"]
    with torch.device("meta"):
        names = list(ARCHITECTURES[name].build(2, SIZE, "fused").state_dict())
        more = list(with_se.build(2, SIZE, "fused").state_dict())
    assert [key for key in more if with_se.added not in key] == names


def test_a_network_with_se_starts_from_the_weights_of_the_plain_one() -> None:
    states = []
    for name in ("resnet18", "resnet18_se"):
        torch.manual_seed(1)
        states.append(ARCHITECTURES[name].build(2, SIZE, "fused").state_dict())
    plain, with_se = states
    for key, tensor in plain.items():
        assert torch.equal(with_se[key], tensor), key


@WHOLE
def test_another_number_of_classes_changes_the_named_head_alone(name: str) -> None:
    architecture = ARCHITECTURES[name]
    with torch.device("meta"):
        two, ten = (architecture.build(classes, SIZE, "fused").state_dict() for classes in (2, 10))
    changed = {key for key in two if two[key].shape != ten[key].shape}
    assert changed == {f"{architecture.head}weight", f"{architecture.head}bias"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_calling_the_stages_in_turn_is_calling_the_model(
    architecture: Architecture, model: nn.Module, training: bool, dtype: torch.dtype
) -> None:
    model.to(dtype).train(training)
    outputs = []
    for call in (model, lambda x: in_turn(architecture, model, x)):
        torch.manual_seed(5)  # of dropout
        outputs.append(call(images(dtype)))
    assert outputs[0].shape == (2, 2)
    assert outputs[0].dtype == dtype
    assert torch.equal(*outputs)


def test_stages_compute_the_same_under_autocast_and_without_gradients(
    architecture: Architecture, model: nn.Module
) -> None:
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        whole = model(images())
        assert whole.dtype == torch.bfloat16
        assert torch.equal(in_turn(architecture, model, images()), whole)


@WHOLE
def test_the_stages_have_the_models_own_parameters_and_buffers_each_once(name: str) -> None:
    with torch.device("meta"):
        model = ARCHITECTURES[name].build(2, SIZE, "fused")
    names = list(model.state_dict())
    stages = ARCHITECTURES[name].stages(model)
    assert len(stages) == STAGES[name]
    for kind in ("parameters", "buffers"):
        found = [id(tensor) for stage in stages for tensor in getattr(stage, kind)()]
        assert sorted(found) == sorted(id(tensor) for tensor in getattr(model, kind)())
    assert list(model.state_dict()) == names


def test_on_two_devices_gradients_and_running_statistics_are_those_of_one(
    architecture: Architecture, model: nn.Module
) -> None:
    whole = deepcopy(model).double()
    stages = architecture.stages(model.double())
    devices = tuple(Device(torch.device("cpu"), f"stand-in:{index}") for index in range(2))
    placement = Placement(tuple(index % 2 for index in range(len(stages))))
    parts = StagedModel(model, stages, devices, placement)
    for trained in (whole, parts):
        torch.manual_seed(5)
        trained(images(torch.float64)).square().sum().backward()
    for name, parameter in whole.named_parameters():
        found = model.get_parameter(name).grad
        assert found is not None
        assert parameter.grad is not None
        assert torch.equal(found, parameter.grad), name
    for name, buffer in whole.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer)


@pytest.mark.parametrize("name", ["resnet18", "resnet18_se"])
def test_resnet18_can_be_cut_as_published_after_layer1(name: str) -> None:
    with torch.device("meta"):
        model = ARCHITECTURES[name].build(2, SIZE, "fused")
    first = ARCHITECTURES[name].stages(model)[:2]
    found = {id(parameter) for stage in first for parameter in stage.parameters()}
    parts = (model.conv1, model.bn1, model.layer1)
    assert found == {id(parameter) for part in parts for parameter in part.parameters()}


@WHOLE
def test_it_can_be_sent_to_a_loader_worker(name: str) -> None:
    assert pickle.loads(pickle.dumps(ARCHITECTURES[name])) == ARCHITECTURES[name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet", "did you mean resnet18? known are medical_cnn, resnet18, resnet18_se, vit_b_16"),
        ("ResNet-18", "did you mean resnet18?"),
        ("ResNet18-SE", "did you mean resnet18_se?"),
        ("ViT-B/16", "did you mean vit_b_16?"),
        ("vit", "did you mean vit_b_16?"),
        ("medicalcnn", "did you mean medical_cnn?"),
        (
            "yolo",
            "no such model; known are medical_cnn, resnet18, resnet18_se, vit_b_16, vit_b_16_se",
        ),
        ("", "no such model; known are"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, words: str) -> None:
    with pytest.raises(PerfkitError) as error:
        find_architecture(name, 224)
    assert str(error.value).startswith(f"--model {name}: no such model; ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("size", "nearest"), [(100, "96 and 112"), (17, "16 and 32")])
def test_a_size_that_patches_do_not_fill_is_refused_with_the_nearest(
    size: int, nearest: str
) -> None:
    with pytest.raises(PerfkitError) as error:
        find_architecture("vit_b_16", size)
    assert str(error.value) == (
        f"--image-size {size}: vit_b_16 needs a multiple of 16; the nearest are {nearest}"
    )
    assert find_architecture("resnet18", size).name == "resnet18"
