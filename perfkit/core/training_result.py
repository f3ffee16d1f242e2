"""The part of a Record that only a training has: its epochs, and what the model is worth."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt


class Part(BaseModel):
    """What every part of a Record is: unchangeable, strict, described field by field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Evaluation(Part):
    """The model on a whole split, over all ranks, every sample once."""

    split: str
    """"val" or "test"."""
    samples: int
    """Samples evaluated."""
    loss: float
    """Weighted mean of the losses of all samples."""
    metrics: dict[str, float]
    """accuracy, auc, precision, recall, f1, or what the workload computes; what is not defined
    (AUC of one class) is missing."""
    confusion: list[list[int]]
    """Samples by true class (row) and predicted class; empty where it is no classification."""


class Epoch(Part):
    """One epoch of a training."""

    epoch: PositiveInt
    """From 1."""
    train_loss: float
    """Mean loss of the global batches."""
    learning_rate: float
    """At the start of the epoch, of the first parameter group."""
    train_s: PositiveFloat
    """Seconds of the training steps."""
    evaluate_s: float
    """Seconds of the validation."""
    skipped_steps: int
    """Steps that the gradient scaler of fp16 skipped; the schedule does not count them."""
    loss_scale: float | None
    """Of the gradient scaler of fp16 at the end of the epoch."""
    validation: Evaluation
    """After the last step."""


class TrainingResult(Part):
    """What a training came to."""

    epochs: list[Epoch]
    """In order."""
    resumed_after: list[int]
    """Epochs after which the training was stopped and gone on with in new processes."""
    monitor: str
    """What tells the best epoch, on the validation set."""
    best_epoch: PositiveInt
    """The earliest of the best."""
    end: Literal["all epochs", "early stopping", "interrupted"]
    """Why it ended; interrupted as long as it has not."""
    test: Evaluation | None
    """The best epoch's model on the test set."""
