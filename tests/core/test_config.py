"""ProfileConfig refuses what cannot be meant, and a TOML file is held to the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from perfkit.core.config import ProfileConfig, read_toml
from perfkit.core.errors import PerfkitError


def test_the_default_is_serial_training_of_the_built_in_workload_with_weak_scaling() -> None:
    config = ProfileConfig()
    assert (config.workload, config.strategy, config.scaling) == ("glaucoma", "serial", "weak")


@pytest.mark.parametrize(
    ("batch", "scaling"), [({"global_batch": 8}, "strong"), ({"local_batch": 8}, "weak")]
)
def test_the_batch_that_is_fixed_decides_the_scaling_mode(
    batch: dict[str, int], scaling: str
) -> None:
    assert ProfileConfig(**batch).scaling == scaling


@pytest.mark.parametrize(
    ("baseline", "reason"),
    [
        ("fast", "has to be serial, none, or another value of one of precision, threads"),
        ("gpus=4", "has to be serial, none, or another value"),  # another layout
        ("workers", "has to be serial, none, or another value"),
        ("workers=many", "should be a valid integer"),
        ("precision=fp8", "should be 'fp32', 'tf32', 'bf16' or 'fp16'"),
        ("workers=0", "is what the run itself has"),
        ("local-batch=1", "greater than or equal to 2"),
        ((), "baseline is empty"),
        (("workers=1", "workers=01"), "is named twice"),
        (("none", "workers=1"), "leaves nothing to measure beside"),
    ],
)
def test_a_baseline_that_cannot_be_made_is_refused_by_name(baseline: Any, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ProfileConfig(local_batch=4, baseline=baseline)
    named = baseline if isinstance(baseline, str) else " ".join(baseline[-1:])
    assert f"--baseline {named}: " in str(caught.value) or named in {"", "workers=1"}
    assert reason in str(caught.value)


def test_one_baseline_may_be_named_without_brackets() -> None:
    assert ProfileConfig(baseline="none").baseline == ("none",)


def test_both_batches_at_once_are_refused_with_what_each_of_them_fixes() -> None:
    with pytest.raises(ValidationError, match=r"exclude each other.*strong.*weak"):
        ProfileConfig(global_batch=8, local_batch=4)


@pytest.mark.parametrize(
    "asked",
    [
        {"gpus": 0},
        {"ranks": 0},
        {"threads": 0},
        {"workers": -1},
        {"local_batch": 1},  # BatchNorm over features cannot train on one sample
        {"global_batch": 1},
        {"image_size": 15},
        {"seed": -1},
        {"seed": 2**31},
        {"steps": 0},
        {"rounds": 1},  # one round has no interval
        {"warmup": 2},  # fewer than the window that has to be stable
        {"trace_steps": -1},
        {"strategy": "pipeline"},
        {"placement": "random"},
        {"device": "tpu"},
        {"baseline": "ddp"},
        {"name": "../elsewhere"},
        {"name": ""},
        {"local_bach": 4},
    ],
)
def test_an_impossible_value_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ProfileConfig(**asked)


def test_a_config_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ProfileConfig().seed = 1  # type: ignore[misc]


def toml(folder: Path, text: str) -> Path:
    path = folder / "options.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_toml_file_gives_exactly_its_options_each_of_its_type(tmp_path: Path) -> None:
    path = toml(tmp_path, 'data = "photos"\nsteps = 20\noversubscribe = true\n')
    assert read_toml(path, ProfileConfig) == {
        "data": Path("photos"),
        "steps": 20,
        "oversubscribe": True,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps = [1]", r"steps = \[1\]: input should be a valid integer"),
        ('steps = "many"', "steps = 'many': input should be a valid integer"),
        ("local_batch = 1", "local_batch = 1: input should be greater than or equal to 2"),
        ('strategy = "pipeline"', "strategy = 'pipeline': input should be 'serial', 'ddp'"),
        ("global_batch = 8\nlocal_batch = 4", "exclude each other"),
        ("bach = 4", "unknown option 'bach'; known are workload, model"),
        ("steps = ", "is not TOML"),
        ("[run]\nsteps = 4", "unknown option 'run'"),
    ],
)
def test_a_toml_file_that_asks_for_the_impossible_is_refused_in_one_line_naming_it(
    tmp_path: Path, text: str, said: str
) -> None:
    path = toml(tmp_path, text)
    with pytest.raises(PerfkitError, match=said) as caught:
        read_toml(path, ProfileConfig)
    assert str(caught.value).startswith(f"--config {path}: ")
    assert "\n" not in str(caught.value)


def test_a_toml_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PerfkitError, match=r"nowhere\.toml: cannot be read \(No such file"):
        read_toml(tmp_path / "nowhere.toml", ProfileConfig)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PerfkitError, match="is not TOML"):
        read_toml(binary, ProfileConfig)
