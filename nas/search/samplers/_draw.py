"""Networks that a sampler may suggest: drawn at random, changed a little, climbed to; none twice, none forbidden."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from nas.search.samplers.gaussian import Array
from nas.search.samplers.known import Known, Params, values_of

POOL = 200
"""Random networks that are looked at for a suggestion, and as many small changes of the best."""

DRAWN = 1000
"""Draws for as many networks, at most, where limits leave only some."""

CLIMBS = 2
"""How many of the best of them are climbed from."""

LOOKED_UP = 300
"""Networks that are made for a suggestion, at most, to see whether they are new and permitted."""

TRIES = 1000
"""Draws after which networks that are permitted are taken to be too rare to be met by chance."""

WALKS = 50
"""Walks towards the limits after which a space is taken to have no new network that is permitted."""


class Draw:
    """Draws networks for one suggestion.

    Args:
        met: Networks that are not to come again.
    """

    def __init__(self, known: Known, met: set[Hashable], rng: np.random.Generator) -> None:
        self._known, self._met, self._rng = known, met, rng
        self._values = {name: values_of(name, item) for name, item in known.distributions.items()}
        self._names = [name for name, values in self._values.items() if len(values) > 1]

    def random(self) -> dict[str, Any]:
        """Return a network at random."""
        return {name: values[self._rng.integers(len(values))] for name, values in self._values.items()}

    def is_new(self, params: Params) -> bool:
        """Whether a network is permitted and not met yet."""
        network = self._known.network(params)
        return network is not None and network not in self._met

    def is_within(self, params: Params) -> bool:
        """Whether a network is within the limits that can be counted."""
        return self._known.beyond is None or self._known.beyond(params) <= 0

    def random_new(self) -> dict[str, Any]:
        """Return a new network at random; one that is not new where none is found.

        Where chance finds none, for limits leave less than one network in a thousand, it walks from random ones to the limits.
        """
        for number in range(TRIES + WALKS):
            params = self.random() if number < TRIES else self._walked(self.random())
            if self.is_new(params):
                break
        return params

    def _walked(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return a network within the limits that can be counted, or one of which no single change brings it nearer to them."""
        beyond = self._known.beyond
        if beyond is None:
            return params
        here = beyond(params)
        while here > 0:
            around = self.neighbours(params)
            for i in self._rng.permutation(len(around)):  # not the best of them: walks shall end in different places
                if (there := beyond(around[i])) < here:
                    here, params = there, around[i]
                    break
            else:
                break
        return params

    def _some(self, draw: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
        """Return `POOL` networks within the limits that can be counted, fewer where they are rare among those drawn."""
        found: list[dict[str, Any]] = []
        for number in range(POOL if self._known.beyond is None else DRAWN):
            params = draw(number)
            if self.is_within(params):
                found.append(params)
                if len(found) == POOL:
                    break
        return found

    def changed(self, params: Params) -> dict[str, Any]:
        """Return a network with one to three choices made anew."""
        changed = dict(params)
        shaping = self._known.active(params)
        active = [name for name in self._names if name in shaping] or self._names
        for _ in range(int(self._rng.integers(1, 4))):
            name = active[self._rng.integers(len(active))]
            others = [value for value in self._values[name] if value != params[name]]
            changed[name] = others[self._rng.integers(len(others))]
        return changed

    def neighbours(self, params: Params) -> list[dict[str, Any]]:
        """Return the networks that differ in one choice that has an effect."""
        active = self._known.active(params)
        return [
            {**params, name: value}
            for name in self._names
            if name in active
            for value in self._values[name]
            if value != params[name]
        ]

    def best_by(self, gain: Callable[[Sequence[Params]], Array], best: Sequence[Params]) -> dict[str, Any]:
        """Return the new network of the largest gain that is found: in a pool first, then by single changes.

        Args:
            gain: Told of networks, (n,). best: Good networks whose neighbourhood is worth a look.
        """
        pool = self._some(lambda _: self.random())
        pool += self._some(lambda number: self.changed(best[number % len(best)])) if best else []
        pool += [other for params in best[:2] for other in self.neighbours(params) if self.is_within(other)]
        if not pool:
            return self.random_new()
        gains = gain(pool)
        left = LOOKED_UP
        at: list[tuple[float, dict[str, Any]]] = []
        tops = set()
        for i in np.argsort(-gains, kind="stable"):
            if len(at) == CLIMBS or left == 0:
                break
            left -= 1
            if self.is_new(pool[i]) and (network := self._known.network(pool[i])) not in tops:
                tops.add(network)
                at.append((float(gains[i]), pool[i]))
        if not at:
            return self.random_new()
        ended: list[tuple[float, dict[str, Any]]] = []
        while at:
            around = [list(filter(self.is_within, self.neighbours(params))) for _, params in at]
            values = np.split(
                gain([other for others in around for other in others]), np.cumsum([len(a) for a in around])[:-1]
            )
            moved = []
            for (here, params), others, told in zip(at, around, values, strict=True):
                for i in np.argsort(-told, kind="stable"):
                    if told[i] <= here + 1e-9 or left == 0:
                        ended.append((here, params))
                        break
                    left -= 1
                    if self.is_new(others[i]):
                        moved.append((float(told[i]), others[i]))
                        break
                else:
                    ended.append((here, params))
            at = moved
        return max(ended, key=lambda item: item[0])[1]
