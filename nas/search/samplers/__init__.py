"""Samplers by name, each with every setting written out, so that a new Optuna changes no search silently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import optuna

from nas.errors import UsageError
from nas.registry import Registry
from nas.search.samplers.arch import ArchSampler
from nas.search.samplers.evolution import EvolutionSampler
from nas.search.samplers.front import FrontSampler
from nas.search.samplers.known import Known
from nas.search.samplers.local_search import LocalSearchSampler
from nas.search.stopping import Halving

Make = Callable[[int, Known | None], optuna.samplers.BaseSampler]
"""Makes a sampler from a seed and what is known of the space, where that is known."""

SAMPLERS: Registry[Make] = Registry("sampler")


def _gp(seed: int, known: Known | None) -> optuna.samplers.BaseSampler:
    if find_spec("scipy") is None:  # optuna asks for it only after the random trials, in the middle of a search
        raise UsageError("--sampler gp: needs SciPy, which is not installed. Run: pip install 'phinas[gp]'")
    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=20, deterministic_objective=False)


SAMPLERS.register("arch", lambda seed, known: ArchSampler(seed, known=known))
SAMPLERS.register("random", lambda seed, known: optuna.samplers.RandomSampler(seed=seed))
SAMPLERS.register(
    "tpe",
    lambda seed, known: optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=20,
        n_ei_candidates=64,
        multivariate=True,
        group=False,
        constant_liar=True,
    ),
)
SAMPLERS.register("gp", _gp)
SAMPLERS.register("nsga2", lambda seed, known: optuna.samplers.NSGAIISampler(seed=seed, population_size=20))
SAMPLERS.register("evolution", lambda seed, known: EvolutionSampler(seed, known=known))
SAMPLERS.register("local", lambda seed, known: LocalSearchSampler(seed, known=known))

FRONTS: Registry[Make] = Registry("sampler with --objective pareto")
"""Samplers that look for a front. The study's directions are then accuracy, to be maximized, and each cost, to be minimized."""

FRONTS.register("arch", lambda seed, known: FrontSampler(seed, known=known))
for _name in ("random", "gp", "nsga2"):
    FRONTS.register(_name, SAMPLERS[_name])
FRONTS.register(
    "tpe",
    # Optuna's own choice for several objectives: each parameter by itself.
    lambda seed, known: optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=20, n_ei_candidates=64, multivariate=False, constant_liar=True
    ),
)


def maker(name: str, costs: Sequence[str]) -> Make:
    """Return what makes a sampler.

    Args:
        costs: That accuracy is traded against; none where one score is maximized.

    Raises:
        UnknownNameError: no such sampler. UsageError: one that cannot look for a front.
    """
    if not costs:
        return SAMPLERS[name]
    if name in SAMPLERS and name not in FRONTS:
        raise UsageError(
            f"--sampler: found {name}, which looks for one best network; allowed with --objective pareto: "
            f"{', '.join(FRONTS)}. Give one of these."
        )
    return FRONTS[name]


PRUNERS: Registry[Callable[[], optuna.pruners.BasePruner]] = Registry("pruner")

PRUNERS.register("none", optuna.pruners.NopPruner)
PRUNERS.register("halving", Halving)
PRUNERS.register(
    "median",
    # A trial is compared with others at the same phase, that is at the same resolution; ten must have been there.
    lambda: optuna.pruners.MedianPruner(n_startup_trials=10, n_warmup_steps=0, interval_steps=1, n_min_trials=10),
)
