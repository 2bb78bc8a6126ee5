"""Attacks do what their papers say, exactly."""

from __future__ import annotations

import numpy as np
import pytest

from tallystick.demo import attacks
from tallystick.errors import ArgumentError

HONEST = np.random.default_rng(0).standard_normal((8, 33)) + 0.5
ON_UPDATES = [name for name, attack in attacks.ATTACKS.items() if not attack.on_labels]


@pytest.mark.parametrize("f", [0, 1, 2, 5])
@pytest.mark.parametrize("name", ON_UPDATES)
def test_an_attack_gives_one_row_per_attacker_and_leaves_honest_updates_alone(name, f):
    honest = HONEST.copy()
    honest.setflags(write=False)
    assert attacks.forge(name, honest, f).shape == (f, honest.shape[1])
    np.testing.assert_array_equal(honest, HONEST)


@pytest.mark.parametrize(("name", "factor"), [("sign_flip", -10), ("ipm", -0.5), ("foe", -100)])
def test_mean_attacks_send_a_multiple_of_the_honest_mean(name, factor):
    expected = np.stack([factor * HONEST.mean(axis=0)] * 2)
    np.testing.assert_array_equal(attacks.forge(name, HONEST, 2), expected)
    np.testing.assert_array_equal(attacks.forge(name, HONEST, 2, strength=-factor), expected)
    assert not np.array_equal(attacks.forge(name, HONEST, 2, strength=3), expected)


def test_alie_and_alie_minus_lie_on_both_sides_of_the_mean():
    center, deviation = HONEST.mean(axis=0), np.sqrt(np.mean((HONEST - HONEST.mean(axis=0)) ** 2, axis=0))
    np.testing.assert_allclose(attacks.alie(HONEST, 1)[0], center + 1.5 * deviation, rtol=1e-12)
    np.testing.assert_allclose(attacks.alie_minus(HONEST, 1)[0], center - 1.5 * deviation, rtol=1e-12)
    np.testing.assert_allclose(attacks.alie(HONEST, 1, strength=0)[0], center, rtol=1e-12)


def distances_to(vector):
    return [float(((row - vector) ** 2).sum()) for row in HONEST]


def test_min_max_goes_exactly_as_far_as_two_honest_updates_are_apart():
    allowed = max(max(distances_to(row)) for row in HONEST)
    sent = attacks.min_max(HONEST, 1)[0]
    assert max(distances_to(sent)) == pytest.approx(allowed, rel=1e-12)
    assert max(distances_to(attacks.min_max(HONEST, 1, strength=1.001)[0])) > allowed
    along = (HONEST.mean(axis=0) - sent) / HONEST.std(axis=0)
    assert along.min() > 0
    np.testing.assert_allclose(along, along[0], rtol=1e-9)  # minus a multiple of the standard deviation


def test_min_sum_goes_exactly_as_far_as_the_largest_sum_of_honest_distances():
    allowed = max(sum(distances_to(row)) for row in HONEST)
    sent = attacks.min_sum(HONEST, 1)[0]
    assert sum(distances_to(sent)) == pytest.approx(allowed, rel=1e-12)
    assert sum(distances_to(attacks.min_sum(HONEST, 1, strength=1.001)[0])) > allowed
    assert max(distances_to(sent)) < max(distances_to(attacks.min_max(HONEST, 1)[0]))


@pytest.mark.parametrize("name", ["min_max", "min_sum"])
@pytest.mark.parametrize("clients", [1, 3])
def test_where_honest_updates_agree_distance_attacks_cannot_leave_them(name, clients):
    same = np.stack([HONEST[0]] * clients)
    np.testing.assert_allclose(attacks.forge(name, same, 2), np.stack([HONEST[0]] * 2), rtol=1e-12)


def test_mimic_copies_one_honest_client():
    np.testing.assert_array_equal(attacks.mimic(HONEST, 3), np.stack([HONEST[0]] * 3))
    np.testing.assert_array_equal(attacks.mimic(HONEST, 1, strength=7)[0], HONEST[7])


@pytest.mark.parametrize("client", [-1, 8, 0.5])
def test_mimic_refuses_a_client_that_is_not_there(client):
    with pytest.raises(ArgumentError, match="index from 0 to 7"):
        attacks.forge("mimic", HONEST, 1, strength=client)


def test_gaussian_noise_follows_its_generator_and_its_strength():
    wide = np.zeros((1, 100_000))
    first = attacks.forge("gaussian", wide, 2, strength=3, rng=np.random.default_rng(1))
    again = attacks.forge("gaussian", wide, 2, strength=3, rng=np.random.default_rng(1))
    other = attacks.forge("gaussian", wide, 2, strength=3, rng=np.random.default_rng(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])
    assert first.std() == pytest.approx(3, rel=0.02)


def test_zero_nan_and_inf_send_nothing_else():
    assert not attacks.zero(HONEST, 2).any()
    assert np.isnan(attacks.nan(HONEST, 2)).all()
    assert np.isposinf(attacks.inf(HONEST, 2)).all()
    assert np.isneginf(attacks.inf(HONEST, 2, strength=-1)).all()


def test_flipping_labels_twice_gives_them_back():
    y = np.array([0, 1, 2, 9])
    np.testing.assert_array_equal(attacks.flip_labels(y, 10), [9, 8, 7, 0])
    np.testing.assert_array_equal(attacks.flip_labels(attacks.flip_labels(y, 10), 10), y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("krum", HONEST, 1), "sign_flip, ipm, foe"),
        (("label_flip", HONEST, 1), "flip_labels"),
        (("zero", HONEST, -1), "0 or more"),
        (("zero", HONEST[:0], 1), "at least one row"),
        (("zero", HONEST[0], 1), "at least one row"),
    ],
)
def test_forge_refuses(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        attacks.forge(*arguments)


@pytest.mark.parametrize("strength", [np.nan, np.inf, -np.inf])
def test_forge_refuses_a_strength_that_is_not_finite(strength):
    with pytest.raises(ArgumentError, match="finite"):
        attacks.forge("alie", HONEST, 1, strength=strength)
