"""The grammar: every problem at once, each with file:line, key path, what is allowed and the nearest match."""

from __future__ import annotations

from pathlib import Path

import pytest
import spaces

from nas.space import decode, middle_choose

BROKEN = """\
name: broken
resolution: 5
activation: swish
dropot: 0.1
stem: {block: conv, kernel_size: 4, out_channels: 8}
stages:
  - {block: mbconf, out_channels: [8, 16]}
  - block: [mbconv, fused_mbconv]
    kernel_size: [3, 5, 3]
    out_channels: []
    num_layers: {min: 4, max: 2}
  - block: mbconv
    out_channels: 16
    kernal_size: 3
    stride: two
  - {kernel_size: 3}
  - out_channels: 24
    layers:
      - {block: mbconv}
      - {block: conv, stride: 2}
head: {block: mbconv, out_channels: 64, dropout: 1.5}
forbid:
  - {block: mbconv, stage: 9}
  - {}
  - {kernel_size: {min: 3}}
constraints:
  num_parms: {max: 5M}
  step_time_ms: {max: 12}
  macs: {min: 2G, max: 1G}
  peak_memory_mib: 3
"""

EXPECTED = """\
x.yaml:2: resolution: found 5; allowed: a whole number from 8 up to 4096.
x.yaml:3: activation: found 'swish'; known: silu, relu, relu6, hard_swish. swish is called silu here.
x.yaml:4: dropot: unknown key. Known: resolution, drop_path, width_mult, depth_mult, resolution_mult, num_classes, \
in_channels, channel_divisor, round_limit, norm_eps, norm_momentum, name, reference, recipe, extends, activation, \
stem, stages, head, forbid, constraints, baseline, \
attention, bias, keep_expansion, keep_projection, norm, se_activation, se_base, se_divisor, se_gate. Did you mean drop_path?
x.yaml:5: stem.kernel_size: found 4; allowed: an odd whole number from 1 up to 31.
x.yaml:7: stages[0].block: found 'mbconf'; known: basic, bottleneck, conv, dwsep, fused_mbconv, mbconv. Did you mean mbconv?
x.yaml:9: stages[1].kernel_size: found [3, 5, 3]; allowed: each value once.
x.yaml:10: stages[1].out_channels: found an empty list; allowed: at least one value.
x.yaml:11: stages[1].num_layers: found {'min': 4, 'max': 2}; allowed: min up to max in at most 1000 whole steps.
x.yaml:14: stages[2].kernal_size: unknown key. Known: block, bottleneck_ratio, expand_ratio, kernel_size, se_ratio, \
out_channels, num_layers, stride, skip, activation, layers, per_layer, scale_width, scale_depth, attention, bias, \
keep_expansion, keep_projection, norm, se_activation, se_base, se_divisor, se_gate. Did you mean kernel_size?
x.yaml:15: stages[2].stride: found 'two'; allowed: a whole number from 1 up to 4.
x.yaml:16: stages[3].block: missing. Add it.
x.yaml:16: stages[3].out_channels: missing. Add it.
x.yaml:20: stages[4].layers[1].stride: only the first block of a stage has a stride. Leave it out.
x.yaml:21: head.block: found 'mbconv'; known: conv. Did you mean conv?
x.yaml:21: head.dropout: found 1.5; allowed: a number from 0 up to 0.95.
x.yaml:23: forbid[0].stage: found 9; allowed: the number of one stage, 1 to 5.
x.yaml:24: forbid[1]: a rule without keys forbids everything. Name at least one key.
x.yaml:25: forbid[2].kernel_size: found {'min': 3}; allowed: a value or a list of values.
x.yaml:27: constraints.num_parms: unknown cost. Known: num_params, macs, step_time_ms, latency_ms, peak_memory_mib. \
Did you mean num_params?
x.yaml:28: constraints.step_time_ms.max: found 12; allowed: a positive number with a unit (ms, us, s), such as 12ms.
x.yaml:29: constraints.macs: found {'min': '2G', 'max': '1G'}; allowed: a min that is not above the max.
x.yaml:30: constraints.peak_memory_mib: found 3; allowed: {max: 5M}, {min: 1M} or both.
"""


def test_every_problem_of_a_file_is_reported_at_once(here: Path) -> None:
    assert sorted(spaces.problems(here, BROKEN)) == sorted(EXPECTED.splitlines())


def test_problems_come_in_the_order_of_the_file(here: Path) -> None:
    lines = [int(line.split(":")[1]) for line in spaces.problems(here, BROKEN)]
    assert lines == sorted(lines)
    assert len(lines) == 22


def test_the_problems_of_a_baseline_are_reported_beside_the_files_own(here: Path) -> None:
    found = spaces.problems(
        here,
        spaces.BASE.replace("stride: 1,", "stide: 1,") + "baseline:\n  extends: efficientnet_b0\n  resolution: 4\n"
        "  stages: {s3: {kernel_size: 6}}\n",
    )
    assert [line.partition(": unknown key")[0].partition("; allowed")[0] for line in found] == [
        "x.yaml:4: stem.stide",
        "x.yaml:16: baseline.resolution: found 4",
        "x.yaml:17: baseline.stages[2].kernel_size: found 6",
    ]


