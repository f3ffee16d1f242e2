"""Which values of ``--preprocess`` a workload takes, and what it may not say of them."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from perfkit.core.config import RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.engine.preprocessing import settle_preprocess
from perfkit.workloads.base import preprocess_of
from perfkit.workloads.forensics import Forensics
from perfkit.workloads.glaucoma import Glaucoma


def with_choices(choices: object, **members: object) -> Any:
    return type("Mine", (tiny.Tiny,), {"preprocess_choices": choices, **members})


def refusal(workload: Any) -> str:
    with pytest.raises(PerfkitError) as caught:
        preprocess_of(workload)
    return str(caught.value)


def test_the_own_value_comes_first_and_a_workload_may_take_none() -> None:
    assert preprocess_of(Glaucoma)[0] == "loader"
    assert preprocess_of(Forensics)[0] == "none"
    assert preprocess_of(tiny.Tiny) == preprocess_of(with_choices(())) == ()
    assert preprocess_of(with_choices(["none", "loader"])) == ("none", "loader")
    device = with_choices(("device",), prepare=lambda self, inputs, seeds: inputs)
    assert preprocess_of(device) == ("device",)


@pytest.mark.parametrize("choices", [5, None, "none", (5,), property(lambda self: ("none",))])
def test_choices_that_are_no_tuple_of_names_are_refused_in_one_line(choices: object) -> None:
    assert refusal(with_choices(choices)) == (
        "workload Mine: its preprocess_choices has to be a tuple of names, as in "
        '("loader", "none"), on the class itself'
    )


@pytest.mark.parametrize(
    ("value", "members"),
    [
        ("gpu", {}),
        ("device", {}),
        ("device", {"prepare": None}),
        ("offline", {}),
        ("offline", {"stored": "runs"}),
    ],
)
def test_a_value_that_is_unknown_or_lacks_its_method_is_refused_in_one_line(
    value: str, members: dict[str, object]
) -> None:
    assert refusal(with_choices(("loader", value), **members)) == (
        f"workload Mine: its preprocess_choices has {value!r}; it can have none, loader, device "
        "(with a method prepare) and offline (with a method stored)"
    )


class Plain(Glaucoma):
    preprocess_choices = ()


def test_photographs_of_a_workload_that_takes_none_are_not_enhanced() -> None:
    config = RunConfig(workload="test_preprocess_choices:Plain", image_size=16, local_batch=2)
    assert settle_preprocess(config, on_cuda=False) is None
    with pytest.raises(PerfkitError, match="has no preprocessing of that kind; leave it out"):
        settle_preprocess(config.model_copy(update={"preprocess": "none"}), on_cuda=False)
    plain = Plain(config)
    bare = Glaucoma(config.model_copy(update={"workload": "glaucoma", "preprocess": "none"}))
    samples = [plain.dataset("train")[index] for index in (0, 1)]
    inputs, targets = plain.collate(samples, [1, 2])
    expected, labels = bare.collate(samples, [1, 2])
    assert torch.equal(inputs, expected)
    assert torch.equal(targets, labels)
    assert plain.implementation == ""
