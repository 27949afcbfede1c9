from __future__ import annotations

import random

import numpy as np
import pytest

from nas.cost import block_table, count
from nas.cost.block_table import FAR, LEAST, _best_ridge, _design, features, fit
from nas.errors import MeasurementError
from nas.models import places
from nas.space import SearchSpace, decode
from nas.spec import ArchSpec


def different(space: SearchSpace, number: int, seed: int = 0) -> list[ArchSpec]:
    rng, found = random.Random(seed), dict[str, ArchSpec]()
    while len(found) < number:
        spec = decode(space, lambda name, domain: rng.choice(domain.values), num_classes=3, in_channels=3)
        found.setdefault(spec.arch_hash, spec)
    return list(found.values())


def truth(spec: ArchSpec) -> float:
    """An additive time in which multiply-adds of MBConv are slow, and every block costs something by itself."""
    time = 1.0
    for place in places(spec):
        macs = block_table.BLOCKS[place.layer.block].count(place.args, place.size).macs
        time += 0.7 + macs / (5e3 if place.layer.block == "mbconv" else 5e4)
    return time


def test_an_additive_truth_is_recovered_and_multiply_adds_alone_are_not_enough(tiny_space: SearchSpace) -> None:
    specs = different(tiny_space, 80)
    times = [truth(spec) for spec in specs]
    table = fit(specs[:60], times[:60])
    off = [abs(table.predict(spec).ms / time - 1) for spec, time in zip(specs[60:], times[60:], strict=True)]
    assert np.median(off) < 0.02
    assert table.error.networks == 60 and table.error.spearman > 0.99 and table.error.median_error < 0.02
    assert table.macs_error.spearman < 0.95 and table.macs_error.median_error > 3 * table.error.median_error


def test_errors_left_out_are_those_of_fitting_without_each_network(tiny_space: SearchSpace) -> None:
    specs = different(tiny_space, 24)
    rng = np.random.default_rng(0)
    times = np.array([truth(spec) for spec in specs]) * rng.normal(1, 0.1, len(specs))
    times /= np.median(times)
    rows = [features(spec) for spec in specs]
    columns = {key: number for number, key in enumerate(dict.fromkeys(key for row in rows for key in row), 1)}
    units = {name: float(np.mean([row[(), name] for row in rows])) for name in block_table.WORK}
    design = _design(rows, columns, units)
    fitted = {strength: _best_ridge(design, times, (strength,)) for strength in (0.01, 0.3, 10.0)}
    for strength, ridge in fitted.items():
        for left in range(len(specs)):
            kept = np.arange(len(specs)) != left
            part = design[kept] / times[kept, None]
            rates = np.linalg.solve(part.T @ part + strength * np.eye(part.shape[1]), part.sum(axis=0))
            assert ridge.left_out[left] == pytest.approx(1 - design[left] @ rates / times[left], abs=1e-8)
    best = min(fitted, key=lambda strength: float(np.sum(fitted[strength].left_out ** 2)))
    assert _best_ridge(design, times, tuple(fitted)).strength == best


def test_the_stated_error_is_the_error_and_larger_where_blocks_are_unknown(tiny_space: SearchSpace) -> None:
    specs = different(tiny_space, 260)
    noise = np.random.default_rng(0).normal(1, 0.08, len(specs))
    times = np.array([truth(spec) for spec in specs]) * noise
    table = fit(specs[:60], times[:60])
    found = [table.predict(spec) for spec in specs[60:]]
    scores = np.array([(time / item.ms - 1) / item.error for item, time in zip(found, times[60:], strict=True)])
    assert 0.7 < np.sqrt(np.mean(scores**2)) < 1.4
    assert np.mean([time < item.low_ms for item, time in zip(found, times[60:], strict=True)]) < 0.02
    of_mbconv = [spec for spec in specs if spec.stages[0].layers[0].block == "mbconv"]
    others = [spec for spec in specs if spec.stages[0].layers[0].block != "mbconv"]
    narrow = fit(of_mbconv[:40], [truth(spec) for spec in of_mbconv[:40]])
    unknown, known = (np.median([narrow.predict(spec).error for spec in some[40:60]]) for some in (others, of_mbconv))
    assert unknown > 2 * known


def test_a_drift_of_the_machine_cancels_and_is_in_the_lower_bound(tiny_space: SearchSpace) -> None:
    specs = different(tiny_space, 40)
    times = np.array([truth(spec) for spec in specs])
    drift = np.random.default_rng(0).uniform(1, 2, len(specs))
    steady, drifting = fit(specs, times, np.full(40, 10.0)), fit(specs, times * drift, 10.0 * drift)
    assert drifting.error.median_error == pytest.approx(steady.error.median_error)
    assert fit(specs, times * drift).error.median_error > 5 * drifting.error.median_error
    one = drifting.predict(specs[0])
    assert one.ms == pytest.approx(steady.predict(specs[0]).ms * np.median(drift))
    assert one.low_ms == pytest.approx(one.ms / (1 + FAR * one.error) * drift.min() / np.median(drift))


def test_too_few_networks_say_nothing(tiny_space: SearchSpace) -> None:
    specs = different(tiny_space, LEAST)
    times = [float(count(spec).macs) for spec in specs]
    assert fit(specs, times).error.networks == LEAST
    with pytest.raises(MeasurementError, match="found the step times of 19 networks; allowed: 20 or more"):
        fit(specs[1:], times[1:])
