"""Pretrained weights: every layout arrives in its place, and what does not fit is refused."""

from __future__ import annotations

import json
import os
import pickle
import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import small_vit
import torch
from small_vit import SMALL_VIT, SMALL_VIT_SE, hugging_face_logits, hugging_face_state
from torch import Tensor, nn

from perfkit.core.errors import PerfkitError
from perfkit.models.registry import ARCHITECTURES, Architecture
from perfkit.models.weights import HALVES, IMAGENET, load_weights, normalisation_for

SIZE = small_vit.IMAGE
RESNET18, RESNET18_SE = ARCHITECTURES["resnet18"], ARCHITECTURES["resnet18_se"]
PLAIN: dict[str, Callable[[], dict[str, Tensor]]] = {
    "resnet18_se": lambda: RESNET18.build(2, SIZE, "fused").state_dict(),
    "vit_b_16_se": hugging_face_state,
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


def images(size: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(3, 3, size, size, generator=generator, dtype=torch.float64)


def loaded(
    file: Path, architecture: Architecture, *, classes: int = 2, size: int = SIZE
) -> nn.Module:
    model = architecture.build(classes, size, "fused")
    load_weights(model, file, architecture, size)
    return model


def assert_equal(state: dict[str, Tensor], other: dict[str, Tensor], *, but: str = "-") -> None:
    for name, tensor in state.items():
        if not name.startswith(but):
            assert torch.equal(other[name], tensor), name


@pytest.mark.parametrize("architecture", [RESNET18, ARCHITECTURES["medical_cnn"], SMALL_VIT])
def test_of_weights_for_other_classes_all_but_the_head_is_loaded(
    architecture: Architecture, file: Path
) -> None:
    pretrained = architecture.build(7, SIZE, "fused").state_dict()
    torch.save(pretrained, file)
    torch.manual_seed(0)
    model = architecture.build(2, SIZE, "fused")
    new = deepcopy(model.state_dict())
    kept = load_weights(model, file, architecture, SIZE)
    assert kept == [architecture.head + part for part in ("weight", "bias")]
    assert_equal(pretrained, model.state_dict(), but=architecture.head)
    for part in ("weight", "bias"):  # of the head: the model's own
        name = architecture.head + part
        assert torch.equal(model.state_dict()[name], new[name])


@pytest.mark.parametrize("architecture", [RESNET18_SE, SMALL_VIT_SE])
def test_of_weights_of_the_plain_network_all_but_se_is_loaded_and_told(
    architecture: Architecture, file: Path
) -> None:
    pretrained = PLAIN[architecture.name]()
    torch.save(pretrained, file)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(architecture.build(2, SIZE, "fused"))
    model, new = models
    kept = load_weights(model, file, architecture, SIZE)
    assert kept == [name for name in model.state_dict() if ".se." in name]
    assert all(torch.equal(model.state_dict()[name], new.state_dict()[name]) for name in kept)
    adapted = architecture.adapted(pretrained, SIZE)
    assert_equal({key: tensor.float() for key, tensor in adapted.items()}, model.state_dict())
    torch.save(model.state_dict(), file)
    assert load_weights(new, file, architecture, SIZE) == []
    assert_equal(model.state_dict(), new.state_dict())


@pytest.mark.parametrize("architecture", [RESNET18, SMALL_VIT])
def test_a_checkpoint_of_perfkit_and_the_same_number_of_classes_are_loaded_whole(
    architecture: Architecture, file: Path
) -> None:
    trained = architecture.build(2, SIZE, "fused")
    torch.save({"model": trained.state_dict(), "optimizer": {"state": {}}, "epoch": 3}, file)
    assert_equal(trained.state_dict(), loaded(file, architecture).state_dict())


def test_weights_that_lack_the_head_or_the_batch_counters_are_loaded(file: Path) -> None:
    pretrained = RESNET18.build(2, SIZE, "fused").state_dict()
    kept = {
        name: tensor
        for name, tensor in pretrained.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    torch.save(kept, file)
    assert_equal(kept, loaded(file, RESNET18).state_dict())


def test_half_precision_and_the_old_file_format_are_read(file: Path) -> None:
    pretrained = {k: v.half() for k, v in small_vit.build(2, SIZE).state_dict().items()}
    torch.save(pretrained, file, _use_new_zipfile_serialization=False)
    found = loaded(file, SMALL_VIT).state_dict()
    assert found["conv_proj.weight"].dtype == torch.float32
    assert_equal({k: v.float() for k, v in pretrained.items()}, found)


def renamed_by_transformers_5(state: dict[str, Tensor]) -> dict[str, Tensor]:
    new = {
        "encoder.layer.": "layers.",
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    }
    for old, better in new.items():
        state = {name.replace(old, better): tensor for name, tensor in state.items()}
    return state


@pytest.mark.parametrize("layout", [dict, renamed_by_transformers_5])
def test_hugging_faces_weights_say_the_same_in_torchvisions_model(
    layout: Callable[[dict[str, Tensor]], dict[str, Tensor]], file: Path
) -> None:
    state = hugging_face_state()
    torch.save(layout(state), file)
    model = SMALL_VIT.build(2, SIZE, "fused").double()
    load_weights(model, file, SMALL_VIT, SIZE)
    expected = hugging_face_logits(state, images())
    assert expected.std() > 0.1
    torch.testing.assert_close(model(images()), expected, rtol=0, atol=1e-12)


def test_torchvisions_old_names_of_the_mlp_are_known(file: Path) -> None:
    pretrained = small_vit.build(2, SIZE).state_dict()
    old = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
        for name, tensor in pretrained.items()
    }
    assert set(old) != set(pretrained)
    torch.save(old, file)
    assert_equal(pretrained, loaded(file, SMALL_VIT).state_dict())


@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("hugging_face", [True, False])
def test_position_embeddings_are_interpolated_to_another_image_size(
    size: int, hugging_face: bool, file: Path
) -> None:
    if hugging_face:
        state = hugging_face_state()
        positions = state["vit.embeddings.position_embeddings"]
    else:
        state = small_vit.build(2, SIZE).state_dict()
        positions = state["encoder.pos_embedding"]
    # Along x the embedding is a ramp, whose interpolation is a ramp of more points.
    positions[0, 1:, 0] = torch.tensor([0.0, 1.0, 2.0]).repeat(3)
    torch.save(state, file)
    model = loaded(file, SMALL_VIT, size=size)
    found = model.get_parameter("encoder.pos_embedding")
    side = size // 16
    assert found.shape == (1, side**2 + 1, small_vit.WIDTH)
    assert torch.equal(found[0, 0], positions[0, 0].float())
    ramp = found[0, 1:, 0].view(side, side)
    assert torch.allclose(ramp[:, 0], torch.zeros(side), atol=1e-6)
    assert torch.allclose(ramp[:, -1], torch.full((side,), 2.0), atol=1e-6)
    assert (ramp.diff(dim=1) > 0).all()
    assert model(images(size).float()).shape == (3, 2)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(PerfkitError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("architecture", "state", "words"),
    [
        pytest.param(
            RESNET18,
            lambda: ARCHITECTURES["medical_cnn"].build(2, SIZE, "fused").state_dict(),
            "does not fit --model resnet18 (of 122 names 100 missing, first 'conv1.weight'; ",
            id="medical_cnn for resnet18",
        ),
        pytest.param(
            ARCHITECTURES["medical_cnn"],
            lambda: RESNET18.build(2, SIZE, "fused").state_dict(),
            "does not fit --model medical_cnn (of ",
            id="resnet18 for medical_cnn",
        ),
        pytest.param(
            RESNET18,
            hugging_face_state,
            "40 unknown, first 'vit.embeddings.cls_token'",
            id="transformers' ViT for resnet18",
        ),
        pytest.param(
            SMALL_VIT,
            lambda: {"vit.embeddings.cls_token": torch.zeros(1, 1, 8), "vit.pooler": torch.ones(1)},
            "1 unknown, first 'vit.pooler'",
            id="a part of a ViT",
        ),
        pytest.param(
            SMALL_VIT,
            lambda: without(
                hugging_face_state(), "vit.encoder.layer.1.attention.attention.key.weight"
            ),
            "first 'encoder.layers.encoder_layer_1.self_attention.in_proj_weight'; 2 unknown",
            id="no key",
        ),
        pytest.param(
            SMALL_VIT,
            lambda: hugging_face_state() | {"vit.layernorm.bias": torch.zeros(9)},
            "1 of another shape, first 'encoder.ln.bias'",
            id="another width",
        ),
        pytest.param(
            SMALL_VIT,
            lambda: (
                hugging_face_state() | {"vit.embeddings.position_embeddings": torch.zeros(1, 9, 8)}
            ),
            "does not fit --model vit_b_16 (seq_length is not a perfect square!",
            id="patches that make no square",
        ),
        pytest.param(
            SMALL_VIT,
            lambda: {"encoder.pos_embedding": torch.zeros(3)},
            "does not fit --model vit_b_16 (",
            id="embedding of one dimension",
        ),
        pytest.param(
            RESNET18,
            lambda: without(
                RESNET18.build(2, SIZE, "fused").state_dict(), "layer1.0.bn1.running_mean"
            ),
            "(of 122 names 1 missing, first 'layer1.0.bn1.running_mean')",
            id="one missing",
        ),
        pytest.param(
            RESNET18,
            lambda: RESNET18_SE.build(2, SIZE, "fused").state_dict(),
            "(of 122 names 16 unknown, first 'layer1.0.se.fc1.weight')",
            id="one with SE for the plain one",
        ),
        pytest.param(
            RESNET18_SE,
            lambda: without(
                RESNET18_SE.build(2, SIZE, "fused").state_dict(), "layer4.1.se.fc2.weight"
            ),
            "(of 138 names 1 missing, first 'layer4.1.se.fc2.weight')",
            id="a part of SE missing",
        ),
        pytest.param(
            ARCHITECTURES["medical_cnn"],
            lambda: {
                name: tensor
                for name, tensor in ARCHITECTURES["medical_cnn"]
                .build(2, SIZE, "fused")
                .state_dict()
                .items()
                if ".se." not in name
            },
            "32 missing, first 'stage1.0.se.fc1.weight'",
            id="MedicalCNN without its SE",
        ),
        pytest.param(
            RESNET18,
            lambda: {"a\nb": torch.zeros(1)},
            "1 unknown, first 'a\\nb'",
            id="a name of two lines",
        ),
    ],
)
def test_weights_of_another_model_are_refused_with_what_does_not_fit(
    architecture: Architecture, state: Callable[[], dict[str, Tensor]], words: str, file: Path
) -> None:
    torch.save(state(), file)
    message = refusal(lambda: loaded(file, architecture))
    assert message.startswith(f"--weights {file}: does not fit --model {architecture.name} (")
    assert words in message


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("hostile",)


def write_torch(path: Path, value: Any) -> None:
    torch.save(value, path)


def write_pickle(path: Path, value: Any) -> None:
    path.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("write", [write_torch, write_pickle])
def test_code_in_a_pickle_is_refused_and_not_run(
    write: Callable[[Path, Any], None],
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(file, {"conv1.weight": Hostile()})
    message = refusal(lambda: normalisation_for(file))
    assert message.startswith(f"--weights {file}: holds more than tensors")
    assert not (tmp_path / "hostile").exists()


@pytest.mark.parametrize("new_format", [True, False])
def test_a_damaged_file_is_refused_in_one_line(new_format: bool, file: Path) -> None:
    torch.save(nn.Linear(30, 30).state_dict(), file, _use_new_zipfile_serialization=new_format)
    content = file.read_bytes()
    random_bytes = random.Random(0).randbytes
    damaged = [content[: len(content) * share // 10] for share in range(10)]
    damaged += [random_bytes(200), b"a text\nof two lines\n", content[:50] + bytes(300)]
    for part in damaged:
        file.write_bytes(part)
        message = refusal(lambda: normalisation_for(file))
        assert message.startswith(f"--weights {file}: ")


@pytest.mark.parametrize(
    "value",
    [
        [torch.zeros(1)],
        torch.zeros(1),
        {},
        {"model": {}},
        {"weight": 1.0},
        {1: torch.zeros(1)},
        {"epoch": 3, "model_state": {"weight": torch.zeros(1)}},
        {"model": {"weight": [1]}},
        None,
    ],
)
def test_what_is_no_state_dict_is_refused(value: Any, file: Path) -> None:
    torch.save(value, file)
    message = refusal(lambda: normalisation_for(file))
    assert message.startswith(f"--weights {file}: holds no state dict; expected what torch.save(")


def test_a_missing_file_a_folder_and_safetensors_are_refused(tmp_path: Path) -> None:
    gone = tmp_path / "gone.pth"
    assert refusal(lambda: normalisation_for(gone)).startswith(f"--weights {gone}: cannot be read")
    assert "cannot be read" in refusal(lambda: normalisation_for(tmp_path))
    safe = tmp_path / "model.safetensors"
    safe.write_bytes((40).to_bytes(8, "little") + b'{"a": {"dtype": "F32", "shape": [0]}}')
    assert "with safetensors.torch.load_file" in refusal(lambda: normalisation_for(safe))


def test_the_normalisation_is_imagenets_unless_the_weights_say_otherwise(file: Path) -> None:
    assert normalisation_for(None) == IMAGENET
    assert IMAGENET[:2] == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.save(RESNET18.build(2, SIZE, "fused").state_dict(), file)
    assert normalisation_for(file) == IMAGENET
    torch.save(hugging_face_state(), file)
    assert normalisation_for(file) == HALVES
    assert HALVES[:2] == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    said = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3], "do_resize": True}
    file.with_name("preprocessor_config.json").write_text(json.dumps(said))
    found = normalisation_for(file)
    assert found[:2] == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert str(found) == "mean 0.1, 0.2, 0.3; std 1, 2, 3 (preprocessor_config.json)"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "it does not tell how images are normalised (Invalid JSON: "),
        ("\xff", "it does not tell how images are normalised (Invalid JSON: "),
        ("[]", "it does not tell how images are normalised ("),
        ("{}", "image_mean does not tell how images are normalised (field required)"),
        ('{"image_mean": [0, 0, 0], "image_std": [1, 1]}', "image_std.2 does not tell how"),
        ('{"image_mean": [0, 0, 0], "image_std": [1, 1, 0]}', "image_std.2 does not tell how"),
        ('{"image_mean": 0.5, "image_std": 0.5}', "image_mean does not tell how"),
    ],
)
def test_a_preprocessor_config_that_does_not_say_it_is_refused(
    content: str, words: str, file: Path
) -> None:
    torch.save(RESNET18.build(2, SIZE, "fused").state_dict(), file)
    beside = file.with_name("preprocessor_config.json")
    beside.write_text(content, encoding="latin-1")
    message = refusal(lambda: normalisation_for(file))
    assert message.startswith(f"{beside}: ")
    assert words in message


def test_a_checkpoint_says_itself_how_images_were_normalised(file: Path) -> None:
    state = {"fc.bias": torch.zeros(2)}
    said = ((0.5, 0.4, 0.3), (0.2, 0.1, 0.6), "preprocessor_config.json")
    torch.save({"model": state, "normalisation": said}, file)
    assert normalisation_for(file) == said
    torch.save({"model": state, "normalisation": None}, file)
    assert normalisation_for(file) == IMAGENET


@pytest.mark.parametrize(
    "said", [3, ((0.5,), (0.5,), "x"), ((0.5, 0.5, 0.5), (0.5, 0.0, 0.5), "x")]
)
def test_a_checkpoint_with_a_senseless_normalisation_is_refused(file: Path, said: object) -> None:
    torch.save({"model": {"fc.bias": torch.zeros(2)}, "normalisation": said}, file)
    assert "its normalisation makes no sense" in refusal(lambda: normalisation_for(file))
