"""The one list of benchmark cases: pytest-benchmark (``test_cases.py``) and asv (``history/``) are
views of it, and ``scripts/regressions.py`` measures it on two commits side by side."""

from __future__ import annotations

from typing import Any

import squeeze
import squeeze_models
from case import Case
from harness import command_time, loading, step_of_nothing, trace_reading, training_step
from operators import (
    preprocess_call,
    preprocessing,
    squeeze_excite,
    squeeze_excite_call,
    squeeze_excite_mean,
    squeeze_excite_step,
)
from runs import step, strategy

HELP_LIMIT_S = 0.5
SMALL = ("--image-size", "64", "--local-batch", "4", "--steps", "12", "--rounds", "6")
RESNET = ("--workload", "forensics", *SMALL)
USUAL = ("--steps", "24", "--rounds", "6")
STRATEGY_COSTS = ("seconds per sample", "inverse efficiency", "peak memory")
EXCHANGE_COSTS = (*STRATEGY_COSTS[:2], "exposed communication", *STRATEGY_COSTS[2:])
STRATEGIES = (
    ("ddp", 2, EXCHANGE_COSTS),
    ("model_parallel", 2, STRATEGY_COSTS),
    ("ddp_model_parallel", 4, EXCHANGE_COSTS),
)

AFRESH: dict[str, Any] = {"processes": 6, "version": "2"}

CASES = (
    Case("step-of-nothing", "harness", step_of_nothing, "fast", **AFRESH),
    Case("import-perfkit", "start-up", command_time("-c", "import perfkit"), "quick"),
    Case(
        "profile-help",
        "start-up",
        command_time("-m", "perfkit.profile", "--help", limit_s=HELP_LIMIT_S),
        "quick",
    ),
    Case("trace-reading", "traces", trace_reading(100_000), "quick"),
    *(
        Case(
            f"loader-{workers}-workers",
            "loader, fundus photographs",
            loading("glaucoma", 96, workers),
            "quick",
            costs=("seconds per sample",),
        )
        for workers in (0, 2)
    ),
    Case("training-step-call", "one thread", training_step("forensics", 32, 3), "fast", **AFRESH),
    Case(
        "step-glaucoma",
        "training step by workload",
        step("--workload", "glaucoma", *SMALL),
        "quick",
        costs=("seconds per sample",),
    ),
    Case(
        "step-forensics",
        "training step by workload",
        step(*RESNET),
        "quick",
        costs=("seconds per sample",),
    ),
    *(
        Case(
            f"step-preprocess-{where}",
            "preprocessing placement",
            step(*RESNET, "--preprocess", where),
            "quick" if where in {"loader", "device"} else "full",
            costs=("seconds per sample",),
        )
        for where in ("none", "loader", "device", "offline")
    ),
    *(
        Case(
            f"strategy-{name}-{devices}".replace("_", "-"),
            "strategy, ResNet18 on CPU ranks",
            strategy(name, devices, *RESNET),
            "quick",
            costs,
        )
        for name, devices, costs in STRATEGIES
    ),
    *(
        Case(
            f"strategy-{name}-{devices}-glaucoma".replace("_", "-"),
            "strategy, MedicalCNN on CPU ranks",
            strategy(name, devices, *USUAL),
            costs=costs,
        )
        for name, devices, costs in STRATEGIES
    ),
    Case("preprocess-call", "one thread", preprocess_call, "fast", **AFRESH),
    *(
        Case(
            f"preprocess-{size}",
            f"preprocess, {size}x{size}",
            preprocessing("limit 4x, aim 5x", size=size, rounds=20 if size > 1024 else 60),
            "quick" if size == 224 else "full",
            needs="cv2",
        )
        for size in (224, 512, 2048)
    ),
    *(
        Case(
            f"preprocess-512-{isa}",
            "preprocess, 512x512",
            preprocessing(*limits, size=512, isa=isa),
            needs="cv2",
        )
        for isa, limits in (
            ("avx512", ()),
            ("avx2", ("limit 1.5x, aim 2.5x",)),
            ("scalar", ("the oracle",)),
        )
    ),
    Case(
        "preprocess-batch-2-threads",
        "preprocess, batch of 32",
        preprocessing("limit 4x, aim 5x", size=512, batch=32, threads=2, rounds=15),
        needs="cv2",
    ),
    Case(
        "preprocess-batch-scaling",
        "preprocess, batch of 32",
        preprocessing("limit 1.8x", size=512, batch=32, threads=2, beside="one-thread", rounds=15),
    ),
    Case(
        "preprocess-kornia",
        "preprocess, 512x512",
        preprocessing("limit 10x", size=512, beside="kornia", rounds=5),
        needs="kornia",
    ),
    Case("squeeze-excite-call", "one thread", squeeze_excite_call, "fast", **AFRESH),
    *(
        Case(
            f"squeeze-excite-{setup.name}",
            "squeeze-excite, forward and backward",
            squeeze_excite(setup),
            "quick" if setup == squeeze.PLAIN[2] else "full",
        )
        for setup in (*squeeze.PLAIN, *squeeze.LARGE_PAGES, *squeeze.WITH_RESIDUAL)
    ),
    Case("squeeze-excite-mean", "squeeze-excite, all shapes", squeeze_excite_mean),
    *(
        Case(f"squeeze-excite-{setup.name}", "squeeze-excite, step", squeeze_excite_step(setup))
        for setup in squeeze_models.SETUPS
    ),
)


def chosen(*, full: bool) -> tuple[Case, ...]:
    """Return the cases of a quick look, or all."""
    return tuple(case for case in CASES if full or case.size != "full")
