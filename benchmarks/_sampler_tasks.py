"""What `benchmarks.samplers` searches: tables of trained networks, and made tasks whose every network can be computed.

`TASKS[name](data)` returns a `Task`. `macro` and `nb201` are measurements of others, read from the folder `data`. `stages` and
`layers` are synthetic: nothing in them was ever trained. They are drawn from a seed, and there are more of them
(`stages-1`, `layers-1`), for a sampler that is tuned on one draw must show that it was not tuned to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from nas.search.samplers.known import Known, Params, values_of

DATA = Path("../shared/data")
TIME, SIZE = -0.07, -0.05
"""Exponents of the score: EfficientNetV2's, and the defaults of a search."""

Array = np.ndarray[Any, Any]
Term = tuple[tuple[int, ...], Array]
"""A table over a few choices, by their columns: one part of a sum."""


@dataclass(frozen=True)
class Task:
    """A search with a known end.

    Args:
        known: What a sampler may know before it begins.
        observe: What one training of a network shows: its score with noise from the generator.
        true: What the network is judged by. Higher is better.
        optimum: The best true score; of a made task the best that a long noise-free search found.
        mean: The mean true score of permitted networks.
        slack: By how much a network breaks the limit, on a logarithmic scale; more than 0 is forbidden.
        about: Where the figures are from.
    """

    known: Known
    observe: Callable[[Params, np.random.Generator], float]
    true: Callable[[Params], float]
    optimum: float
    mean: float
    slack: Callable[[Params], float]
    about: str


# --- tables -----------------------------------------------------------------------------------------------


def macro(data: Path = DATA) -> Task:
    """NAS-Bench-Macro: eight layers of three operations. A search sees one of three seeds, drawn anew for each network."""
    with np.load(data / "nas_bench_macro.npz") as file:
        x, accuracy, params, flops = (file[name] for name in ("x", "test_acc", "params", "flops"))
    factor = _factor(flops, TIME) * _factor(params, SIZE)
    distributions = {f"layer{place}": IntDistribution(0, 2) for place in range(x.shape[1])}
    scores = accuracy / 100 * factor[:, None]
    return _table(
        distributions,
        [tuple(map(int, row)) for row in x],
        scores,
        scores.mean(1),
        {"flops": np.log(flops), "num_params": np.log(params)},
        "NAS-Bench-Macro (Su et al. 2021): CIFAR-10, test accuracy of one seed of three, judged by their mean",
    )


def nb201(data: Path = DATA, images: str = "cifar10") -> Task:
    """NAS-Bench-201: a cell of six edges with five operations, without order. The latency is a measurement: no cost is known.

    A search sees the validation accuracy of a training on half of the images. It is judged by the test accuracy of one on all
    of them. The file does not say how long the trainings were; accuracies are those of the short ones (12 passes).
    """
    with np.load(data / "nb201.npz") as file:
        x, accuracy, latency = file["x"], file["acc"], file["lat"]
        ops, columns, devices = (list(map(str, file[name])) for name in ("ops", "acc_names", "lat_names"))
    scores = accuracy / 100 * _factor(latency[:, devices.index("titan_rtx_256")], TIME)[:, None]
    return _table(
        {f"edge{place}": CategoricalDistribution(ops) for place in range(x.shape[1])},
        [tuple(ops[place] for place in row) for row in x],
        scores[:, [columns.index(f"{images}-val")]],
        scores[:, columns.index(f"{images}-test")],
        {},
        f"NAS-Bench-201 (Dong & Yang 2020), {images}: sees validation accuracy, judged by test accuracy; latency from HELP",
    )


def _factor(cost: Array, exponent: float) -> Array:
    return np.asarray((cost / np.median(cost)) ** exponent)


