"""Local training as every hospital does it: a small neural network in NumPy, momentum SGD, several local
epochs.

One hidden layer of ReLU units and a softmax: enough to be a real model with named tensors, small enough to
train in milliseconds. Arithmetic is float64 and the update is rounded to float32 at the end, so differences
of NumPy's BLAS between machines (last bits of float64) almost never reach the update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .data import Floats, Hospital, Labels

__all__ = ["Model", "Training", "accuracy", "add", "flatten", "initial", "train", "unflatten"]

Array32 = npt.NDArray[np.float32]
Model = dict[str, Array32]  # weights or an update: the same names and shapes

HIDDEN = 16


@dataclass(frozen=True)
class Training:
    """What every hospital has agreed on."""

    epochs: int = 3
    batch: int = 16
    rate: float = 0.02
    momentum: float = 0.9
    decay: float = 1e-3  # weight decay
    clip: float = 5.0  # largest norm of a gradient: a model under attack cannot blow up an honest update


def initial(features: int, classes: int, seed: int = 0) -> Model:
    """The model before the first round: He's initialisation, zero biases."""
    rng = np.random.default_rng([seed, 2])
    hidden = rng.standard_normal((features, HIDDEN)) * np.sqrt(2 / features)
    output = rng.standard_normal((HIDDEN, classes)) * np.sqrt(1 / HIDDEN)
    return {
        "hidden.bias": np.zeros(HIDDEN, np.float32),
        "hidden.weight": hidden.astype(np.float32),
        "output.bias": np.zeros(classes, np.float32),
        "output.weight": output.astype(np.float32),
    }


def train(model: Mapping[str, Array32], hospital: Hospital, settings: Training, seed: list[int]) -> Model:
    """One hospital's update of this round: weights after local training minus weights before, float32.

    `seed` (federation, round, hospital) fixes the order of its records, so that runs differ only by attack
    and rule.
    """
    rng = np.random.default_rng(seed)
    weights = {name: value.astype(np.float64) for name, value in model.items()}
    velocity = {name: np.zeros_like(value) for name, value in weights.items()}
    for _ in range(settings.epochs):
        order = rng.permutation(len(hospital.y))
        for start in range(0, len(order), settings.batch):
            batch = order[start : start + settings.batch]
            slope = _gradient(weights, hospital.x[batch], hospital.y[batch])
            norm = np.sqrt(sum(float((g * g).sum()) for g in slope.values()))
            scale = min(1.0, settings.clip / max(norm, settings.clip))
            for name, value in weights.items():
                velocity[name] *= settings.momentum
                velocity[name] += scale * slope[name] + settings.decay * value
                value -= settings.rate * velocity[name]
    return {name: (value - model[name]).astype(np.float32) for name, value in weights.items()}


def accuracy(model: Mapping[str, Array32], x: Floats, y: Labels) -> float:
    """Share of the records whose class the model names; a model with NaN or infinity in it names none."""
    if not all(np.isfinite(value).all() for value in model.values()):
        return 0.0
    weights = {name: value.astype(np.float64) for name, value in model.items()}
    scores = _forward(weights, x)[1]
    return float(np.mean(scores.argmax(axis=1) == y))


def add(model: Mapping[str, Array32], update: Mapping[str, Array32]) -> Model:
    """The next global model."""
    with np.errstate(over="ignore", invalid="ignore"):
        return {name: value + update[name] for name, value in model.items()}


def flatten(update: Mapping[str, Array32]) -> Floats:
    """All values of an update in the order of its names: how attacks see it."""
    return np.concatenate([update[name].ravel() for name in sorted(update)]).astype(np.float64)


def unflatten(vector: Floats, like: Mapping[str, Array32]) -> Model:
    """The inverse of flatten, with the names and shapes of `like`; beyond float32 is infinite."""
    out, start = {}, 0
    for name in sorted(like):
        shape, size = like[name].shape, like[name].size
        with np.errstate(over="ignore"):
            out[name] = vector[start : start + size].reshape(shape).astype(np.float32)
        start += size
    return out


def _forward(weights: Mapping[str, Floats], x: Floats) -> tuple[Floats, Floats]:
    hidden = np.maximum(x @ weights["hidden.weight"] + weights["hidden.bias"], 0.0)
    return hidden, hidden @ weights["output.weight"] + weights["output.bias"]


def _gradient(weights: Mapping[str, Floats], x: Floats, y: Labels) -> dict[str, Floats]:
    """Of the mean cross-entropy over a batch."""
    hidden, scores = _forward(weights, x)
    error = np.exp(scores - scores.max(axis=1, keepdims=True))
    error /= error.sum(axis=1, keepdims=True)
    error[np.arange(len(y)), y] -= 1.0
    error /= len(y)
    back = (error @ weights["output.weight"].T) * (hidden > 0)
    return {
        "hidden.bias": back.sum(axis=0),
        "hidden.weight": x.T @ back,
        "output.bias": error.sum(axis=0),
        "output.weight": hidden.T @ error,
    }
