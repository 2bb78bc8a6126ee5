"""The demo's data is split honestly, and its hospitals really learn."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from tallystick.demo import data, training
from tallystick.errors import ArgumentError, MissingExtraError

# ---- data ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "records"), [("breast_cancer", 569), ("digits", 1797)])
def test_every_record_is_held_out_or_in_one_hospital(name, records):
    from sklearn import datasets

    split = data.load(name, 10, seed=3)
    parts = [*((h.x, h.y) for h in split.hospitals), (split.test_x, split.test_y)]
    assert sum(len(y) for _, y in parts) == records
    assert len(split.test_y) == pytest.approx(0.3 * records, abs=len(split.classes))
    whole = getattr(datasets, f"load_{name}")()
    train = np.concatenate([x for x, _ in parts[:-1]])
    # Scaling keeps the order within each column, so sorting pairs every record with itself.
    order = np.lexsort(np.concatenate([train, split.test_x]).T)
    expected = whole.target[np.lexsort(whole.data.T)]
    np.testing.assert_array_equal(np.concatenate([y for _, y in parts])[order], expected)


@pytest.mark.parametrize("name", data.DATASETS)
def test_scaling_uses_the_training_part_alone(name):
    split = data.load(name, 10)
    train = np.concatenate([h.x for h in split.hospitals])
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-9)
    moving = train.std(axis=0) > 0
    np.testing.assert_allclose(train[:, moving].std(axis=0), 1, atol=1e-9)
    assert np.abs(split.test_x.mean(axis=0)).max() > 1e-3  # it was scaled with foreign statistics


def test_hospitals_differ_in_size_and_in_their_mix_of_classes():
    split = data.load("breast_cancer", 10)
    sizes = [len(h.y) for h in split.hospitals]
    share = [float(np.mean(h.y == 0)) for h in split.hospitals]
    assert min(sizes) >= data.SMALLEST
    assert max(sizes) > 2 * min(sizes)
    assert max(share) - min(share) > 0.3


def test_one_seed_gives_one_split():
    first, again, other = data.load(seed=1), data.load(seed=1), data.load(seed=2)
    for a, b in zip(first.hospitals, again.hospitals, strict=True):
        np.testing.assert_array_equal(a.x, b.x)
    assert [h.id for h in first.hospitals] == [f"hospital-{i:02d}" for i in range(1, 11)]
    assert not np.array_equal(first.test_x, other.test_x)


def test_an_endless_skew_parameter_splits_every_class_alike():
    split = data.load("digits", 10, skew=math.inf, uneven=0)
    counts = np.array([np.bincount(h.y, minlength=10) for h in split.hospitals])
    assert np.ptp(counts, axis=0).max() <= 1
    skewed = data.load("digits", 10, skew=0.5, uneven=0)
    assert min(np.bincount(h.y, minlength=10).min() for h in skewed.hospitals) == 0


def test_the_servers_records_are_nobody_elses():
    without, split = data.load("digits", 10), data.load("digits", 10, server=100)
    assert without.server is None
    assert split.server.x.shape == (100, 64)
    assert len(np.unique(split.server.y)) == 10  # drawn at random from all of them
    np.testing.assert_array_equal(split.test_x, without.test_x)

    def rows(federation):
        everybody = [*federation.hospitals, *([federation.server] if federation.server else [])]
        return sorted(map(bytes, np.concatenate([h.x for h in everybody])))

    assert rows(split) == rows(without)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skew": 0.0}, "skew > 0"),
        ({"skew": math.nan}, "skew > 0"),
        ({"uneven": -1.0}, "uneven >= 0"),
        ({"uneven": math.inf}, "uneven >= 0"),
        ({"server": -1}, "0 to 397"),
        ({"server": 398}, "0 to 397"),
        ({"server": 390}, "2 to 0"),  # too few are left to split
    ],
)
def test_a_split_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        data.load(**options)


@pytest.mark.parametrize(("name", "most"), [("breast_cancer", 19), ("digits", 62)])
def test_the_number_of_hospitals_has_bounds(name, most):
    for wrong in (-1, 0, 1, most + 1):
        with pytest.raises(ArgumentError, match=f"2 to {most}"):
            data.load(name, wrong)
    assert len(data.load(name, 2).hospitals) == 2
    assert len(data.load(name, most).hospitals) == most


def test_an_unknown_data_set_is_refused_with_the_known_ones():
    with pytest.raises(ArgumentError, match="breast_cancer, digits"):
        data.load("iris")


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r'pip install "tallystick\[demo\]"'):
        data.load()


# ---- training --------------------------------------------------------------------------------------------


def test_the_gradient_is_the_slope_of_the_loss():
    rng = np.random.default_rng(5)
    weights = {k: v.astype(np.float64) for k, v in training.initial(7, 3).items()}
    x, y = rng.standard_normal((11, 7)), rng.integers(0, 3, 11)

    def loss():
        scores = training._forward(weights, x)[1]
        return float(np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(11), y]))

    slope, step = training._gradient(weights, x, y), 1e-6
    for name, value in weights.items():
        for at in np.ndindex(value.shape):
            kept = value[at]
            value[at] = kept + step
            above = loss()
            value[at] = kept - step
            below = loss()
            value[at] = kept
            # error of the central difference: step^2 from the curve, 1e-16 / step from rounding
            assert (above - below) / (2 * step) == pytest.approx(slope[name][at], abs=1e-8)


def test_training_returns_a_float32_update_and_leaves_the_model_alone():
    split = data.load()
    model = training.initial(split.features, 2)
    before = {name: value.copy() for name, value in model.items()}
    update = training.train(model, split.hospitals[0], training.Training(), [0])
    again = training.train(model, split.hospitals[0], training.Training(), [0])
    other = training.train(model, split.hospitals[0], training.Training(), [1])
    for name, value in model.items():
        np.testing.assert_array_equal(value, before[name])
        assert update[name].dtype == np.float32
        assert update[name].shape == value.shape
        np.testing.assert_array_equal(update[name], again[name])
    assert any(not np.array_equal(update[name], other[name]) for name in model)
    hospital = split.hospitals[0]
    start = training.accuracy(model, hospital.x, hospital.y)
    for number in range(10):
        model = training.add(model, training.train(model, hospital, training.Training(), [number]))
    assert training.accuracy(model, hospital.x, hospital.y) > max(start, 0.9)


def test_an_absurd_model_cannot_blow_up_an_honest_update():
    split = data.load()
    model = {name: value + 1e6 for name, value in training.initial(split.features, 2).items()}
    settings = training.Training(decay=0)
    update = training.flatten(training.train(model, split.hospitals[0], settings, [0]))
    steps = settings.epochs * -(-len(split.hospitals[0].y) // settings.batch)
    bound = steps * settings.rate * settings.clip / (1 - settings.momentum)
    assert np.linalg.norm(update) <= bound


def test_flatten_and_unflatten_are_inverse():
    model = training.initial(5, 3)
    vector = training.flatten(model)
    assert vector.shape == (5 * training.HIDDEN + training.HIDDEN + training.HIDDEN * 3 + 3,)
    back = training.unflatten(vector, model)
    assert list(back) == sorted(model)
    for name, value in model.items():
        np.testing.assert_array_equal(back[name], value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_is_not_finite_gets_nothing_right(value):
    split = data.load()
    model = training.initial(split.features, 2)
    assert training.accuracy(model, split.test_x, split.test_y) > 0
    model["hidden.bias"][0] = value
    assert training.accuracy(model, split.test_x, split.test_y) == 0