def _table(
    distributions: Mapping[str, BaseDistribution],
    rows: Sequence[tuple[Any, ...]],
    seen: Array,
    true: Array,
    costs: Mapping[str, Array],
    about: str,
) -> Task:
    """Return the task of a table. `seen` has a column for each training of a network, of which one is drawn."""
    places = {row: place for place, row in enumerate(rows)}
    names = tuple(distributions)
    everything = frozenset(names)

    def row(params: Params) -> tuple[Any, ...]:
        return tuple(params[name] for name in names)

    return Task(
        known=Known(
            distributions,
            network=row,
            active=lambda params: everything,
            cost=lambda params: {name: float(values[places[row(params)]]) for name, values in costs.items()},
        ),
        observe=lambda params, rng: float(seen[places[row(params)], rng.integers(seen.shape[1])]),
        true=lambda params: float(true[places[row(params)]]),
        optimum=float(true.max()),
        mean=float(true.mean()),
        slack=lambda params: 0.0,
        about=about,
    )


# --- made tasks -------------------------------------------------------------------------------------------

NOISE = 0.008
"""Standard deviation of a training's accuracy: between the 0.5 and 1 % of short trainings."""
DRAWN = 4000
"""Random networks that say what is usual in a space."""
KERNELS, EXPANSIONS = (3, 5, 7), (2, 4, 6)


def stages(data: Path = DATA, seed: int = 0) -> Task:
    """Seven stages, each with a block, kernel, expansion, depth and squeeze-excitation: 35 choices."""
    widths, pixels = (16, 16, 24, 40, 48, 64, 96, 128), (32, 32, 16, 16, 8, 8, 4)
    choices: dict[str, BaseDistribution] = {}
    size: list[Term] = []
    work: list[Term] = []
    for place, (before, after, side) in enumerate(zip(widths, widths[1:], pixels, strict=False)):
        where = tuple(range(len(choices), len(choices) + 5))
        choices |= {
            f"s{place}.block": CategoricalDistribution(("fused", "mbconv")),
            f"s{place}.kernel": IntDistribution(0, 2),
            f"s{place}.expand": IntDistribution(0, 2),
            f"s{place}.depth": IntDistribution(0, 3),
            f"s{place}.se": CategoricalDistribution((False, True)),
        }

        def stage(block: int, kernel: int, expand: int, depth: int, se: int, ends: tuple[int, int]) -> tuple[int, int]:
            layers = [
                _layer(block, kernel, expand, se, *ends),
                *[_layer(block, kernel, expand, se, ends[1], ends[1])] * depth,
            ]
            return sum(one[0] for one in layers), sum(one[1] for one in layers)

        table = _tabled((2, 3, 3, 4, 2), partial(stage, ends=(before, after)))
        size.append((where, table[..., 0]))
        work.append((where, table[..., 1] * side**2))
    return _made(choices, {}, size, work, seed)


def layers(data: Path = DATA, seed: int = 0) -> Task:
    """Four stages of up to two or three layers that each have a kernel and an expansion; a stage's depth masks the rest."""
    widths, most = (16, 16, 32, 48, 80), (2, 3, 3, 3)
    choices: dict[str, BaseDistribution] = {
        "activation": CategoricalDistribution(("relu", "silu", "hswish")),
        "resolution": IntDistribution(0, 2),
    }
    gates: dict[str, tuple[str, int]] = {}
    size: list[Term] = []
    work: list[Term] = []
    for stage, (before, after, deep) in enumerate(zip(widths, widths[1:], most, strict=False)):
        choices |= {
            f"s{stage}.block": CategoricalDistribution(("fused", "mbconv")),
            f"s{stage}.depth": IntDistribution(0, deep - 1),
        }
        block, depth = len(choices) - 2, len(choices) - 1
        for place in range(deep):
            names = [f"s{stage}.l{place}.kernel", f"s{stage}.l{place}.expand"]
            choices |= dict.fromkeys(names, IntDistribution(0, 2))
            gates |= dict.fromkeys(names, (f"s{stage}.depth", place))
            where = (block, depth, len(choices) - 2, len(choices) - 1)
            ends = (before if place == 0 else after, after)

            def layer(
                block: int, depth: int, kernel: int, expand: int, place: int, ends: tuple[int, int]
            ) -> tuple[int, int]:
                return _layer(block, kernel, expand, 0, *ends) if depth >= place else (0, 0)

            table = _tabled((2, deep, 3, 3), partial(layer, place=place, ends=ends))
            side = np.array([24, 28, 32]) // 2**stage
            size.append((where, table[..., 0]))
            work.append(((1, *where), np.multiply.outer(side**2, table[..., 1])))
    return _made(choices, gates, size, work, seed)


