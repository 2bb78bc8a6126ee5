"""Who trains in a federation, who attacks it, and what they all send in a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tallystick.attacks import AnyRule

from . import attacks, data, training

__all__ = ["Clients", "choose"]


def choose(ids: Sequence[str], count: int, seed: int) -> tuple[str, ...]:
    """The hostile ones: `count` of the ids, drawn by the seed, sorted."""
    rng = np.random.default_rng([seed, 3])
    return tuple(sorted(rng.choice(np.array(ids), count, replace=False).tolist()))


@dataclass(frozen=True)
class Clients:
    """The clients of a federation, some of them hostile. strength None: the attack's own.

    One seed gives one run: the batches of a client depend on seed, round and client alone, so that runs
    differ only by attack and rule.
    """

    federation: data.Federation
    hostile: tuple[str, ...]
    attack: str
    strength: float | None
    seed: int
    settings: training.Training = field(default_factory=training.Training)

    def honest(self, model: training.Model, number: int) -> list[training.Model]:
        """Updates of round `number` if everybody is honest, in the order of the clients' ids."""
        return [self._train(model, number, i) for i in range(len(self.federation.hospitals))]

    def attacked(self, model: training.Model, number: int, rule: AnyRule = "mean") -> list[training.Model]:
        """The same, with the updates of hostile clients forged from all honest ones. rule: the one in use,
        which some attacks adapt to.
        """
        chosen = attacks.attack(self.attack)
        hostile = [h.id in self.hostile for h in self.federation.hospitals]
        sent = {
            h.id: self._train(model, number, i, flip=hostile[i])
            for i, h in enumerate(self.federation.hospitals)
            if chosen.trains or not hostile[i]
        }
        if chosen.function is not None:
            forged = attacks.forge(
                self.attack,
                np.stack([training.flatten(sent[c]) for c in sent if c not in self.hostile]),
                len(self.hostile),
                strength=self.strength,
                seed=[self.seed, 5, number],
                rule=rule,
                trained=np.mean([training.flatten(sent[c]) for c in self.hostile], axis=0)
                if chosen.trains and self.hostile
                else np.zeros(sum(value.size for value in model.values())),
            )
            for client, vector in zip(self.hostile, forged, strict=True):
                sent[client] = training.unflatten(vector, model)
        return [sent[h.id] for h in self.federation.hospitals]

    def _train(self, model: training.Model, number: int, i: int, *, flip: bool = False) -> training.Model:
        client = self.federation.hospitals[i]
        if flip:
            wrong = attacks.flip_labels(client.y, len(self.federation.classes))
            client = data.Hospital(client.id, client.x, wrong)
        return training.train(model, client, self.settings, [self.seed, 4, number, i])
