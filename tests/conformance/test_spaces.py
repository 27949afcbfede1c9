"""What every shipped space and reference network must do."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from nas.catalog import baseline, load_space
from nas.cost import count
from nas.lint import lint
from nas.models import build
from nas.space import SearchSpace, choices, decode, forbidden, library, random_choose
from nas.train.recipes import load_recipe

NAMES = library.names()
SPACES = [name for name in NAMES if not name.startswith("reference/")]


@pytest.fixture(params=NAMES, scope="module")
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return load_space(request.param)


def test_it_says_what_it_is(space: SearchSpace) -> None:
    assert space.name in {name.removeprefix("reference/") for name in NAMES}
    assert space.reference
    assert len(space.space_hash) == 16
    assert load_recipe(space.recipe)


def test_random_networks_have_positive_counts_and_most_are_distinct(space: SearchSpace) -> None:
    rng = random.Random(0)
    samples = 200 if choices(space) else 20
    specs = [decode(space, random_choose(rng)) for _ in range(samples)]
    for spec in specs:
        params, macs = count(spec)
        assert params > 0
        assert macs > 0
    expected = samples if choices(space) else 1
    assert len({spec.arch_hash for spec in specs}) >= 0.95 * expected


def test_random_networks_build_and_run_at_the_smallest_resolution(space: SearchSpace) -> None:
    rng = random.Random(1)
    small = min(int(value) for value in space.resolution.values)
    if not choices(space):
        small = 64  # of fixed networks the outputs are compared elsewhere, and the largest takes half a minute at its own size
    for _ in range(6 if small <= 32 else 1):
        spec = decode(space, random_choose(rng), num_classes=10)
        network = build(spec, seed=0).eval()
        assert sum(parameter.numel() for parameter in network.parameters()) == count(spec).params
        with torch.no_grad():
            out = network(torch.randn(2, 3, small, small))
        assert out.shape == (2, 10)
        assert out.isfinite().all()


@pytest.mark.parametrize("name", SPACES)
def test_the_baseline_is_of_the_spaces_size(name: str) -> None:
    found = load_space(name)
    assert found.baseline is not None
    report = lint(found, samples=200)
    params, macs = count(found.baseline)
    assert 0.8 * report.params[0] <= params <= 1.25 * report.params[2]
    assert 0.8 * report.macs[0] <= macs <= 1.25 * report.macs[2]
    assert found.baseline.resolution == found.resolution.values[0]
    assert forbidden(found, found.baseline) == []


@pytest.mark.parametrize("name", SPACES)
def test_a_search_of_it_makes_sense(name: str) -> None:
    report = lint(load_space(name), samples=200)
    assert report.size is not None
    assert report.size > 1000
    assert report.warnings == ()
    assert report.forbidden + report.infeasible < 0.9 * report.sampled


@pytest.mark.parametrize("name", [name for name in SPACES if name.endswith("_tiny")])
def test_the_baseline_of_a_tiny_space_trains_a_step(name: str) -> None:
    spec = replace(baseline(load_space(name), num_classes=10, in_channels=1), drop_path=0.2)
    network = build(spec, seed=0).train()
    loss = torch.nn.functional.cross_entropy(network(torch.randn(8, 1, 32, 32)), torch.arange(8))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2.3, abs=0.6)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
