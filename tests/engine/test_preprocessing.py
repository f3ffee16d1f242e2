"""Wherever images are preprocessed and by whichever operator, the model gets the same inputs."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks
import tiny
import torch
from torch import Tensor

from perfkit.core.config import ProfileConfig, RunConfig
from perfkit.core.errors import PerfkitError
from perfkit.data.synthetic_fundus import write_smdg
from perfkit.engine import offline
from perfkit.engine.loading import Batch, endless_batches, fixed_batch, shard_loader
from perfkit.engine.offline import have_stored
from perfkit.engine.preprocessing import preprocesses, settle_preprocess
from perfkit.engine.training import Training
from perfkit.measure.recorder import PHASES, StepRecorder
from perfkit.ops import native
from perfkit.strategies.base import Device, Mesh
from perfkit.workloads.base import load_workload, prepare_of
from perfkit.workloads.classification import ImageClassification

CPU = torch.device("cpu")
ALONE = Mesh(rank=0, world_size=1, devices=(Device(CPU, "cpu"),))
SIZE = 40  # which the grid divides; the other is for the padding
PLACEMENTS = ("loader", "device", "offline")
OPERATORS = ("fused", "reference")
WAYS = list(itertools.product(PLACEMENTS, OPERATORS))


@pytest.fixture(scope="module", autouse=True)
def _photos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder of photographs in the working directory, where stored sets go too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("photos"))
        write_smdg(Path("smdg"), {"train": 10, "val": 5, "test": 2}, size=70, seed=3)
        yield


@pytest.fixture(autouse=True)
def _made_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting the processes that make a set takes seconds."""
    monkeypatch.setattr(offline, "available_cores", lambda: 0)


def config_of(preprocess: str, ops: str, **changes: Any) -> RunConfig:
    facts = {"data": Path("smdg"), "image_size": SIZE, "preprocess": preprocess, "ops": ops}
    return RunConfig.model_validate(facts | changes)


def workload_of(config: RunConfig, mesh: Mesh = ALONE) -> ImageClassification:
    workload = load_workload(config.workload)(config)
    assert isinstance(workload, ImageClassification)
    for split in ("train", "val"):
        have_stored(workload, split, config, mesh)
    return workload


def ready(workload: ImageClassification, config: RunConfig, batch: Batch) -> Tensor:
    """Return the inputs of a batch as they reach the model."""
    prepare = prepare_of(workload, config)
    return batch.inputs if prepare is None else prepare(batch.inputs, batch.seeds)


def training_inputs(config: RunConfig, mesh: Mesh = ALONE, count: int = 6) -> Tensor:
    """Return the inputs of the first batches of one rank, over more than an epoch."""
    workload = workload_of(config, mesh)
    batches = endless_batches(workload, config, mesh, 4)
    found = [ready(workload, config, batch) for batch in islice(batches, count)]
    batches.close()
    return torch.cat(found)


def evaluation_inputs(config: RunConfig, mesh: Mesh = ALONE) -> Tensor:
    workload = workload_of(config, mesh)
    loader = shard_loader(workload, workload.dataset("val"), config, mesh, 2)
    return torch.cat([ready(workload, config, batch) for batch in loader])


@pytest.mark.parametrize("size", [SIZE, 33])
@pytest.mark.parametrize("data", [Path("smdg"), None])
def test_the_operator_leaves_the_same_bytes_in_every_way(size: int, data: Path | None) -> None:
    found = []
    for placement, ops in WAYS:
        config = config_of(placement, ops, image_size=size, data=data)
        if data is None and placement == "offline":
            continue  # 960 photographs would have to be drawn
        workload = workload_of(config)
        images = torch.stack([workload.dataset("train")[index][0] for index in range(4)])
        assert images.dtype == torch.uint8
        found.append(images if placement == "offline" else workload._enhance(images))
    assert all(torch.equal(other, found[0]) for other in found)
    assert not torch.equal(found[0], torch.stack([workload.dataset("train")[0][0]] * 4))


