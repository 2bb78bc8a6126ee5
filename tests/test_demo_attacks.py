"""The demo's attacks by name: each reaches its function with its one number, and labels are flipped."""

from __future__ import annotations

import numpy as np
import pytest

from tallystick import attacks as functions
from tallystick.demo import attacks, clients, data, training
from tallystick.errors import ArgumentError

HONEST = np.random.default_rng(0).standard_normal((8, 33)) + 0.5
ON_UPDATES = [name for name, attack in attacks.ATTACKS.items() if attack.function is not None]
SENT = {  # name: what it sends with its own strength
    "sign_flip": functions.sign_flip(HONEST, 2, factor=10),
    "ipm": functions.ipm(HONEST, 2, factor=0.5),
    "foe": functions.foe(HONEST, 2, factor=100),
    "alie": functions.alie(HONEST, 2, z=1.5),
    "alie_minus": functions.alie(HONEST, 2, z=1.5, sign=-1),
    "optimal_alie": functions.optimal_alie(HONEST, 2, "median"),
    "optimal_ipm": functions.optimal_ipm(HONEST, 2, "median"),
    "min_max": functions.min_max(HONEST, 2),
    "min_sum": functions.min_sum(HONEST, 2),
    "mimic": functions.mimic(HONEST, 2, client=0),
    "gaussian": functions.gaussian(HONEST, 2, seed=3),
    "scaling": functions.scaling(HONEST, 2, target=np.ones(33)),
    "zero": functions.zero(HONEST, 2),
    "nan": functions.nan(HONEST, 2),
    "inf": functions.inf(HONEST, 2),
}


@pytest.mark.parametrize("name", ON_UPDATES)
def test_a_name_stands_for_its_function_at_the_strength_that_is_told(name):
    sent = attacks.forge(name, HONEST, 2, seed=3, rule="median", trained=np.ones(33))
    np.testing.assert_array_equal(sent, SENT[name])


@pytest.mark.parametrize(
    ("name", "strength", "expected"),
    [
        ("sign_flip", 2, functions.sign_flip(HONEST, 2, factor=2)),
        ("alie_minus", 3, functions.alie(HONEST, 2, z=3, sign=-1)),
        ("optimal_alie", 0.25, functions.optimal_alie(HONEST, 2, "median", delta=0.25)),
        ("min_max", 2, functions.min_max(HONEST, 2, factor=2)),
        ("mimic", 7, functions.mimic(HONEST, 2, client=7)),
        ("gaussian", 4, functions.gaussian(HONEST, 2, std=4)),
        ("scaling", -2, functions.scaling(HONEST, 2, target=np.full(33, -2.0))),
        ("zero", 5, np.full((2, 33), 5.0)),
        ("inf", -3, np.full((2, 33), -np.inf)),
    ],
)
def test_strength_sets_the_one_option_of_an_attack(name, strength, expected):
    sent = attacks.forge(name, HONEST, 2, strength=strength, rule="median", trained=np.ones(33))
    np.testing.assert_array_equal(sent, expected)
    assert not np.array_equal(sent, SENT[name])


def test_flipping_labels_twice_gives_them_back():
    y = np.array([0, 1, 2, 9])
    np.testing.assert_array_equal(attacks.flip_labels(y, 10), [9, 8, 7, 0])
    np.testing.assert_array_equal(attacks.flip_labels(attacks.flip_labels(y, 10), 10), y)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("krum", HONEST, 1), {}, "sign_flip, ipm, foe"),
        (("label_flip", HONEST, 1), {}, "flip_labels"),
        (("scaling", HONEST, 1), {}, "trained="),
        (("zero", HONEST, -1), {}, "0 or more"),
        (("zero", HONEST[:0], 1), {}, "at least one row"),
        (("mimic", HONEST, 1), {"strength": 0.5}, "index from 0 to 7"),
        (("alie", HONEST, 1), {"strength": np.nan}, "finite"),
        (("nan", HONEST, 1), {"strength": np.inf}, "finite"),
    ],
)
def test_forge_refuses(arguments, options, message):
    with pytest.raises(ArgumentError, match=message):
        attacks.forge(*arguments, **options)


# ---- what all clients send -------------------------------------------------------------------------------


@pytest.fixture
def federation():
    return data.load("breast_cancer", 5)


def sent(federation, attack, **options):
    hostile = (federation.hospitals[1].id, federation.hospitals[3].id)
    model = training.initial(federation.features, 2)
    who = clients.Clients(federation, hostile, attack, None, 0)
    flat = [training.flatten(u) for u in who.attacked(model, 1, **options)]
    return np.stack(flat), np.stack([training.flatten(u) for u in who.honest(model, 1)])


def test_hostile_updates_are_forged_from_the_honest_ones_and_stand_in_their_places(federation):
    updates, honest = sent(federation, "foe")
    kept = [0, 2, 4]
    np.testing.assert_array_equal(updates[kept], honest[kept])
    np.testing.assert_allclose(updates[[1, 3]], functions.foe(honest[kept], 2), rtol=1e-6, atol=0)


def test_label_flip_trains_hostile_clients_on_wrong_classes(federation):
    updates, honest = sent(federation, "label_flip")
    np.testing.assert_array_equal(updates[[0, 2, 4]], honest[[0, 2, 4]])
    wrong = data.Hospital("x", federation.hospitals[1].x, 1 - federation.hospitals[1].y)
    model = training.initial(federation.features, 2)
    expected = training.train(model, wrong, training.Training(), [0, 4, 1, 1])
    np.testing.assert_array_equal(updates[1], training.flatten(expected))


def test_scaling_makes_the_mean_what_the_flipped_clients_learnt(federation):
    flipped, _ = sent(federation, "label_flip")
    updates, _ = sent(federation, "scaling")
    np.testing.assert_allclose(updates.mean(axis=0), flipped[[1, 3]].mean(axis=0), rtol=0, atol=1e-6)


def test_an_adaptive_attack_searches_against_the_rule_it_is_told(federation):
    against = {rule: sent(federation, "optimal_ipm", rule=rule)[0][1] for rule in ("median", "mean")}
    assert np.linalg.norm(against["mean"]) > 1e3 * np.linalg.norm(against["median"])  # the mean has no bound


def test_hostile_clients_are_drawn_by_the_seed():
    ids = [f"h{i}" for i in range(20)]
    assert clients.choose(ids, 3, 1) == clients.choose(ids, 3, 1) != clients.choose(ids, 3, 2)
    assert clients.choose(ids, 0, 1) == ()
    assert len(set(clients.choose(ids, 20, 1))) == 20
