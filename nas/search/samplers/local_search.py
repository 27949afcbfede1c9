"""Local search: the neighbours of the best network so far, in random order, and a new start where none is better."""

from __future__ import annotations

from collections.abc import Sequence
from math import isinf
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from nas.search.samplers._draw import Draw
from nas.search.samplers._moves import MovingSampler, Past
from nas.search.samplers.known import Known

START = "nas:local_search:start"


class LocalSearchSampler(MovingSampler):
    """Suggest networks by local search.

    From a random network its neighbours, one choice away, are tried in random order; as soon as one is better, its own neighbours
    are. Where all have been tried, the search begins anew at a random network. A trial that was begun by others (a user's, a
    former run's) counts as if it had been a neighbour, so a search that finds trials starts at the best of them.
    Source: White et al. 2021, arXiv:2005.02960, Algorithm 1; there all neighbours are tried before it moves to the best of them.

    With several workers the neighbours are tried at the same time. While the last of them are still running, others get
    random networks. Where a search begins anew is written to the trial that it begins with.

    Args:
        seed, known: See `MovingSampler`.
    """

    MARK = START

    def next(
        self, study: optuna.Study, trial: FrozenTrial, known: Known, past: Sequence[Past], draw: Draw
    ) -> dict[str, Any]:
        """Return a neighbour that has not been tried, or a random network."""
        start = max((item.number for item in past if item.mark), default=0)
        climb = [(item.value, item.params) for item in past if item.number >= start and item.value is not None]
        if climb:
            best = max(climb, key=lambda one: one[0])[1]  # the first of equals: it moves only where it gains
            near = draw.neighbours(best)
            for place in map(int, self._rng.permutation(len(near))):
                if draw.is_new(near[place]):
                    return near[place]
            around = {known.network(params) for params in near}
            if not any(isinf(item.ended) and known.network(item.params) in around for item in past):
                study._storage.set_trial_system_attr(trial._trial_id, START, True)
        return draw.random_new()
