"""From the epochs of a training to how long it took and what it came to."""

from __future__ import annotations

from perfkit.core.training_result import Epoch, TrainingResult


def time_to_train_s(training: TrainingResult) -> float:
    """Return the seconds of all epochs, validation included; without loading, gate and test."""
    return sum(epoch.train_s + epoch.evaluate_s for epoch in training.epochs)


def time_to_best_s(training: TrainingResult) -> float:
    """Return the seconds until the best epoch had ended, validation included."""
    done = [epoch for epoch in training.epochs if epoch.epoch <= training.best_epoch]
    return sum(epoch.train_s + epoch.evaluate_s for epoch in done)


def best_epoch(training: TrainingResult) -> Epoch:
    """Return the best epoch by what was monitored."""
    return next(epoch for epoch in training.epochs if epoch.epoch == training.best_epoch)
