"""What all classifiers of photographs share: model by name, weights, normalisation, loss."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from small_vit import hugging_face_state
from torch import nn

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.ops import SqueezeExcite
from perfkit.workloads.base import stages_of
from perfkit.workloads.classification import ImageClassification, inverse_counts
from perfkit.workloads.forensics import Forensics
from perfkit.workloads.glaucoma import Glaucoma

BOTH = pytest.mark.parametrize("workload", [Forensics, Glaucoma])
SIZE = 16


def resolved(**options: object) -> RunConfig:
    return RunConfig.model_validate({"image_size": SIZE, "local_batch": 2, **options})


@BOTH
def test_a_workload_in_a_loader_worker_makes_the_same_batches(
    workload: type[ImageClassification],
) -> None:
    here = workload(resolved())
    there: ImageClassification = pickle.loads(pickle.dumps(here))
    samples = [here.dataset("train")[index] for index in (3, 4)]
    for found, expected in zip(
        there.collate(samples, [7, 8]), here.collate(samples, [7, 8]), strict=True
    ):
        assert torch.equal(found, expected)
    assert there.dataset("train")[5][0].equal(here.dataset("train")[5][0])


@BOTH
def test_weights_are_loaded_into_a_new_model_and_say_how_images_are_normalised(
    workload: type[ImageClassification], tmp_path: Path
) -> None:
    pretrained = workload(resolved(model="resnet18")).model()
    torch.save(pretrained.state_dict(), tmp_path / "resnet18.pth")
    config = resolved(model="resnet18", weights=tmp_path / "resnet18.pth")
    started = workload(config)
    for name, tensor in started.model().state_dict().items():
        assert torch.equal(tensor, pretrained.state_dict()[name])
    assert str(started.normalisation) == (
        "mean 0.485, 0.456, 0.406; std 0.229, 0.224, 0.225 (ImageNet)"
    )
    torch.save(hugging_face_state(), tmp_path / "vit.bin")
    other = workload(resolved(model="vit_b_16", weights=tmp_path / "vit.bin"))
    assert str(other.normalisation) == "mean 0.5, 0.5, 0.5; std 0.5, 0.5, 0.5 (Hugging Face's ViT)"
    samples = [started.dataset("val")[index] for index in (0, 1)]
    by_imagenet, by_halves = (w.collate(samples, None)[0] for w in (started, other))
    mean, std = (torch.tensor(part)[:, None, None] for part in (IMAGENET_MEAN, IMAGENET_STD))
    assert torch.allclose(by_imagenet * std + mean, by_halves * 0.5 + 0.5, atol=1e-6)
    with pytest.raises(PerfkitError, match="does not fit --model vit_b_16 "):
        other.model()


@BOTH
def test_weights_of_the_plain_network_start_one_with_se_and_what_they_lack_is_told(
    workload: type[ImageClassification], tmp_path: Path
) -> None:
    pretrained = workload(resolved(model="resnet18")).model()
    torch.save(pretrained.state_dict(), tmp_path / "resnet18.pth")
    for model, lacking in (("resnet18_se", 16), ("resnet18", 0)):
        started = workload(resolved(model=model, weights=tmp_path / "resnet18.pth"))
        found = started.model()
        assert len(started.new_parameters) == lacking
        assert torch.equal(found.get_parameter("conv1.weight"), pretrained.conv1.weight)


@pytest.mark.parametrize("ops", ["fused", "reference"])
def test_the_model_is_built_with_the_operators_that_are_asked_for(ops: str) -> None:
    for name in ("medical_cnn", "resnet18_se"):
        model = Glaucoma(resolved(model=name, ops=ops)).model()
        assert {m.ops for m in model.modules() if isinstance(m, SqueezeExcite)} == {ops}


def test_a_workload_says_whether_its_model_has_se() -> None:
    class Own(Glaucoma):
        def model(self) -> nn.Module:
            return nn.Linear(1, 1)

    assert Glaucoma.has_squeeze_excite(RunConfig())
    assert not Forensics.has_squeeze_excite(RunConfig())
    assert not Own.has_squeeze_excite(RunConfig())
    for name, expected in {"vit_b_16": False, "vit_b_16_se": True, "unheard-of": False}.items():
        assert Forensics.has_squeeze_excite(RunConfig(model=name)) == expected


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("workload", "name"),
    [
        (Forensics, "medical_cnn"),
        (Forensics, "vit_b_16"),
        (Glaucoma, "resnet18_se"),
        (Glaucoma, "vit_b_16_se"),
    ],
)
def test_any_model_goes_with_any_workload_and_is_cut_into_stages(
    workload: type[ImageClassification], name: str
) -> None:
    system = workload(resolved(model=name))
    model = system.model()
    inputs, targets = system.collate([system.dataset("train")[i] for i in (0, 1)], [1, 2])
    with torch.no_grad():
        losses, weights = system.loss(model(inputs), targets)
    assert losses.shape == weights.shape == (2,)
    assert torch.isfinite(losses).all()
    stages = stages_of(system, model)  # type: ignore[arg-type]
    assert stages is not None
    assert len(stages) == (14 if name.startswith("vit") else 5)


@BOTH
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": "nowhere"}, "--data nowhere: is not a folder"),
        ({"model": "resnet-18", "data": "nowhere"}, "did you mean resnet18?"),
        ({"model": "vit_b_16", "image_size": 90, "data": "nowhere"}, "the nearest are 80 and 96"),
        ({"weights": "gone.pth", "data": "nowhere"}, "--weights gone.pth: cannot be read"),
    ],
)
def test_what_cannot_be_is_refused_before_any_data_are_read(
    workload: type[ImageClassification],
    options: dict[str, object],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PerfkitError) as error:
        workload(resolved(**options))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_are_inverse_counts_that_sum_to_one() -> None:
    weights = inverse_counts(torch.tensor([0] * 30 + [1] * 10 + [2] * 60))
    assert weights.tolist() == pytest.approx([2 / 9, 6 / 9, 1 / 9])
