"""From a space to an architecture: names, fixed length, masking, rules."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import spaces
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.blocks import rules
from nas.cost import count
from nas.models import Network
from nas.space import (
    Domain,
    SearchSpace,
    choices,
    decode,
    forbidden,
    load,
    middle_choose,
    random_choose,
    stored_choose,
)
from nas.spec import ArchSpec, Value

PER_LAYER = """\
resolution: 32
stem: {block: conv, out_channels: 8, stride: 2}
stages:
  - {block: conv, out_channels: 8}
  - block: [mbconv, fused_mbconv]
    kernel_size: [3, 5]
    expand_ratio: [1, 4]
    out_channels: [16, 24]
    num_layers: {min: 1, max: 3}
    stride: 2
    per_layer: [kernel_size, block]
head: {}
"""
RUNS = """\
resolution: 32
stem: {block: conv, out_channels: 8}
stages:
  - out_channels: 16
    stride: 2
    layers:
      - {block: fused_mbconv, kernel_size: [3, 5], num_layers: [1, 2]}
      - {block: mbconv, kernel_size: [3, 5]}
head: {}
"""


def decoded(space: SearchSpace, **values: Value) -> ArchSpec:
    """Decode with some values given as `s2_kernel_size`, and the first value of every other domain."""
    given = {name.replace("_", ".", 1) if name[0] == "s" else name: value for name, value in values.items()}

    def choose(name: str, domain: Domain) -> Value:
        return given.pop(name, domain.values[0])

    spec = decode(space, choose)
    assert not given, f"never asked for {sorted(given)}"
    return spec


# --- names and length -------------------------------------------------------------------------------------


def test_the_names_of_choices_are_stable(here: Path) -> None:
    assert list(choices(spaces.read(here, spaces.BASE))) == [
        "resolution",
        "s1.kernel_size",
        "s1.expand_ratio",
        "s1.num_layers",
        "s2.block",
        "s2.se_ratio",
        "s2.out_channels",
    ]


def test_the_names_of_layers_and_runs_are_stable(here: Path) -> None:
    assert set(choices(spaces.read(here, PER_LAYER))) == {
        "s2.num_layers",
        "s2.expand_ratio",
        "s2.out_channels",
        *(f"s2.l{layer}.{key}" for layer in (1, 2, 3) for key in ("block", "kernel_size")),
    }
    assert set(choices(spaces.read(here, RUNS))) == {"s1.r1.kernel_size", "s1.r1.num_layers", "s1.r2.kernel_size"}


@pytest.mark.parametrize("text", [spaces.BASE, PER_LAYER, RUNS], ids=["plain", "per layer", "runs"])
def test_the_encoding_has_a_fixed_length_whatever_is_chosen(here: Path, text: str) -> None:
    space = spaces.read(here, text)
    expected = list(choices(space).items())
    for seed in range(30):
        asked: list[tuple[str, Domain]] = []
        draw = random_choose(random.Random(seed))

        def choose(name: str, domain: Domain, draw: Any = draw, asked: Any = asked) -> Value:
            asked.append((name, domain))
            return draw(name, domain)

        decode(space, choose)
        assert asked == expected


def test_numbers_are_ordered_and_names_are_not(here: Path) -> None:
    found = choices(spaces.read(here, PER_LAYER))
    assert found["s2.l1.kernel_size"] == Domain((3, 5), ordered=True)
    assert found["s2.l1.block"] == Domain(("mbconv", "fused_mbconv"), ordered=False)


# --- values -----------------------------------------------------------------------------------------------


def test_chosen_values_reach_their_layers(here: Path) -> None:
    spec = decoded(spaces.read(here, spaces.BASE), resolution=48, s1_kernel_size=5, s1_num_layers=3, s2_out_channels=24)
    assert spec.resolution == 48
    first, second = (stage.layers for stage in spec.stages)
    assert first[0]["kernel_size"] == 5
    assert first[0].num_layers == 3
    assert second[0].out_channels == 24
    assert second[0].stride == 2
    assert spec.dropout == 0.1


def test_a_key_that_a_block_does_not_read_is_masked(here: Path) -> None:
    space = spaces.read(
        here, spaces.BASE.replace("se_ratio: [0, 0.25]", "se_ratio: [0, 0.25]\n    expand_ratio: [1, 4]")
    )
    fused = {"s2_block": "fused_mbconv"}
    without, with_se = (decoded(space, **fused, s2_expand_ratio=1.0, s2_se_ratio=se) for se in (0.0, 0.25))
    assert without == with_se
    assert decoded(space, **fused, s2_expand_ratio=4.0, s2_se_ratio=0.25) != decoded(
        space, **fused, s2_expand_ratio=4.0
    )
    one, other = (decoded(space, s2_block="mbconv", s2_expand_ratio=1.0, s2_se_ratio=se) for se in (0.0, 0.25))
    assert one != other  # an MBConv squeezes without expansion too


def test_per_layer_choices_make_runs_and_equal_ones_merge(here: Path) -> None:
    space = spaces.read(here, PER_LAYER)
    given: dict[str, Value] = {name: domain.values[0] for name, domain in choices(space).items()}
    given |= {"s2.num_layers": 3, "s2.l2.kernel_size": 5, "s2.l3.kernel_size": 5}
    runs = decode(space, stored_choose(given)).stages[1].layers
    assert [(run["kernel_size"], run.num_layers, run.stride) for run in runs] == [(3, 1, 2), (5, 2, 1)]
    equal = decode(space, stored_choose(given | {"s2.l1.kernel_size": 5})).stages[1].layers
    assert [(run["kernel_size"], run.num_layers, run.stride) for run in equal] == [(5, 3, 2)]
    short = decode(space, stored_choose(given | {"s2.num_layers": 1})).stages[1].layers
    assert [(run["kernel_size"], run.num_layers) for run in short] == [(3, 1)]


def test_runs_are_chosen_apart_and_only_the_first_has_the_stride(here: Path) -> None:
    space = spaces.read(here, RUNS)
    given: dict[str, Value] = {"s1.r1.kernel_size": 5, "s1.r1.num_layers": 2, "s1.r2.kernel_size": 3}
    runs = decode(space, stored_choose(given)).stages[0].layers
    assert [(run.block, run["kernel_size"], run.num_layers, run.stride) for run in runs] == [
        ("fused_mbconv", 5, 2, 2),
        ("mbconv", 3, 1, 1),
    ]


def test_the_data_set_the_classes_and_channels(here: Path) -> None:
    space = spaces.read(here, spaces.BASE)
    spec = decode(space, middle_choose)
    assert (spec.num_classes, spec.in_channels) == (1000, 3)
    spec = decode(space, middle_choose, num_classes=10, in_channels=1)
    assert (spec.num_classes, spec.in_channels) == (10, 1)


def test_the_activation_of_a_layer_wins_over_that_of_the_network(here: Path) -> None:
    text = spaces.BASE.replace("activation: silu", "activation: [silu, relu]")
    text = text.replace("kernel_size: 3, stride: 1", "activation: relu6, stride: 1")
    spec = decoded(spaces.read(here, text), activation="relu")
    assert spec.stem.activation == "relu6"
    assert spec.stages[0].layers[0].activation == "relu"


def test_the_middle_is_the_lower_of_two() -> None:
    assert middle_choose("x", Domain((1, 2, 3), True)) == 2
    assert middle_choose("x", Domain((1, 2), True)) == 1


def test_the_same_seed_draws_the_same_networks(here: Path) -> None:
    space = spaces.read(here, PER_LAYER)

    def draw(seed: int) -> list[ArchSpec]:
        choose = random_choose(random.Random(seed))
        return [decode(space, choose) for _ in range(5)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


# --- rules ------------------------------------------------------------------------------------------------


def test_a_rule_forbids_its_combination_and_nothing_else(here: Path) -> None:
    space = spaces.read(here, spaces.BASE + "forbid:\n  - {kernel_size: 5, expand_ratio: [4, 1], stage: 1}\n")
    bad = decoded(space, s1_kernel_size=5, s1_expand_ratio=4.0)
    assert forbidden(space, bad) == ["s1: stage 1, kernel_size 5, expand_ratio 4 or 1"]
    assert forbidden(space, decoded(space, s1_expand_ratio=4.0)) == []


def test_a_rule_without_a_stage_holds_for_all_and_a_stage_narrows_it(here: Path) -> None:
    everywhere = spaces.read(here, spaces.BASE + "forbid:\n  - {kernel_size: 3}\n")
    assert [line[:2] for line in forbidden(everywhere, decoded(everywhere))] == ["s1", "s2"]
    second = spaces.read(here, spaces.BASE + "forbid:\n  - {kernel_size: 3, stage: 2}\n")
    assert [line[:2] for line in forbidden(second, decoded(second))] == ["s2"]


# --- random spaces ----------------------------------------------------------------------------------------


def some(values: list[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.sampled_from(values), st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True))


layers = st.fixed_dictionaries(
    {"block": some(["conv", "dwsep", "mbconv", "fused_mbconv"]), "out_channels": some([8, 16, 20, 24])},
    optional={
        "kernel_size": some([1, 3, 5]),
        "expand_ratio": some([1, 2, 4, 6]),
        "se_ratio": some([0, 0.25]),
        "num_layers": st.one_of(some([1, 2, 3]), st.just({"min": 1, "max": 4})),
        "stride": some([1, 2]),
        "activation": some(["silu", "relu"]),
        "skip": some(["identity", "pool", "none"]),
        "se_base": some(["input", "expanded"]),
        "se_activation": some(["block", "relu"]),
        "keep_projection": some([True, False]),
        "scale_width": st.sampled_from(["always", "up", "never"]),
        "scale_depth": st.booleans(),
    },
)
runs = st.lists(
    layers.map(lambda layer: {key: value for key, value in layer.items() if key != "stride"}), min_size=1, max_size=3
)
stages = st.one_of(
    layers,
    st.builds(
        lambda layer, keys: layer | {"per_layer": keys}, layers, st.sampled_from([["block"], ["activation", "block"]])
    ),
    st.builds(lambda found: {"layers": found, "stride": 2}, runs),
)
documents = st.fixed_dictionaries(
    {
        "resolution": some([16, 32, 64]),
        "stem": st.just({"block": "conv", "out_channels": 8}),
        "stages": st.lists(stages, min_size=1, max_size=3),
        "head": st.sampled_from(
            [{}, {"block": "conv", "out_channels": [32, 64]}, {"block": "conv", "out_channels": 32, "pool_first": True}]
        ),
    },
    optional={
        "activation": some(["silu", "hard_swish"]),
        "width_mult": some([0.5, 1, 1.25]),
        "depth_mult": some([0.5, 1, 1.4]),
        "attention": st.just("gc"),
        "se_divisor": st.just(8),
    },
)


@given(documents, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_decode_of_a_random_space_is_a_member_that_survives_its_file(
    here: Path, document: dict[str, Any], rng: random.Random
) -> None:
    known = rules()
    (here / "random.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    space = load("random.yaml", known)
    chosen: dict[str, Value] = {}

    def choose(name: str, domain: Domain) -> Value:
        assert name not in chosen
        assert len(domain.values) > 1
        chosen[name] = rng.choice(domain.values)
        return chosen[name]

    spec = decode(space, choose)
    assert set(chosen) == set(choices(space))
    assert decode(space, stored_choose(chosen)) == spec
    assert len(spec.stages) == len(space.stages)
    for stage, source in zip(spec.stages, space.stages, strict=True):
        blocks = {value for layer in source.layers for value in layer.block.values}
        widths = {value for layer in source.layers for value in layer.out_channels.values}
        for position, layer in enumerate(stage.layers):
            assert layer.block in blocks
            assert layer.out_channels in widths
            assert set(known[layer.block].all_options(dict(layer.options))) == set(known[layer.block].keys)
            assert position == 0 or layer.stride == 1
        most = sum(int(max(map(float, layer.num_layers.values))) for layer in source.layers)
        assert 1 <= stage.num_layers <= most
    (here / "again.yaml").write_text(yaml.safe_dump(spec.document()), encoding="utf-8")
    again = load("again.yaml", known)
    assert not choices(again)
    assert decode(again, choose).arch_hash == spec.arch_hash


@given(documents, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_two_decodes_with_one_hash_are_one_network_and_survive_being_resolved(
    here: Path, document: dict[str, Any], rng: random.Random
) -> None:
    (here / "random.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    space = load("random.yaml", rules())
    networks: dict[str, str] = {}
    for _ in range(6):
        spec = decode(space, random_choose(rng), num_classes=3)
        assert spec.resolved().resolved() == spec.resolved()
        assert spec.resolved().arch_hash == spec.arch_hash
        with torch.device("meta"):
            network = Network(spec)
        assert sum(parameter.numel() for parameter in network.parameters()) == count(spec).params
        assert networks.setdefault(spec.arch_hash, repr(network)) == repr(network)