def _layer(block: int, kernel: int, expand: int, se: int, before: int, after: int) -> tuple[int, int]:
    """Return parameters, and multiply-adds per pixel, of a (fused) inverted residual."""
    middle = EXPANSIONS[expand] * before
    window = KERNELS[kernel] ** 2
    work = middle * after + (window * before * middle if block == 0 else before * middle + window * middle)
    return work + se * 2 * middle * before // 4, work


def _tabled(sizes: tuple[int, ...], value: Callable[..., tuple[int, int]]) -> Array:
    rows = [value(*one) for one in itertools.product(*map(range, sizes))]
    return np.array(rows, dtype=float).reshape(*sizes, 2)


def _total(terms: Sequence[Term], columns: Sequence[Any]) -> Any:
    """Return the sum of tables: of one network, given its indices, or of many, given a column of indices for each choice."""
    return sum(table[tuple(columns[place] for place in where)] for where, table in terms)


def _made(
    choices: Mapping[str, BaseDistribution],
    gates: Mapping[str, tuple[str, int]],
    size: Sequence[Term],
    work: Sequence[Term],
    seed: int,
) -> Task:
    """Draw how accurate networks are, and return the task.

    Quality = the logarithm of the size + an effect of each choice + one of random pairs of choices, of weights 1, 1 and 0.7 in
    standard deviations over random networks; accuracy = 0.55 + 0.3 / (1 + exp(-0.4 quality)). Effects are free tables; those
    of ordered choices go more often up than down. Networks larger than the median of random ones are forbidden.

    Args:
        gates: Choices that are masked: by which choice, unless its index is at least that. size, work: Parameters and
            multiply-adds as sums of tables.
    """
    rng = np.random.default_rng([seed, len(choices)])
    names = tuple(choices)
    options = [values_of(name, item) for name, item in choices.items()]
    sizes = [len(values) for values in options]
    masks = {names.index(name): (names.index(by), least) for name, (by, least) in gates.items()}
    main = [_gated((place,), _effect(item, rng), masks, sizes) for place, item in enumerate(choices.values())]
    pairs = list(itertools.combinations(range(len(names)), 2))
    drawn = rng.choice(len(pairs), 2 * len(names), replace=False)
    mixed = [
        _gated(pair, rng.standard_normal([sizes[place] for place in pair]), masks, sizes)
        for pair in (pairs[number] for number in drawn)
    ]
    sample = np.stack([rng.integers(count, size=DRAWN) for count in sizes])
    parts: list[Callable[[Any], Any]] = [
        lambda x: np.log(_total(size, x)),
        partial(_total, main),
        partial(_total, mixed),
    ]
    usual = [(float(values.mean()), float(values.std())) for values in (part(sample) for part in parts)]
    limit = float(np.median(_total(size, sample)))
    middle = float(np.median(_total(work, sample)))

    def factor(x: Sequence[Any]) -> Any:
        return (_total(work, x) / middle) ** TIME * (_total(size, x) / limit) ** SIZE

    def accuracy(x: Sequence[Any]) -> Any:
        scaled = [(part(x) - mean) / spread for part, (mean, spread) in zip(parts, usual, strict=True)]
        return 0.55 + 0.3 / (1 + np.exp(-0.4 * (scaled[0] + scaled[1] + 0.7 * scaled[2])))

    def permitted(x: Sequence[Any]) -> Any:
        return _total(size, x) <= limit

    def indices(params: Params) -> list[int]:
        return [values.index(params[name]) for name, values in zip(names, options, strict=True)]

    def active(params: Params) -> frozenset[str]:
        return frozenset(name for name in names if name not in gates or params[gates[name][0]] >= gates[name][1])

    def network(params: Params) -> Hashable | None:
        if not permitted(indices(params)):
            return None
        there = active(params)
        return tuple(params[name] if name in there else None for name in names)

    def cost(params: Params) -> dict[str, float]:
        x = indices(params)
        return {"num_params": float(np.log(_total(size, x))), "macs": float(np.log(_total(work, x)))}

    def observe(params: Params, rng: np.random.Generator) -> float:
        x = indices(params)
        return float((accuracy(x) + NOISE * rng.standard_normal()) * factor(x))

    def true(x: Sequence[Any]) -> Any:
        return accuracy(x) * factor(x)

    return Task(
        known=Known(choices, network, active, cost),
        observe=observe,
        true=lambda params: float(true(indices(params))),
        optimum=_best(true, permitted, sizes, rng),
        mean=float(true(sample)[permitted(sample)].mean()),
        slack=lambda params: float(np.log(_total(size, indices(params)) / limit)),
        about=f"synthetic, drawn from seed {seed}; nothing was trained",
    )


