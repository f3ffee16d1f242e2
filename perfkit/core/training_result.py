"""The part of a Record that only a training has: its epochs, and what the model is worth."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from perfkit.core.part import Amount, Count, Part, PositiveAmount, PositiveCount


class Evaluation(Part):
    """The model on a whole split, over all ranks, every sample once."""

    split: str
    """"val" or "test"."""
    samples: Count
    """Samples evaluated."""
    loss: float
    """Weighted mean of the losses of all samples."""
    metrics: dict[str, float]
    """accuracy, auc, precision, recall, f1, or what the workload computes; what is not defined
    (AUC of one class) is missing."""
    confusion: list[list[Count]]
    """Samples by true class (row) and predicted class; empty where it is no classification."""


class Epoch(Part):
    """One epoch of a training."""

    epoch: PositiveCount
    """From 1."""
    train_loss: float
    """Mean loss of the global batches."""
    learning_rate: float
    """At the start of the epoch, of the first parameter group."""
    train_s: PositiveAmount
    """Seconds of the training steps."""
    evaluate_s: Amount
    """Seconds of the validation."""
    skipped_steps: Count
    """Steps that the gradient scaler of fp16 skipped; the schedule does not count them."""
    loss_scale: float | None
    """Of the gradient scaler of fp16 at the end of the epoch."""
    validation: Evaluation
    """After the last step."""


class TrainingResult(Part):
    """What a training came to."""

    epochs: list[Epoch]
    """In order."""
    resumed_after: list[Count]
    """Epochs after which the training was stopped and gone on with in new processes."""
    monitor: str
    """What tells the best epoch, on the validation set."""
    best_epoch: PositiveCount
    """The earliest of the best."""
    end: Literal["all epochs", "early stopping", "interrupted"]
    """Why it ended; interrupted as long as it has not."""
    test: Evaluation | None
    """The best epoch's model on the test set."""

    @model_validator(mode="after")
    def _best_is_one_of_them(self) -> Self:
        if all(epoch.epoch != self.best_epoch for epoch in self.epochs):
            raise ValueError(f"the best epoch, {self.best_epoch}, is none of those there are")
        return self
