"""Which baselines a run is measured beside, and what a cell is called and says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from perfkit.core.config import ProfileConfig
from perfkit.core.record import Block, DataFacts, HostLoad, StageObservation, StepSample
from perfkit.engine.cell import RankFacts
from perfkit.engine.cells import CellLog, configs_beside, label_of, late_taints
from perfkit.engine.resolve import resolve
from perfkit.strategies import STRATEGIES
from perfkit.strategies.base import Device

CPU = Device(torch.device("cpu"), "cpu")
GPU = Device(torch.device("cuda", 0), "cuda:0")


def resolved(
    strategy: str, *, cores: int = 8, on_cuda: bool = False, **flags: Any
) -> ProfileConfig:
    """Return the config of a run whose ranks are all on one host; it needs no CUDA library."""
    config = ProfileConfig(strategy=strategy, **{"model": "resnet18", **flags})
    layout = STRATEGIES[config.strategy].layout(config)
    return resolve(config, layout, on_cuda=on_cuda, cores=cores, local_world_size=layout.ranks)


def baselines(config: ProfileConfig, **where: Any) -> list[tuple[str, int]]:
    """Return strategy and threads of each baseline; there must be no notice."""
    here = {"cores": 8, "on_cuda": False, "one_host": True, **where}
    beside, notices = configs_beside(config, **here)
    assert notices == []
    assert {asked.role for asked in beside} <= {"baseline"}
    return [(asked.config.strategy, asked.config.threads or 0) for asked in beside]


def test_ranks_on_a_cpu_have_a_baseline_of_equal_threads_and_one_of_equal_cores() -> None:
    assert baselines(resolved("ddp", gpus=2)) == [("serial", 4), ("serial", 8)]
    assert baselines(resolved("ddp", gpus=4, threads=1)) == [("serial", 1), ("serial", 4)]
    assert baselines(resolved("ddp_model_parallel", gpus=4)) == [("serial", 4), ("serial", 8)]


def test_one_rank_on_several_devices_has_one_baseline_that_is_both() -> None:
    assert baselines(resolved("model_parallel", gpus=2)) == [("serial", 8)]


@pytest.mark.parametrize("strategy", ["ddp", "model_parallel", "ddp_model_parallel"])
def test_on_gpus_the_only_baseline_is_one_gpu(strategy: str) -> None:
    config = resolved(strategy, gpus=4, on_cuda=True)
    assert baselines(config, on_cuda=True) == [("serial", config.threads)]


@pytest.mark.parametrize(
    "config",
    [
        resolved("serial"),
        resolved("ddp", gpus=1),
        resolved("ddp"),
        resolved("ddp", gpus=2, baseline="none"),
        resolved("model_parallel", baseline="none"),
    ],
)
def test_one_device_and_baseline_none_have_no_baseline(config: ProfileConfig) -> None:
    assert baselines(config) == []


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ({"one_host": False}, "the ranks have 4 threads, over several hosts"),
        ({"cores": 3}, "the ranks have 4 threads, of which rank 0 may use 3"),
    ],
)
def test_where_the_cores_of_all_ranks_are_out_of_reach_that_baseline_is_missing_and_told(
    where: dict[str, Any], reason: str
) -> None:
    config = resolved("ddp", gpus=2, threads=2)
    here = {"cores": 8, "on_cuda": False, "one_host": True, **where}
    beside, notices = configs_beside(config, **here)
    assert [asked.config.threads for asked in beside] == [2]
    assert notices == [f"no baseline on equal total cores: {reason}"]


@pytest.mark.parametrize("batch", [{"local_batch": 6}, {"global_batch": 12}])
def test_a_baseline_is_a_whole_serial_config_of_the_same_work(batch: dict[str, int]) -> None:
    config = resolved("ddp_model_parallel", gpus=4, placement="interleaved", seed=7, **batch)
    beside, _ = configs_beside(config, cores=8, on_cuda=False, one_host=True)
    assert len(beside) == 2
    for _, baseline, _ in beside:
        layout = STRATEGIES["serial"].layout(baseline)  # refuses what is not serial
        assert (layout.ranks, layout.devices) == (1, 1)
        differing = {
            name
            for name in ProfileConfig.model_fields
            if getattr(config, name) != getattr(baseline, name)
        }
        assert differing <= {"strategy", "gpus", "ranks", "placement", "threads"}


@pytest.mark.parametrize("strategy", ["serial", "ddp"])
def test_a_variant_is_the_same_run_but_for_one_option(strategy: str) -> None:
    config = resolved(strategy, workers=4, baseline=("workers=1", "precision=bf16"))
    beside, _ = configs_beside(config, cores=8, on_cuda=False, one_host=True)
    assert [(asked.role, asked.difference) for asked in beside] == [
        ("variant", "workers=1"),
        ("variant", "precision=bf16"),
    ]
    assert [(asked.config.workers, asked.config.precision) for asked in beside] == [
        (1, "fp32"),
        (4, "bf16"),
    ]
    for asked in beside:
        differing = {
            name
            for name in ProfileConfig.model_fields
            if getattr(config, name) != getattr(asked.config, name)
        }
        assert differing == {"baseline", asked.difference.partition("=")[0]}


def test_serial_training_and_variants_can_both_stand_beside_a_run() -> None:
    config = resolved("ddp", gpus=2, baseline=("serial", "local-batch=8"))
    beside, _ = configs_beside(config, cores=8, on_cuda=False, one_host=True)
    assert [(asked.role, asked.config.local_batch) for asked in beside] == [
        ("baseline", 4),
        ("baseline", 4),
        ("variant", 8),
    ]


@pytest.mark.parametrize(
    ("config", "device", "label"),
    [
        (resolved("serial", threads=1), CPU, "serial, 1 thread"),
        (resolved("serial", threads=2), CPU, "serial, 2 threads"),
        (resolved("ddp", gpus=2, threads=1), CPU, "ddp, 2 ranks x 1 thread"),
        (resolved("model_parallel", threads=2), CPU, "model_parallel, 2 threads"),
        (
            resolved("ddp_model_parallel", gpus=8, threads=3),
            CPU,
            "ddp_model_parallel, 4 ranks x 3 threads",
        ),
        (resolved("serial", on_cuda=True), GPU, "serial"),
        (resolved("ddp", gpus=2, on_cuda=True), GPU, "ddp, 2 ranks"),
        (resolved("model_parallel", on_cuda=True), GPU, "model_parallel"),
    ],
)
def test_labels_name_ranks_and_on_a_cpu_threads(
    config: ProfileConfig, device: Device, label: str
) -> None:
    assert label_of(config, device) == label


def test_the_cells_of_one_run_have_labels_of_their_own() -> None:
    config = resolved("ddp", gpus=2)
    beside, _ = configs_beside(config, cores=8, on_cuda=False, one_host=True)
    labels = [label_of(each, CPU) for each in [config, *(asked.config for asked in beside)]]
    assert len(set(labels)) == 3


def facts_of(rank: int) -> RankFacts:
    seen = StageObservation(
        rank=rank,
        stage=0,
        modules=1,
        parameters=3,
        parameter_devices=["cpu"],
        parameter_dtypes=["torch.float32"],
        input_devices=["cpu"],
        output_devices=["cpu"],
        activation_dtypes=["torch.float32"],
    )
    data = DataFacts(
        name="d", train_samples=8, samples_per_epoch=8, class_counts=[4, 4], skipped=[]
    )
    return RankFacts(rank, ["stand-in:0"], 1, 3, data, 1.5 + rank, [seen], [0, 1], [0.1, 0.2], 1)


def log_of(config: ProfileConfig, ranks: int = 2) -> CellLog:
    facts = [facts_of(rank) for rank in range(ranks)]
    return CellLog("strategy", "label", config, "gloo", lambda *_: [], facts)


def test_a_cell_says_what_its_config_and_its_ranks_say() -> None:
    config = resolved("ddp_model_parallel", gpus=4, threads=3, workers=2, local_batch=5)
    cell = log_of(config).as_cell()
    assert (cell.strategy, cell.ranks, cell.devices_per_rank) == ("ddp_model_parallel", 2, 2)
    assert (cell.local_batch, cell.global_batch) == (5, 10)
    assert (cell.threads, cell.workers, cell.ceiling) == (3, 2, 2.0)
    assert cell.devices == [["stand-in:0"]] * 2
    assert cell.time_to_first_step_s == [1.5, 2.5]
    assert [seen.rank for seen in cell.observed] == [0, 1]
    assert (cell.placement, cell.stage_cost_s, cell.crossings) == ([0, 1], [0.1, 0.2], 1)


def test_both_kinds_of_scaling_state_both_batches() -> None:
    strong = log_of(resolved("ddp", gpus=2, global_batch=12)).as_cell()
    assert (strong.local_batch, strong.global_batch) == (6, 12)
    serial = log_of(resolved("serial", global_batch=12), ranks=1).as_cell()
    assert (serial.local_batch, serial.global_batch) == (12, 12)


def block(rank: int, steps: int) -> Block:
    step = StepSample(host_s=1.0, phases_s={}, device_phases_s={}, communication_s=None, loss=1.0)
    return Block(round=0, rank=rank, wall_s=1.0, turn_cpu_s=1.0, steps=[step] * steps)


def load(share: float | None) -> HostLoad:
    return HostLoad(round=0, foreign_cpu_share=share, pressure_share=None, steal_share=None)


def test_few_steps_and_foreign_load_are_taints_and_the_usual_is_not() -> None:
    log = log_of(resolved("ddp", gpus=2))
    log.blocks = [block(rank, 5) for rank in (0, 1, 0, 1)]
    log.load = [load(0.02), load(0.1), load(None)]
    assert late_taints([log]) == []
    log.load.append(load(0.25))
    (taint,) = late_taints([log])
    assert taint == "other processes took up to 25% of this host's CPU time beside label"
    log.blocks = log.blocks[:2]  # five steps of each rank
    assert late_taints([log])[0] == "5 timed steps are too few to trust (at least 10)"