def _effect(item: BaseDistribution, rng: np.random.Generator) -> Array:
    """Draw the effect of each value of a choice."""
    if isinstance(item, CategoricalDistribution):
        return rng.standard_normal(len(item.choices))
    assert isinstance(item, IntDistribution)
    return np.cumsum(rng.normal(0.4, 0.8, item.high - item.low + 1))


def _gated(where: tuple[int, ...], table: Array, masks: Mapping[int, tuple[int, int]], sizes: Sequence[int]) -> Term:
    """Return a table that is 0 where one of its choices is masked."""
    for place in where:
        if place not in masks:
            continue
        by, least = masks[place]
        if by not in where:
            where = (*where, by)
            table = np.repeat(table[..., None], sizes[by], axis=-1)
        there = np.arange(sizes[by]) >= least
        table = table * there.reshape([-1 if one == by else 1 for one in where])
    return where, table


def _best(
    score: Callable[[Any], Any], permitted: Callable[[Any], Any], sizes: Sequence[int], rng: np.random.Generator
) -> float:
    """Return the best score that climbing finds: from many starts by single changes, from the best of their ends by pairs."""
    singles = [(place, value) for place, count in enumerate(sizes) for value in range(count)]

    def climbed(x: Array, steps: Sequence[Sequence[tuple[int, int]]]) -> tuple[Array, Array]:
        now = np.where(permitted(x.T), score(x.T), -np.inf)
        while True:
            near = np.repeat(x[:, None], len(steps), axis=1)
            for number, step in enumerate(steps):
                for place, value in step:
                    near[:, number, place] = value
            flat = near.reshape(-1, len(sizes)).T
            values = np.where(permitted(flat), score(flat), -np.inf).reshape(len(x), -1)
            chosen = values.argmax(1)
            better = values.max(1) > now
            if not better.any():
                return x, now
            x = np.where(better[:, None], near[np.arange(len(x)), chosen], x)
            now = np.maximum(now, values.max(1))

    starts = np.stack([rng.integers(count, size=60) for count in sizes], axis=1)
    ends, values = climbed(starts, [[one] for one in singles])
    _, values = climbed(ends[np.argsort(-values)[:3]], list(itertools.combinations(singles, 2)))
    return float(values.max())


Make = Callable[..., Task]

TASKS: Mapping[str, Make] = {
    "macro": macro,
    "nb201": nb201,
    "nb201-cifar100": partial(nb201, images="cifar100"),
    "nb201-imagenet": partial(nb201, images="imagenet"),
    "stages": stages,
    "layers": layers,
    "stages-1": partial(stages, seed=1),
    "layers-1": partial(layers, seed=1),
}


@lru_cache(8)
def task(name: str, data: Path) -> Task:
    """Return a task by name, made once."""
    return TASKS[name](data)
