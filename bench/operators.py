"""Cases of the fused operators: beside what they are to beat, and by themselves for a history."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import preprocess
import squeeze
import squeeze_models
import torch
from case import Measurement

from perfkit.measure.paired import time_paired


def preprocessing(*limits: str, **setup: Any) -> Callable[[], Measurement]:
    """Seconds of CLAHE-gamma-median over a few photographs, beside another way."""

    def measure() -> Measurement:
        what = preprocess.Setup(**setup)
        facts = preprocess.measure(what)
        return Measurement(
            {"seconds": facts["call_s"][preprocess.OURS]},
            preprocess.finding(what, facts, limits),
            {"beside": facts["other"], "isa": facts["isa"], "photos": facts["photos"]},
        )

    return measure


def squeeze_excite(setup: squeeze.Setup) -> Callable[[], Measurement]:
    """Seconds of forward and backward, beside eager torch, torch.compile and a copy."""

    def measure() -> Measurement:
        facts = squeeze.measure(setup)
        return Measurement(
            {"seconds": facts["call_s"]["training"]["perfkit"]},
            squeeze.finding(setup, facts),
            {
                "isa": facts["isa"],
                "threads": str(setup.threads),
                "batch": str(squeeze.BATCH),
                "large pages": facts["large_pages"],
            },
        )

    return measure


def squeeze_excite_step(setup: squeeze_models.Setup) -> Callable[[], Measurement]:
    """Seconds of a whole training step, beside the same with plain torch."""

    def measure() -> Measurement:
        return Measurement(
            {"seconds": squeeze_models.measure(setup)["fused"]},
            squeeze_models.finding(setup),
            {"threads": str(setup.threads), "batch": str(setup.batch)},
        )

    return measure


def squeeze_excite_mean() -> Measurement:
    """Seconds of forward and backward once at each shape, and what the shapes come to."""
    fastest = (min(squeeze.measure(one)["call_s"]["training"]["perfkit"]) for one in squeeze.PLAIN)
    return Measurement(
        {"seconds": [sum(fastest)]}, squeeze.summary(), {"a sample": "all shapes, fastest rounds"}
    )


def preprocess_call() -> Measurement:
    """Seconds of CLAHE-gamma-median of a batch of random bytes on one thread, in this process."""
    from perfkit.ops import clahe_gamma_median

    images = torch.randint(
        0, 256, (4, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return _call_on_one_thread(lambda: clahe_gamma_median(images))


def squeeze_excite_call() -> Measurement:
    """Seconds of forward and backward of one shape on one thread, in this process."""
    from perfkit.ops import squeeze_excite

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 128, 14, 14, generator=generator).requires_grad_()
    w1 = torch.randn(8, 128, generator=generator).requires_grad_()
    w2 = torch.randn(128, 8, generator=generator).requires_grad_()
    gradient = torch.randn(x.shape, generator=generator)
    return _call_on_one_thread(lambda: squeeze_excite(x, w1, None, w2, None).backward(gradient))


def _call_on_one_thread(call: Callable[[], object]) -> Measurement:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = time_paired({"call": call}, rounds=20, calls=4, warmup=2).call_s["call"]
    finally:
        torch.set_num_threads(threads)
    return Measurement({"seconds": times}, f"{median(times) * 1e3:.3f} ms a call", {"threads": "1"})