def test_a_baseline_has_no_choices(here: Path) -> None:
    text = spaces.BASE + "baseline:\n  extends: efficientnet_b0\n  resolution: [32, 64]\n  width_mult: [1, 2]\n"
    assert spaces.problems(here, text) == [
        "x.yaml:14: baseline: leaves width_mult, resolution open; a network has no choices. Fix them."
    ]


def with_stage(text: str) -> str:
    """Return a sound space with one stage of its own, on line 4."""
    return (
        f"resolution: 32\nstem: {{block: conv, out_channels: 8}}\nstages:\n  - {text}\n"
        "  - {block: mbconv, activation: relu, kernel_size: 5, out_channels: 24}\nhead: {block: conv, out_channels: 16}\n"
    )


@pytest.mark.parametrize(
    ("stage", "problem"),
    [
        (
            "{block: mbconv, out_channels: 16, per_layer: [kernal_size]}",
            "stages[0].per_layer[0]: 'kernal_size' cannot vary by layer. Known: activation, attention, block, "
            "expand_ratio, keep_expansion, kernel_size, se_activation, se_base, se_divisor, se_gate, se_ratio, skip. "
            "Did you mean kernel_size?",
        ),
        (
            "{block: mbconv, out_channels: 16, per_layer: [out_channels]}",
            "stages[0].per_layer[0]: 'out_channels' cannot vary by layer.",
        ),
        (
            "{out_channels: 16, per_layer: [kernel_size], layers: [{block: mbconv}]}",
            "stages[0].per_layer: a stage has either `layers` or `per_layer`. Keep one.",
        ),
        (
            "{block: mbconv, out_channels: 16, layers: []}",
            "stages[0].layers: found []; list should have at least 1 item",
        ),
        ("{out_channels: 16, layers: [{kernel_size: 3}]}", "stages[0].layers[0].block: missing. Add it."),
        ("{block: mbconv}", "stages[0].out_channels: missing. Add it."),
        ("{block: [], out_channels: 16}", "stages[0].block: found an empty list"),
        ("{block: [mbconv, mbconv], out_channels: 16}", "stages[0].block: found ['mbconv', 'mbconv']; allowed: each"),
        ("{block: {min: 1, max: 2}, out_channels: 16}", "stages[0].block: found {'min': 1, 'max': 2}; known: basic"),
        ("{block: mbconv, out_channels: 16.5}", "stages[0].out_channels: found 16.5; allowed: a whole number from 1."),
        ("{block: mbconv, out_channels: 16, num_layers: 0}", "stages[0].num_layers: found 0; allowed: a whole number"),
        ("{block: mbconv, out_channels: 16, num_layers: true}", "stages[0].num_layers: found True; allowed:"),
        ("{block: mbconv, out_channels: 16, kernel_size: null}", "stages[0].kernel_size: found None; allowed:"),
        ("{block: mbconv, out_channels: 16, se_ratio: .nan}", "stages[0].se_ratio: found nan; allowed:"),
        ("{block: mbconv, out_channels: 16, expand_ratio: {min: 0.5, max: 2}}", "stages[0].expand_ratio: found {'min'"),
        (
            "{out_channels: 16, kernel_size: [3, 5], layers: [{block: mbconv, kernel_size: 3}, {block: conv, kernel_size: 5}]}",
            "stages[0].kernel_size: every run of this stage has its own, so this would do nothing. Write it in `layers`.",
        ),
        (
            "{block: mbconv, out_channels: 16, activation: swish}",
            "stages[0].activation: found 'swish'; known: silu, relu, relu6, hard_swish. swish is called silu here.",
        ),
        ("{block: mbconv, out_channels: 16, skip: sum}", "stages[0].skip: found 'sum'; allowed: identity or pool or"),
        (
            "{block: mbconv, out_channels: 16, scale_width: [up, never]}",
            "stages[0].scale_width: found ['up', 'never']; allowed: one value, always or up or never (this key cannot",
        ),
        ("{block: mbconv, out_channels: 16, se_gate: tanh}", "stages[0].se_gate: found 'tanh'; allowed: sigmoid or"),
        ("{block: mbconv, out_channels: 16, max_pool: true}", "stages[0].max_pool: unknown key."),
        ("{block: mbconv, out_channels: 16, dropout: 0.1}", "stages[0].dropout: unknown key."),
        ("just a name", "stages[0]: found 'just a name'; input should be a valid dictionary"),
    ],
)
def test_a_wrong_stage_is_named(here: Path, stage: str, problem: str) -> None:
    found = spaces.problems(here, with_stage(stage))
    assert len(found) == 1, found
    assert found[0].startswith(f"x.yaml:4: {problem}")


