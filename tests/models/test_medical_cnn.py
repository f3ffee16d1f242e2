"""MedicalCNN is the published network, part by part."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from perfkit.models.medical_cnn import MedicalCNN, ResidualBlock


@pytest.fixture(scope="module")
def model() -> MedicalCNN:
    return MedicalCNN()


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def leaves(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if not list(module.children())]


def test_it_has_the_published_number_of_parameters(model: MedicalCNN) -> None:
    assert parameter_count(model) == 22_494_274


@pytest.mark.parametrize(
    ("part", "count"),
    [
        ("stem", 9_536),
        ("stage1", 223_488),
        ("stage2", 1_124_608),
        ("stage3.blocks", 6_871_552),
        ("stage3.multi_dilated", 656_384),
        ("stage4.blocks", 13_212_672),
        ("stage4.head", 396_034),
    ],
)
def test_each_part_has_the_published_number_of_parameters(
    model: MedicalCNN, part: str, count: int
) -> None:
    assert parameter_count(model.get_submodule(part)) == count


def test_it_has_76_weighted_layers_and_43_batch_norms(model: MedicalCNN) -> None:
    found = leaves(model)
    assert len([m for m in found if isinstance(m, nn.Conv2d)]) == 41
    assert len([m for m in found if isinstance(m, nn.Linear)]) == 35
    assert len([m for m in found if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]) == 43


def test_only_the_first_blocks_of_stages_2_to_4_have_a_convolution_in_their_shortcut(
    model: MedicalCNN,
) -> None:
    stages = [model.stage1, model.stage2, model.stage3, model.stage4]
    blocks = [[b for b in stage.modules() if isinstance(b, ResidualBlock)] for stage in stages]
    assert [len(stage) for stage in blocks] == [3, 4, 6, 3]
    assert [[b.shortcut is not None for b in stage].index(True) for stage in blocks[1:]] == [0] * 3
    assert sum(b.shortcut is not None for stage in blocks for b in stage) == 3


def test_relu_is_never_in_place_and_se_linears_have_no_bias(model: MedicalCNN) -> None:
    assert not any(m.inplace for m in model.modules() if isinstance(m, nn.ReLU))
    gates = [m.se for m in model.modules() if isinstance(m, ResidualBlock)]
    assert all(gate.fc1.bias is None and gate.fc2.bias is None for gate in gates)


def test_the_multi_dilated_branches_keep_the_size_at_every_dilation(model: MedicalCNN) -> None:
    convs = [branch[0] for branch in model.stage3.multi_dilated.branches]
    assert [conv.dilation for conv in convs] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert [conv.padding for conv in convs] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert [conv.out_channels for conv in convs] == [64] * 4


def test_calling_the_stages_in_turn_is_calling_the_model(model: MedicalCNN) -> None:
    model.eval()
    images = torch.randn(2, 3, 64, 64)
    x = images
    for stage in model.stages():
        x = stage(x)
    assert torch.equal(x, model(images))
    covered = {id(p) for stage in model.stages() for p in stage.parameters()}
    assert covered == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("size", [32, 96, 97])
def test_logits_are_finite_and_of_the_right_shape_for_any_size(
    model: MedicalCNN, size: int
) -> None:
    model.train()
    logits = model(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 2)
    assert torch.isfinite(logits).all()
