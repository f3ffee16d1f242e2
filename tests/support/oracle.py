"""What torchmetrics makes of a classifier's outputs."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor
from torchmetrics import functional


def classification_metrics(
    outputs: Tensor, targets: Tensor
) -> tuple[dict[str, float], list[list[int]]]:
    """Return what torchmetrics makes of it; an AUC without two kinds of samples is left out."""
    classes = outputs.shape[1]
    predicted = outputs.argmax(1)
    options: dict[str, Any] = {"task": "multiclass", "num_classes": classes}
    macro = options | {"average": "macro"}
    if classes == 2:
        options = macro = {"task": "binary"}
    found = {
        "accuracy": functional.accuracy(predicted, targets, **options | {"average": "micro"}),
        "precision": functional.precision(predicted, targets, **macro),
        "recall": functional.recall(predicted, targets, **macro),
        "f1": functional.f1_score(predicted, targets, **macro),
    }
    present = targets.bincount(minlength=classes)
    defined = (present > 0) & (present < len(targets))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes without samples, which are left out here
        if classes == 2:
            score = (outputs[:, 1] - outputs[:, 0]).double()
            areas = functional.auroc(score, targets, task="binary")[None]
            defined = defined[1:]
        else:
            scores = outputs.double().softmax(1)
            areas = functional.auroc(scores, targets, **options | {"average": None})
    if defined.any():
        found["auc"] = areas[defined].mean()
    matrix = functional.confusion_matrix(predicted, targets, **options)
    return {name: float(value) for name, value in found.items()}, matrix.tolist()