@pytest.mark.parametrize("name", ["glaucoma", "forensics"])
def test_training_and_evaluation_see_the_same_inputs_in_every_way(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "forensics":  # of the same folder, to be told apart by what it does with it
        forensics = load_workload("forensics")
        glaucoma = load_workload("glaucoma")
        monkeypatch.setattr(forensics, "read_folder", glaucoma.read_folder)  # type: ignore[attr-defined]
    configs = [config_of(placement, ops, workload=name) for placement, ops in WAYS]
    trained = [training_inputs(config) for config in configs]
    evaluated = [evaluation_inputs(config) for config in configs]
    for (placement, ops), inputs, others in zip(WAYS, trained, evaluated, strict=True):
        assert inputs.dtype == others.dtype == torch.float32
        assert torch.equal(inputs, trained[0]), (placement, ops)
        assert torch.equal(others, evaluated[0]), (placement, ops)
    without = training_inputs(config_of("none", "fused", workload=name))
    assert not torch.equal(without, trained[0])
    repeats = {len(np.unique(inputs.numpy(), axis=0)) for inputs in (without, trained[0])}
    assert repeats == ({10} if name == "forensics" else {24})  # augmented: never twice the same


def test_workers_and_a_larger_image_change_nothing() -> None:
    """The contrast of an augmented image is a sum over its pixels, whose order threads decide."""
    seen = [
        training_inputs(config_of(placement, "fused", workers=workers, image_size=224), count=2)
        for placement, workers in (("loader", 0), ("loader", 1), ("device", 1))
    ]
    assert all(torch.equal(other, seen[0]) for other in seen)


def test_the_correctness_gate_and_the_placement_of_stages_see_prepared_inputs() -> None:
    found = []
    for placement, ops in WAYS:
        config = config_of(placement, ops)
        workload = workload_of(config)
        samples = [workload.dataset("train")[index] for index in (0, 1)]
        inputs, targets = fixed_batch(workload, config, samples, CPU)
        assert (inputs.dtype, inputs.shape) == (torch.float32, (2, 3, SIZE, SIZE))
        assert targets.tolist() == [0, 0]
        found.append(inputs)
    assert all(torch.equal(other, found[0]) for other in found)


@pytest.mark.parametrize(
    ("placement", "ops", "workers"),
    [*((placement, ops, 0) for placement, ops in WAYS), ("loader", "fused", 1)],
)
def test_what_ran_is_told_by_whoever_ran_it(placement: str, ops: str, workers: int) -> None:
    expected = f"fused {native.build_info().isa}" if ops == "fused" else ops
    config = config_of(placement, ops, workers=workers)
    workload = workload_of(config)
    batches = endless_batches(workload, config, ALONE, 4)
    batch = next(batches)
    batches.close()
    if placement == "device":
        assert batch.implementation == workload.implementation == ""
        ready(workload, config, batch)
        assert workload.implementation == expected
    else:
        assert batch.implementation == expected


def test_nothing_is_told_where_nothing_ran() -> None:
    config = config_of("none", "fused")
    workload = workload_of(config)
    assert next(endless_batches(workload, config, ALONE, 4)).implementation == ""


def inputs_on_a_rank(mesh: Mesh) -> dict[str, Any]:
    torch.set_num_threads(1 + mesh.rank)
    offline.available_cores = lambda: 0  # the fixture is the parent's
    told = io.StringIO()
    configs = {
        f"{placement} {ops}": config_of(placement, ops, seed=1, runs=Path("runs-of-two"))
        for placement, ops in WAYS
    }
    with contextlib.redirect_stderr(told):
        return {
            **{f"train {way}": training_inputs(config, mesh) for way, config in configs.items()},
            **{f"val {way}": evaluation_inputs(config, mesh) for way, config in configs.items()},
            "told": told.getvalue(),
        }


def test_two_ranks_share_the_batches_of_one_in_every_way_and_one_of_them_stores(
    tmp_path: Path,
) -> None:
    first, second = ranks.on_two_ranks(inputs_on_a_rank, tmp_path)
    told = first["told"] + second["told"]
    for ops in OPERATORS:
        for split in ("train", "val"):
            assert told.count(f"the stored {split} set was made in") == len(OPERATORS)
        alone = training_inputs(config_of("loader", ops, seed=1))
        for placement in PLACEMENTS:
            shares = [rank[f"train {placement} {ops}"] for rank in (first, second)]
            joined = [torch.cat(part) for part in zip(*(s.split(2) for s in shares), strict=True)]
            assert torch.equal(torch.cat(joined), alone), (placement, ops)
            parts = [rank[f"val {placement} {ops}"] for rank in (first, second)]
            whole = evaluation_inputs(config_of("loader", ops, seed=1))
            assert torch.equal(parts[0], whole[0::2])
            assert torch.equal(parts[1], whole[1::2])
    assert len(list(Path("runs-of-two/preprocessed").iterdir())) == 4  # splits x operators


def test_a_set_is_made_once_told_of_and_made_anew_where_it_is_damaged(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # in processes of their own, as users have it
    config = config_of("offline", "fused", runs=Path("damaged"))
    workload = load_workload("glaucoma")(config)
    taken_s = have_stored(workload, "train", config, ALONE)
    folder = workload.stored("train").folder  # type: ignore[attr-defined]
    assert taken_s is not None
    said = capfd.readouterr().err.splitlines()
    assert said[0] == (f"perfkit: the stored train set {folder} is not there: making 10 images")
    assert said[-1].startswith("perfkit: the stored train set was made in ")
    assert have_stored(workload, "train", config, ALONE) is None
    assert capfd.readouterr().err == ""
    content = (folder / "images.npy").read_bytes()
    (folder / "images.npy").write_bytes(content[:-1])
    assert have_stored(load_workload("glaucoma")(config), "train", config, ALONE) is not None
    assert f"{folder} is damaged: making 10 images" in capfd.readouterr().err
    assert (folder / "images.npy").read_bytes() == content
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert have_stored(workload, "train", config_of("loader", "fused"), ALONE) is None


def test_an_image_that_cannot_be_read_ends_the_making_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    write_smdg(Path("broken"), {"train": 10}, size=20, seed=0)
    config = config_of("offline", "fused", data=Path("broken"))
    workload = load_workload("glaucoma")(config)
    photo = next(Path("broken/train/0").iterdir())
    photo.write_bytes(photo.read_bytes()[:40])  # after the folder was looked through
    with pytest.raises(PerfkitError) as caught:
        have_stored(workload, "train", config, ALONE)
    assert str(caught.value).startswith(f"{photo}: cannot be decoded (")
    assert "\n" not in str(caught.value)


class OnDevice(tiny.Tiny):
    """A workload of one's own whose inputs are doubled on the device."""

    preprocess_choices = ("loader", "device")

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._on_device = config.preprocess == "device"
        self.prepared: list[Any] = []

    def collate(self, samples: Any, seeds: Any) -> tuple[Tensor, Tensor]:
        inputs, targets = super().collate(samples, seeds)
        return (inputs if self._on_device else 2 * inputs), targets

    def prepare(self, inputs: Tensor, seeds: Any) -> Tensor:
        self.prepared.append(seeds)
        return 2 * inputs


class Unaware(tiny.Tiny):
    """It was there first, and has the names for purposes of its own."""

    def preprocess(self, images: Tensor) -> Tensor:
        raise AssertionError

    prepare = stored = implementation = preprocess


def settled(workload: str, **options: Any) -> str | None:
    config = ProfileConfig.model_validate({"workload": workload, **options})
    return settle_preprocess(config, on_cuda=False)


def test_what_is_not_said_is_as_published() -> None:
    assert settled("glaucoma") == "loader"
    assert settled("forensics") == "none"
    assert settled("tiny:Tiny") is None
    assert settled("test_preprocessing:OnDevice") == "loader"
    found = [preprocesses(config_of(placement, "fused")) for placement in (*PLACEMENTS, "none")]
    assert found == [True] * 3 + [False]
    assert not preprocesses(RunConfig())
    for workload, placement in itertools.product(("glaucoma", "forensics"), (*PLACEMENTS, "none")):
        assert settled(workload, preprocess=placement) == placement


@pytest.mark.parametrize(
    ("workload", "model"),
    [
        ("glaucoma", None),
        ("forensics", "resnet18_se"),
        ("forensics", "vit_b_16_se"),
        ("tiny_se:TinySe", None),
    ],
)
def test_a_model_with_se_can_be_run_beside_the_other_operator(
    workload: str, model: str | None
) -> None:
    for ops, other in (OPERATORS, OPERATORS[::-1]):
        options = {"model": model, "ops": ops, "baseline": f"ops={other}"}
        if workload != "tiny_se:TinySe":
            options["preprocess"] = "none"
        assert settled(workload, **options) in {None, "none"}


def test_a_workload_that_knows_nothing_of_it_trains_as_before() -> None:
    assert settled("test_preprocessing:Unaware") is None
    config = RunConfig(workload="test_preprocessing:Unaware", local_batch=4)
    workload = Unaware(config)
    assert prepare_of(workload, config) is None
    assert have_stored(workload, "train", config, ALONE) is None
    batch = next(endless_batches(workload, config, ALONE, 4))
    assert batch.implementation == ""
    inputs, _ = fixed_batch(workload, config, [workload.dataset("train")[0]], CPU)
    assert torch.equal(inputs[0], workload.dataset("train")[0][0])


@pytest.mark.parametrize(
    ("workload", "options", "told"),
    [
        ("tiny:Tiny", {"preprocess": "device"}, "--preprocess device: workload tiny:Tiny has no "),
        ("tiny:Tiny", {"preprocess": "none"}, "--preprocess none: workload tiny:Tiny has no "),
        (
            "test_preprocessing:OnDevice",
            {"preprocess": "offline"},
            "--preprocess offline: workload test_preprocessing:OnDevice takes loader, device; ",
        ),
        ("tiny:Tiny", {"baseline": "preprocess=loader"}, "--baseline preprocess=loader: workload "),
        ("forensics", {"baseline": "ops=reference"}, "--baseline ops=reference: has no effect "),
        ("tiny:Tiny", {"baseline": "ops=reference"}, "--baseline ops=reference: has no effect "),
        (
            "small_glaucoma:Small",  # with a model of its own
            {"preprocess": "none", "baseline": "ops=reference"},
            "--baseline ops=reference: has no effect ",
        ),
    ],
)
def test_what_a_workload_cannot_do_is_refused_in_one_line(
    workload: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(PerfkitError) as caught:
        settled(workload, **options)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def test_a_missing_library_is_refused_with_its_reason_and_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> None:
        raise PerfkitError("the native operators are not built")

    monkeypatch.setattr(native, "load", missing)
    plain, excited = {"model": "resnet18"}, {"model": "resnet18_se", "preprocess": "none"}
    asked = ({"ops": "fused"}, {"ops": "reference", "baseline": "ops=fused"})
    for model, options in itertools.product((plain, excited), asked):
        with pytest.raises(PerfkitError) as caught:
            settled("glaucoma", **model, **options)
        assert str(caught.value) == (
            "--ops fused: the native operators are not built; or use --ops reference"
        )
    assert settled("glaucoma", ops="reference") == "loader"
    assert settled("glaucoma", model="resnet18", preprocess="none") == "none"
    assert settled("forensics") == "none"


def test_a_missing_cuda_library_is_refused_only_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> None:
        raise PerfkitError("there are no native operators for CUDA tensors: no toolkit")

    monkeypatch.setattr(native, "require_cuda", missing)
    for (placement, ops), model in itertools.product(WAYS, ("resnet18", "resnet18_se")):
        config = config_of(placement, ops, model=model)
        assert settle_preprocess(config, on_cuda=False) == placement
        if ops == "reference" or (placement != "device" and model == "resnet18"):
            assert settle_preprocess(config, on_cuda=True) == placement
            continue
        with pytest.raises(PerfkitError, match=r"^--ops fused: there are no .* CUDA tensors"):
            settle_preprocess(config, on_cuda=True)


def test_the_device_prepares_in_a_phase_of_its_own_and_trains_as_the_loader_does() -> None:
    trained, phases, workloads = {}, {}, {}
    for placement in ("loader", "device"):
        config = RunConfig.model_validate({"local_batch": 4, "preprocess": placement})
        workload = OnDevice(config)
        torch.manual_seed(0)
        model = workload.model()
        batches = endless_batches(workload, config, ALONE, 4)
        prepare = prepare_of(workload, config)
        training = Training(workload, model, batches, ALONE, steps_per_epoch=9, prepare=prepare)
        recorder = StepRecorder()
        training.run(3, recorder)
        shard = shard_loader(workload, workload.dataset("val"), config, ALONE, 16)
        outcomes = training.evaluate(shard)
        trained[placement] = [*model.parameters(), *(outcome.outputs for outcome in outcomes)]
        phases[placement] = [list(sample.phases_s) for sample in recorder.samples()]
        workloads[placement] = workload
    for ours, theirs in zip(trained["device"], trained["loader"], strict=True):
        assert torch.equal(ours, theirs)
    assert phases["loader"] == [list(PHASES)] * 3
    expected = [*PHASES[:2], "preprocess", *PHASES[2:]]
    assert phases["device"] == [expected] * 3
    assert workloads["loader"].prepared == []
    seeds = workloads["device"].prepared
    assert [len(part) for part in seeds[:3]] == [4] * 3
    assert seeds[3:] == [None] * 4  # nothing random in an evaluation