FINE = "{block: [mbconv, conv], kernel_size: 3, expand_ratio: [1, 4], out_channels: 16}"


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("{kernel_size: 7}", "forbid[0].kernel_size: found 7, which no layer can have. Values in this space: 3, 5."),
        ("{block: [mbconv, dwsep]}", "forbid[0].block: found 'dwsep', which no layer can have."),
        ("{kernal_size: 3}", "forbid[0].kernal_size: unknown key. Known: activation, attention, bias"),
        (
            "{stage: 1, kernel_size: 5}",
            "forbid[0].kernel_size: found 5, which no layer can have. Values in stage 1: 3.",
        ),
        ("{activation: relu, stage: 1}", "forbid[0].activation: found 'relu', which no layer can have."),
        ("{kernel_size: 1}", "forbid[0].kernel_size: found 1"),
        ("{stage: first, kernel_size: 3}", "forbid[0].stage: found 'first'; allowed: the number of one stage, 1 to 2."),
        ("{stage: [1, 2], kernel_size: 3}", "forbid[0].stage: found [1, 2]; allowed: the number of one stage"),
        ("{stage: 0, kernel_size: 3}", "forbid[0].stage: found 0; allowed"),
        ("{stage: 1}", "forbid[0]: a rule without keys"),
        ("{kernel_size: [[3]]}", "forbid[0].kernel_size: found [[3]]; allowed: a value or a list"),
        ("{kernel_size: []}", "forbid[0].kernel_size: found []; allowed: a value or a list"),
        ("mbconv", "forbid[0]: found 'mbconv'; input should be a valid dictionary"),
    ],
)
def test_a_rule_about_nothing_is_named(here: Path, rule: str, problem: str) -> None:
    found = spaces.problems(here, with_stage(FINE) + f"forbid:\n  - {rule}\n")
    assert len(found) == 1, found
    assert found[0].startswith(f"x.yaml:8: {problem}")


def test_a_rule_may_name_the_activation_of_a_stage(here: Path) -> None:
    space = spaces.read(here, with_stage(FINE) + "forbid:\n  - {activation: relu}\n")
    assert space.forbid[0].values == {"activation": ("relu",)}
    assert str(space.forbid[0]) == "activation relu"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("name: base", "name: 5", "x.yaml:1: name: found 5; input should be a valid string."),
        ("name: base", 'name: "a\\nb"', "x.yaml:1: name: found 'a\\nb'; allowed: one line of text."),
        ("name: base", "num_classes: [10, 100]", "x.yaml:1: num_classes: found [10, 100]; allowed: one value, a whole"),
        ("name: base", "num_classes: 0", "x.yaml:1: num_classes: found 0; allowed: a whole number from 1."),
        ("name: base", "baseline: 3", "x.yaml:1: baseline: found 3; input should be a valid dictionary."),
        ("name: base", "baseline: {}", "x.yaml:1: baseline."),
        ("name: base", "forbid: 3", "x.yaml:1: forbid: found 3; input should be a valid list."),
        ("name: base", "recipee: quick", "x.yaml:1: recipee: unknown key. Known: "),
        ("resolution: [32, 48]", "drop_path: 0", "x.yaml:1: resolution: missing. Add it."),
        ("stem: {block: conv,", "stem: {block: dwsep,", "x.yaml:4: stem.block: found 'dwsep'; known: conv."),
        ("stem: {block: conv,", "stem: {num_layers: 2, block: conv,", "x.yaml:4: stem.num_layers: unknown key."),
        ("head: {block: conv,", "head: {", "x.yaml:12: head.block: missing. Add it."),
        ("{max: 5M}", "{most: 5M}", "x.yaml:13: constraints.num_params: found {'most': '5M'}; allowed: {max: 5M}"),
        ("{num_params: {max: 5M}}", "[num_params]", "x.yaml:13: constraints: found ['num_params']; input should be"),
    ],
)
def test_a_wrong_key_at_top_level_is_named(here: Path, old: str, new: str, problem: str) -> None:
    found = spaces.problems(here, spaces.BASE.replace(old, new))
    assert found[0].startswith(problem)
    assert len(found) == 1 or new == "baseline: {}"


def test_a_head_without_a_block_is_pool_and_classify(here: Path) -> None:
    space = spaces.read(here, spaces.BASE.replace("head: {block: conv, kernel_size: 1, out_channels: 64, ", "head: {"))
    assert space.head is None
    assert decode(space, middle_choose).dropout == 0.1


def test_a_later_run_inherits_everything_but_the_stride(here: Path) -> None:
    space = spaces.read(
        here,
        with_stage("{block: mbconv, stride: 2, kernel_size: 5, out_channels: 16, layers: [{}, {block: conv}]}"),
    )
    first, second = space.stages[0].layers
    assert (first.stride.values, second.stride.values) == ((2,), (1,))
    assert (first.block.values, second.block.values) == (("mbconv",), ("conv",))
    assert second.options["kernel_size"].values == (5,)
    assert second.out_channels.values == (16,)
