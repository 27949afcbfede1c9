"""What a space holds: exact sizes against brute force, useless choices, warnings."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas import lint as lint_module
from nas.blocks import rules
from nas.blocks._layers import skip_connection
from nas.lint import distinct, lint, union_size
from nas.models import places
from nas.space import SearchSpace, choices, decode, load, stored_choose
from nas.spec import ArchSpec

HEAD = "stem: {block: conv, out_channels: [8, 16]}\nhead: {block: conv, out_channels: [32, 64], dropout: [0, 0.2]}\n"
STAGES = {
    "masking": "{block: [fused_mbconv, mbconv, conv], expand_ratio: [1, 4], se_ratio: [0, 0.25], out_channels: 16}",
    "merging": "{block: mbconv, kernel_size: [3, 5], out_channels: 16, num_layers: [1, 3], per_layer: [kernel_size]}",
    "runs": "{out_channels: 16, layers: [{block: mbconv, kernel_size: [3, 5], num_layers: [1, 2]}, "
    "{block: [mbconv, dwsep], kernel_size: [3, 5]}]}",
    "activation": "{block: [conv, dwsep], activation: [relu, silu], out_channels: 16, per_layer: [activation]}",
    "layers": "{block: mbconv, kernel_size: [3, 5], expand_ratio: [1, 2], out_channels: [8, 16], num_layers: [1, 2], "
    "per_layer: [kernel_size, expand_ratio]}",
    "skips": "{block: [conv, mbconv], skip: [identity, pool, none], out_channels: [8, 16], num_layers: [1, 2], stride: 2}",
    "skips of layers": "{block: [conv, mbconv], skip: [identity, pool, none], out_channels: 16, num_layers: [1, 2], "
    "stride: 2, per_layer: [skip]}",
}
TOPS = {
    "plain": "resolution: 32",
    "rounding": "resolution: 32\nwidth_mult: [0.5, 0.55, 1]\ndepth_mult: [0.5, 0.6, 1.5]",
    "resolutions": "resolution: [32, 64]\nresolution_mult: [1, 2]",
    "activations": "resolution: 32\nactivation: [relu, silu]\ndrop_path: [0, 0.1]",
}


def read(folder: Path, top: str, *stages: str, rest: str = HEAD) -> SearchSpace:
    lines = "".join(f"  - {stage}\n" for stage in stages)
    file = folder / "x.yaml"
    file.write_text(f"{top}\n{rest}stages:\n{lines}", encoding="utf-8")
    return load(file, rules())


def networks(space: SearchSpace) -> list[ArchSpec]:
    domains = choices(space)
    return [
        decode(space, stored_choose(dict(zip(domains, values, strict=True))))
        for values in itertools.product(*(domain.values for domain in domains.values()))
    ]


def brute_force(space: SearchSpace) -> int:
    return len({spec.arch_hash for spec in networks(space)})


@pytest.mark.parametrize("top", TOPS)
@pytest.mark.parametrize("stage", STAGES)
def test_distinct_equals_brute_force(tmp_path: Path, top: str, stage: str) -> None:
    rest = "stem: {block: conv, out_channels: 8}\nhead: {dropout: [0, 0.2]}\n"
    space = read(tmp_path, TOPS[top], STAGES[stage], rest=rest)
    found = brute_force(space)
    assert distinct(space) == found
    assert found < lint(space, samples=1).raw_size or top in ("plain", "activations")


def test_distinct_equals_brute_force_where_only_some_parts_collide(tmp_path: Path) -> None:
    """At 0.5 and 0.55 the first stage rounds alike and the second does not: the two products overlap in part."""
    space = read(
        tmp_path,
        "resolution: 32\nwidth_mult: [0.5, 0.55, 0.6]",
        "{block: conv, out_channels: [16, 24]}",
        "{block: conv, out_channels: [40, 48, 56]}",
    )
    sizes = {brute_force(space), distinct(space)}
    assert len(sizes) == 1
    assert sizes.pop() < 3 * 2 * 3 * 2 * 2 * 2


def test_a_stage_keeps_its_activation_where_the_stem_has_its_own(tmp_path: Path) -> None:
    rest = "stem: {block: conv, out_channels: 8, activation: relu}\nhead: {}\n"
    space = read(
        tmp_path,
        "resolution: 32\nactivation: silu",
        "{out_channels: 16, layers: [{block: conv}, {block: conv, activation: [relu, silu], num_layers: [1, 2]}]}",
        rest=rest,
    )
    assert distinct(space) == brute_force(space) == 4


SKIPS = [
    "{block: mbconv, kernel_size: [3, 5], out_channels: [8, 16], num_layers: [1, 2], stride: 2, "
    "skip: [identity, pool, none], per_layer: [kernel_size]}",
    "{block: mbconv, out_channels: [8, 16], num_layers: [1, 2], skip: [identity, pool, none], per_layer: [skip]}",
]


@pytest.mark.parametrize("width_mult", [1, 0.5])
@pytest.mark.parametrize("stages", [SKIPS, SKIPS[::-1]], ids=["stride first", "stride last"])
def test_skips_that_depend_on_the_stage_before_equal_brute_force(
    tmp_path: Path, stages: list[str], width_mult: float
) -> None:
    """At half the width 16 and 8 are both 8: the wishes have another effect, and two widths are one."""
    rest = "stem: {block: conv, out_channels: 16}\nhead: {}\n"
    space = read(tmp_path, f"resolution: 32\nwidth_mult: {width_mult}", *stages, rest=rest)
    specs = networks(space)
    size = len({spec.arch_hash for spec in specs})
    assert distinct(space) == size == len({built(spec) for spec in specs})


def test_multipliers_over_stages_chosen_by_layer_equal_brute_force(tmp_path: Path) -> None:
    rest = "stem: {block: conv, out_channels: 8}\nhead: {}\n"
    stages = [SKIPS[0].replace(", pool", ""), SKIPS[0].replace("[identity, pool, none]", "identity")]
    space = read(tmp_path, "resolution: [32, 64]\nwidth_mult: [1, 0.6]", *stages, rest=rest)
    assert distinct(space) == brute_force(space)


def built(spec: ArchSpec) -> tuple[object, ...]:
    """What a network is built from: a wish for a skip connection counts by the connection that comes of it."""
    found: list[object] = []
    for place in places(spec):
        args = place.args
        skip = skip_connection(args.skip, args.in_channels, args.out_channels, args.stride)
        options = tuple(sorted(args.options.items()))
        found.append((place.part, place.layer.block, args.out_channels, args.stride, options, type(skip).__name__))
    return tuple(found)


Box = tuple[frozenset[int], ...]


def _boxes(places: int) -> st.SearchStrategy[list[Box]]:
    return st.lists(st.tuples(*[st.frozensets(st.integers(0, 3), max_size=4)] * places), max_size=3)


@given(st.lists(st.tuples(_boxes(1), _boxes(3), _boxes(2)), min_size=1, max_size=3))
def test_the_union_of_products_is_counted_exactly(products: list[tuple[list[Box], ...]]) -> None:
    words = {
        tuple(itertools.chain(*parts))
        for product in products
        for parts in itertools.product(
            *({word for box in part for word in itertools.product(*box)} for part in product)
        )
    }
    assert union_size(products) == len(words)


def test_a_space_too_large_to_enumerate_has_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = read(tmp_path, TOPS["rounding"], STAGES["masking"])
    assert distinct(space) is not None
    monkeypatch.setattr(lint_module, "_ENUMERABLE", 20)
    assert distinct(space) is None
    assert lint(space, samples=1).size is None


def test_the_report_of_a_small_space(tmp_path: Path) -> None:
    space = read(
        tmp_path,
        "resolution: 32",
        "{block: mbconv, kernel_size: [3, 5], out_channels: [8, 16]}",
        rest="stem: {block: conv, out_channels: 8}\nhead: {}\n"
        "forbid:\n  - {kernel_size: 5}\nconstraints: {num_params: {max: 1}}\n",
    )
    report = lint(space, samples=100, seed=1)
    assert list(report.choices) == ["s1.kernel_size", "s1.out_channels"]
    assert (report.raw_size, report.size, report.sampled) == (4, 4, 100)
    assert 20 < report.forbidden < 80
    assert report.forbidden + report.infeasible == 100  # what a rule forbids is not counted a second time
    assert report.params[0] < report.params[1] <= report.params[2]
    assert report.macs[0] > 0
    assert lint(space, samples=100, seed=1) == report


# --- useless choices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("top", "stage", "useless"),
    [
        ("", "{block: conv, expand_ratio: [1, 4], out_channels: [8, 16]}", ("s1.expand_ratio: conv does not read it",)),
        ("", "{block: [conv, dwsep], expand_ratio: [1, 4], out_channels: 8}", ("s1.expand_ratio: conv, dwsep does",)),
        ("", "{block: conv, expand_ratio: 4, out_channels: [8, 16]}", ()),
        ("width_mult: 0.25", "{block: conv, out_channels: [16, 24]}", ("s1.out_channels: every value gives the same",)),
        ("", "{block: fused_mbconv, expand_ratio: 1, se_ratio: [0, 0.25], out_channels: 8}", ("s1.se_ratio: every",)),
        ("", "{block: fused_mbconv, expand_ratio: [1, 2], se_ratio: [0, 0.25], out_channels: 8}", ()),
        ("depth_mult: [0.9, 1]", "{block: conv, out_channels: 8, num_layers: [1, 2]}", ("depth_mult: every value",)),
        ("depth_mult: [0.5, 1]", "{block: conv, out_channels: 8, num_layers: [1, 2]}", ()),
        ("", "{block: mbconv, out_channels: 16, skip: [identity, none]}", ("s1.skip: every value gives the same",)),
        ("", "{block: mbconv, out_channels: [8, 16], skip: [identity, none]}", ()),
        ("", "{block: mbconv, out_channels: 16, skip: [identity, none], num_layers: [1, 2]}", ()),
        (
            "",
            "{block: mbconv, out_channels: 16, skip: [identity, none], num_layers: [1, 2], per_layer: [skip]}",
            ("s1.l1.skip: every value gives the same",),
        ),
        (
            "width_mult: 0.25",
            "{block: mbconv, kernel_size: [3, 5], out_channels: [16, 24], num_layers: 2, per_layer: [kernel_size]}",
            ("s1.out_channels: every value",),
        ),
    ],
)
def test_choices_that_can_never_matter_are_named(
    tmp_path: Path, top: str, stage: str, useless: tuple[str, ...]
) -> None:
    rest = "stem: {block: conv, out_channels: 8}\nhead: {}\n"
    found = lint(read(tmp_path, f"resolution: 32\n{top}", stage, rest=rest), samples=1).useless
    assert len(found) == len(useless)
    assert all(line.startswith(start) for line, start in zip(found, useless, strict=True))


# --- warnings ---------------------------------------------------------------------------------------------


def warnings(folder: Path, top: str, stage: str, rest: str = "") -> str:
    rest = "stem: {block: conv, out_channels: 8, stride: 2}\nhead: {}\n" + rest
    return "\n".join(lint(read(folder, top, stage, rest=rest), samples=50).warnings)


def test_a_last_stage_of_one_pixel_is_warned_about(tmp_path: Path) -> None:
    assert "the last stage sees 1x1 pixels" in warnings(
        tmp_path, "resolution: 8", "{block: conv, out_channels: 8, stride: 4}"
    )
    assert "pixels" not in warnings(tmp_path, "resolution: 16", "{block: conv, out_channels: 8, stride: 4}")


def test_a_head_after_the_pooling_is_no_stage_of_one_pixel(tmp_path: Path) -> None:
    stage = "{block: conv, out_channels: [8, 16], stride: 2}"
    rest = (
        "stem: {block: conv, out_channels: 8}\nhead: {block: conv, kernel_size: 1, out_channels: 8, pool_first: true}\n"
    )
    found = lint(read(tmp_path, "resolution: 8", stage, rest=rest), samples=10).warnings
    assert not [line for line in found if "pixels" in line]


def test_a_tiny_space_is_warned_about(tmp_path: Path) -> None:
    few = "{block: conv, kernel_size: [3, 5], out_channels: 8}"
    assert "only 2 distinct networks" in warnings(tmp_path, "resolution: 32", few)
    many = "{block: conv, kernel_size: {min: 1, max: 19, step: 2}, out_channels: {min: 8, max: 48, step: 8}}"
    assert "distinct" not in warnings(tmp_path, "resolution: 32", many)


def test_a_missing_baseline_is_warned_about(tmp_path: Path) -> None:
    stage = "{block: conv, out_channels: [8, 16]}"
    assert "no `baseline`" in warnings(tmp_path, "resolution: 32", stage)
    assert "no `baseline`" not in warnings(tmp_path, "resolution: 32", stage, "baseline: efficientnet_b0\n")


def test_a_space_that_its_own_limits_empty_is_warned_about(tmp_path: Path) -> None:
    stage = "{block: conv, out_channels: [8, 16]}"
    assert "only 0.0% of random networks" in warnings(
        tmp_path, "resolution: 32", stage, "constraints: {num_params: {max: 5}}\n"
    )
