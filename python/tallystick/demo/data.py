"""Real data, split over hospitals of unequal size and unlike patients.

The sets ship inside scikit-learn (nothing is downloaded): breast_cancer, 569 patients with 30 measurements of
a biopsy, benign or malignant; digits, 1797 scans of 8 x 8 pixels. 30 % is held out, stratified by class,
before anything else happens: no hospital sees it, and neither the split nor the scaling looks at it.

The split is the usual one for label skew (Hsu et al., 2019; Li et al., ICDE 2022): each class is shared out
in proportions drawn per hospital. Sizes follow from a second draw. A draw that leaves a hospital with fewer
than SMALLEST records is drawn again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tallystick.errors import ArgumentError, MissingExtraError

__all__ = ["DATASETS", "Federation", "Hospital", "load"]

DATASETS = ("breast_cancer", "digits")
HELD_OUT = 0.3  # of the records, per class
SMALLEST = 8  # records that every hospital has at least
ON_AVERAGE = 20  # and what they have at least on average: with less, few draws leave all with SMALLEST
SKEW = 2.0  # Dirichlet parameter of the class mix: small is skewed, large is alike
UNEVEN = 0.4  # standard deviation of the logarithm of a hospital's size
DRAWS = 1000

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Hospital:
    """One client: its id, its records x (samples, features), scaled, and their labels y."""

    id: str
    x: Floats
    y: Labels


@dataclass(frozen=True)
class Federation:
    """The hospitals, in the order of their ids, and the held-out records, scaled alike."""

    name: str
    classes: tuple[str, ...]
    hospitals: tuple[Hospital, ...]
    test_x: Floats
    test_y: Labels
    server: Hospital | None = None  # records that the server trains on itself, where a rule wants that

    @property
    def features(self) -> int:
        return int(self.test_x.shape[1])


def load(
    name: str = "breast_cancer",
    hospitals: int = 10,
    seed: int = 0,
    *,
    skew: float = SKEW,
    uneven: float = UNEVEN,
    server: int = 0,
) -> Federation:
    """The data set `name`, split over `hospitals` clients. One seed gives one split.

    skew: Dirichlet parameter of the shares that each class is cut into; math.inf: alike for all (IID).
    uneven: standard deviation of the logarithm of a hospital's size. server: training records, drawn at
    random, that go to the server and to no hospital.
    Features are shifted and scaled by mean and standard deviation of the training part; hospitals would get
    these by adding up counts, sums and sums of squares once, before the first round. Raises MissingExtraError
    without scikit-learn, ArgumentError for a name or a number that is not allowed.
    """
    if not skew > 0 or not 0 <= uneven < math.inf:
        raise ArgumentError(f"skew > 0 and uneven >= 0 expected, got {skew} and {uneven}")
    x, y, classes = _read(name)
    rng = np.random.default_rng([seed, 1])
    train, test = _hold_out(y, rng)
    mean, std = x[train].mean(axis=0), x[train].std(axis=0)
    scaled = (x - mean) / np.where(std > 0, std, 1.0)  # a pixel that is always blank stays 0
    kept = np.array([], np.int64)
    if server:
        if not 1 <= server < len(train):
            raise ArgumentError(f"{server} records for the server: 0 to {len(train) - 1}")
        kept = np.sort(rng.choice(train, server, replace=False))
        train = np.setdiff1d(train, kept)
    parts = _split(y[train], hospitals, rng, skew, uneven)
    clients = tuple(
        Hospital(f"hospital-{i:02d}", scaled[train[part]], y[train[part]]) for i, part in enumerate(parts, 1)
    )
    own = Hospital("server", scaled[kept], y[kept]) if server else None
    return Federation(name, classes, clients, scaled[test], y[test], own)


def _read(name: str) -> tuple[Floats, Labels, tuple[str, ...]]:
    if name not in DATASETS:
        raise ArgumentError(f"data set {name!r} is not known; allowed: {', '.join(DATASETS)}")
    try:
        from sklearn import datasets
    except ImportError as e:
        raise MissingExtraError(
            'the demo\'s data sets come with scikit-learn: pip install "tallystick[demo]"'
        ) from e
    bunch: Any = datasets.load_breast_cancer() if name == "breast_cancer" else datasets.load_digits()
    return (
        np.asarray(bunch.data, np.float64),
        np.asarray(bunch.target, np.int64),
        tuple(str(c) for c in bunch.target_names),
    )


def _hold_out(y: Labels, rng: np.random.Generator) -> tuple[Labels, Labels]:
    """Indices of the training part and of the held-out part, both sorted."""
    chosen = []
    for c in range(int(y.max()) + 1):
        of_class = rng.permutation(np.flatnonzero(y == c))
        chosen.append(of_class[: round(HELD_OUT * len(of_class))])
    test = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(y)), test), test


def _split(y: Labels, hospitals: int, rng: np.random.Generator, skew: float, uneven: float) -> list[Labels]:
    """For every hospital the sorted indices of its records: a partition of all of y."""
    most = len(y) // ON_AVERAGE
    if not 2 <= hospitals <= most:
        raise ArgumentError(f"{hospitals} hospitals: this data set is split over 2 to {most}")
    for _ in range(DRAWS):
        size = np.exp(uneven * rng.standard_normal(hospitals))
        parts: list[list[Labels]] = [[] for _ in range(hospitals)]
        for c in range(int(y.max()) + 1):
            of_class = rng.permutation(np.flatnonzero(y == c))
            share = size.copy()
            if skew < math.inf:
                share *= rng.gamma(skew, size=hospitals)  # normalised below: Dirichlet, tilted by size
            ends = np.rint(np.cumsum(share / share.sum()) * len(of_class)).astype(int)[:-1]
            for part, piece in zip(parts, np.split(of_class, ends), strict=True):
                part.append(piece)
        joined = [np.sort(np.concatenate(part)) for part in parts]
        if min(map(len, joined)) >= SMALLEST:
            return joined
    raise ArgumentError(
        f"{hospitals} hospitals: no split in {DRAWS} draws left each with {SMALLEST} records; "
        "take fewer hospitals"
    )
