"""What a classifier is worth: accuracy, AUC, precision, recall, F1 and the confusion matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from torch import Tensor

from perfkit.core.errors import PerfkitError
from perfkit.workloads.base import Workload

RESERVED = {"loss", "samples"}

Counts = npt.NDArray[np.int64]


def metrics_of(
    workload: Workload, outputs: Tensor, targets: Tensor
) -> tuple[dict[str, float], list[list[int]]]:
    """Return the metrics of a whole split, and its confusion matrix (empty if there is none).

    The workload's own ``metrics(outputs, targets)`` wins. Otherwise outputs [N, C] with integer
    targets [N] are those of a classifier, and anything else (a single logit too) has its loss
    alone. What is not a finite number is left out.
    """
    own = getattr(workload, "metrics", None)
    if own is not None:
        found = _floats(own(outputs, targets))
        return found, []
    of_classes = outputs.ndim == 2 and outputs.shape[1] > 1
    if of_classes and targets.ndim == 1 and not targets.is_floating_point():
        return classification_metrics(outputs, targets)
    return {}, []


def classification_metrics(
    outputs: Tensor, targets: Tensor
) -> tuple[dict[str, float], list[list[int]]]:
    """Return the metrics and the confusion matrix [C][C] (true, predicted).

    ``outputs`` are logits [N, C], ``targets`` int64 [N] in 0..C-1. Of two classes, 1 is the
    positive one. Of more, precision, recall and F1 are means over the classes that occur among
    targets or predictions, and AUC is the mean over classes of one class against the rest. A
    precision or recall of nothing is 0; an AUC without two classes is missing.

    Sources: AUC as the Mann-Whitney statistic (Hanley and McNeil, Radiology 143, 1982); macro
    averages as in Sokolova and Lapalme, Inf. Process. Manag. 45, 2009.
    """
    classes = outputs.shape[1]
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < classes:
        raise PerfkitError(
            f"targets from {int(targets.min())} to {int(targets.max())} for {classes} outputs: "
            f"classes have to be numbered from 0 to {classes - 1}"
        )
    predicted = outputs.argmax(1)
    pairs = torch.bincount(targets * classes + predicted, minlength=classes**2)
    confusion: Counts = pairs.reshape(classes, classes).numpy()
    hits = confusion.diagonal()
    true, called = confusion.sum(1), confusion.sum(0)
    precision = _safe_ratio(hits, called)
    recall = _safe_ratio(hits, true)
    f1 = _safe_ratio(2 * hits, true + called)
    # In float64: a probability near 1 has no room to differ in float32.
    scores = outputs.double().softmax(1).numpy()
    if classes == 2:
        kept = np.array([False, True])
        # The difference of the logits orders as the probability does, and never saturates.
        scores = (outputs[:, 1:] - outputs[:, :1]).double().repeat(1, 2).numpy()
    else:
        kept = true + called > 0
    labels = targets.numpy()
    aucs = [
        auc
        for index in np.flatnonzero(kept)
        if (auc := area_under_curve(scores[:, index], labels == index)) is not None
    ]
    metrics = {
        "accuracy": hits.sum() / confusion.sum(),
        "auc": np.mean(aucs) if aucs else math.nan,
        "precision": precision[kept].mean(),
        "recall": recall[kept].mean(),
        "f1": f1[kept].mean(),
    }
    return _floats(metrics), confusion.tolist()


def area_under_curve(
    scores: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]
) -> float | None:
    """Return the area under the ROC curve of scores [N]; None unless both kinds occur.

    It is the probability that a positive sample scores higher than a negative one, ties half.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    rank_sum = float(rankdata(scores)[positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def _safe_ratio(part: Counts, whole: Counts) -> npt.NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _floats(found: Any) -> dict[str, float]:
    try:
        values = {str(name): float(value) for name, value in found.items()}
    except (AttributeError, TypeError, ValueError, RuntimeError):
        raise PerfkitError(
            "a workload's metrics have to return a dict of numbers by name, got "
            f"{type(found).__name__}"
        ) from None
    taken = sorted(RESERVED & set(values))
    if taken:
        raise PerfkitError(f"a workload's metrics have a {taken[0]!r}; perfkit has one: rename it")
    return {name: value for name, value in values.items() if math.isfinite(value)}
