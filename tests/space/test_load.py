"""Files: `extends`, places of keys, broken YAML."""

from __future__ import annotations

from pathlib import Path

import pytest
import spaces
import yaml

from nas.blocks import rules
from nas.catalog import load_arch, load_space
from nas.errors import SpaceError, UnknownNameError
from nas.space import library, load


def test_a_file_becomes_a_space(here: Path) -> None:
    space = spaces.read(here, spaces.BASE)
    assert space.name == "base"
    assert space.recipe == "standard"
    assert space.resolution.values == (32, 48)
    assert space.max_resolution == 48
    assert [len(stage.layers) for stage in space.stages] == [1, 1]
    assert space.dropout.values == (0.1,)
    limit = space.limit("num_params")
    assert limit is not None
    assert limit.max == 5e6
    assert space.limit("macs") is None
    assert space.baseline is None


def test_the_name_defaults_to_that_of_the_file(here: Path) -> None:
    assert spaces.read(here, spaces.BASE.replace("name: base\n", ""), "mine.yaml").name == "mine"


# --- extends ----------------------------------------------------------------------------------------------


def test_a_child_merges_over_its_parent(here: Path) -> None:
    spaces.write(here, spaces.BASE, "base.yaml")
    space = spaces.read(
        here,
        """\
        extends: base.yaml
        name: child
        resolution: 40
        stem: {stride: 2}
        stages:
          s2: {kernel_size: [3, 5], out_channels: 32}
        head: {dropout: 0.3}
        """,
    )
    assert space.name == "child"
    assert space.resolution.values == (40,)
    assert space.stem.stride.values == (2,)
    assert space.stem.out_channels.values == (8,)  # the parent's
    first, second = (stage.layers[0] for stage in space.stages)
    assert first.num_layers.values == (1, 2, 3)
    assert second.options["kernel_size"].values == (3, 5)
    assert second.options["se_ratio"].values == (0.0, 0.25)
    assert second.out_channels.values == (32,)
    assert space.dropout.values == (0.3,)
    assert space.head is not None
    assert space.head.out_channels.values == (64,)


def test_lists_and_ranges_replace(here: Path) -> None:
    spaces.write(here, spaces.BASE, "base.yaml")
    space = spaces.read(
        here,
        """\
        extends: base.yaml
        stages: [{block: conv, out_channels: 16, num_layers: {min: 2, max: 4, step: 2}}]
        """,
    )
    assert len(space.stages) == 1
    assert space.stages[0].layers[0].num_layers.values == (2, 4)
    other = spaces.read(here, "extends: base.yaml\nstages: {s1: {num_layers: {min: 5, max: 6}}}\n")
    assert other.stages[0].layers[0].num_layers.values == (5, 6)


def test_a_chain_of_parents_and_a_shipped_parent(here: Path) -> None:
    spaces.write(here, "extends: v2_tiny\nresolution: 48\n", "one.yaml")
    space = spaces.read(here, "extends: one.yaml\nname: two\n", "two.yaml")
    shipped = load_space("v2_tiny")
    assert space.resolution.values == (48,)
    assert space.width_mult == shipped.width_mult
    assert space.baseline == shipped.baseline


def test_a_mapping_that_extends_a_file_of_its_own_replaces_the_parents(here: Path) -> None:
    spaces.write(here, spaces.BASE + "baseline: {extends: efficientnet_b0, resolution: 32}\n", "base.yaml")
    space = spaces.read(here, "extends: base.yaml\nbaseline: {extends: efficientnetv2_b0, num_classes: 10}\n")
    assert space.baseline is not None
    assert space.baseline.name == "efficientnetv2_b0"
    assert space.baseline.resolution == 192  # nothing of the parent's baseline is left
    assert space.baseline.num_classes == 10
    merged = spaces.read(here, "extends: base.yaml\nbaseline: {resolution: 64}\n")
    assert merged.baseline is not None
    assert (merged.baseline.name, merged.baseline.resolution) == ("efficientnet_b0", 64)


def test_a_baseline_can_be_a_name(here: Path) -> None:
    space = spaces.read(here, spaces.BASE + "baseline: efficientnet_b0\n")
    assert space.baseline == load_arch("efficientnet_b0")


def test_the_space_hash_is_that_of_the_content_not_of_the_file(here: Path) -> None:
    base = spaces.read(here, spaces.BASE, "base.yaml")
    assert spaces.read(here, "extends: base.yaml\n", "child.yaml").space_hash == base.space_hash
    assert spaces.read(here, "# a remark\n" + spaces.BASE, "b.yaml").space_hash == base.space_hash
    assert spaces.read(here, spaces.BASE.replace("32, 48", "32, 40")).space_hash != base.space_hash
    again = spaces.write(here, yaml.safe_dump(yaml.safe_load(base.text)), "again.yaml")
    assert load(again, rules()).space_hash == base.space_hash


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "name: a\nextends: x.yaml\n",
            "x.yaml:2: extends 'x.yaml': a file cannot extend itself, not even in a circle.",
        ),
        ("extends: nowhere.yaml\n", "x.yaml:1: extends: nowhere.yaml: no such file."),
        ("extends: v3\n", "x.yaml:1: extends: v3: no space has this name."),
        ("extends: [a]\n", "x.yaml:1: extends: "),
        ("extends: v2\nstages: {s9: {stride: 1}}\n", "x.yaml:2: stages.s9: unknown stage. Known: s1 to s6."),
        ("extends: v2\nstages: {first: {stride: 1}}\n", "x.yaml:2: stages.first: unknown stage. Known: s1 to s6."),
        ("extends: v2\nname: n\nbaseline: {extends: none}\n", "x.yaml:3: baseline.extends: none: no space"),
    ],
)
def test_a_wrong_extends_is_named_with_its_line(here: Path, text: str, problem: str) -> None:
    found = spaces.problems(here, text)
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_a_circle_of_two_files_is_named(here: Path) -> None:
    spaces.write(here, "extends: x.yaml\n", "y.yaml")
    assert spaces.problems(here, "extends: y.yaml\n") == [
        "y.yaml:1: extends 'x.yaml': a file cannot extend itself, not even in a circle."
    ]


def test_errors_inside_a_parent_show_the_parents_file_and_line(here: Path) -> None:
    spaces.write(here, spaces.BASE.replace("kernel_size: 3\n", "kernal_size: 3\n"), "base.yaml")
    found = spaces.problems(here, "extends: base.yaml\nname: child\n\nstem: {strid: 2}\n")
    assert [line.partition(" ")[0] for line in found] == ["base.yaml:8:", "x.yaml:4:"]
    assert found[0].startswith("base.yaml:8: stages[1].kernal_size: unknown key.")
    assert found[1].startswith("x.yaml:4: stem.strid: unknown key.")
    assert found[1].endswith("Did you mean stride?")


def test_errors_inside_a_stage_override_show_the_childs_line(here: Path) -> None:
    spaces.write(here, spaces.BASE, "base.yaml")
    found = spaces.problems(here, "extends: base.yaml\nstages:\n  s2:\n    kernel_size: 4\n")
    assert found == ["x.yaml:4: stages[1].kernel_size: found 4; allowed: an odd whole number from 1 up to 31."]


def test_a_missing_key_is_shown_at_the_file_that_was_named(here: Path) -> None:
    spaces.write(here, "name: half\nresolution: 32\n", "base.yaml")
    found = spaces.problems(here, "extends: base.yaml\nname: child\n")
    assert found == [f"x.yaml:1: {key}: missing. Add it." for key in ("stem", "stages", "head")]


# --- files that are no space ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "x.yaml:1: found NoneType; a space is a mapping of keys."),
        ("# only a remark\n", "x.yaml:1: found NoneType; a space is a mapping of keys."),
        ("- a\n- b\n", "x.yaml:1: found list; a space is a mapping of keys."),
        ("v2\n", "x.yaml:1: found str; a space is a mapping of keys."),
        ("name: a\nresolution: 32\nname: b\n", "x.yaml:3: name: written twice. Keep one."),
        ("stem:\n  stride: 1\n  stride: 2\n", "x.yaml:3: stem.stride: written twice. Keep one."),
        ("name: a\nstem: {block: conv\nhead: 1\n", "x.yaml:3: not YAML: "),
        ("name: a\n  stem: 1\n", "x.yaml:2: not YAML: mapping values are not allowed here."),
        ("name: a\n---\nname: b\n", "x.yaml:2: not YAML: "),
        ("name: !thing a\n", "x.yaml:1: not YAML: "),
        ("name: 2024-13-45\n", "x.yaml:1: not YAML: "),
        ("name: a\x00b\n", "x.yaml:1: not YAML: "),
        ("stages: &a [*a]\n", "x.yaml:1: found a part (line 1) that contains itself"),
    ],
)
def test_a_file_that_is_no_space_is_named_with_its_line(here: Path, text: str, problem: str) -> None:
    found = spaces.problems(here, text)
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_every_duplicate_key_is_reported(here: Path) -> None:
    assert len(spaces.problems(here, "a: 1\na: 2\nb: 1\nb: 2\n")) == 2


def test_a_file_that_is_not_text_is_named(here: Path) -> None:
    file = here / "x.yaml"
    file.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(SpaceError, match=r"^x\.yaml: cannot be read .* Give a UTF-8 YAML file\.$"):
        load(file, rules())


def test_anchors_can_be_used(here: Path) -> None:
    space = spaces.read(
        here, spaces.BASE.replace("[3, 5]", "&k [3, 5]").replace("kernel_size: 3\n", "kernel_size: *k\n")
    )
    assert space.stages[1].layers[0].options["kernel_size"].values == (3, 5)


# --- the shipped files ------------------------------------------------------------------------------------


def test_shipped_names_are_found_with_and_without_their_folder() -> None:
    assert "reference/efficientnet_b0" in library.names()
    assert library.find("efficientnet_b0") == library.find("reference/efficientnet_b0")
    assert all(library.find(name).is_file() for name in library.names())


def test_a_file_wins_over_a_shipped_name_and_beside_over_the_working_folder(here: Path) -> None:
    (here / "sub").mkdir()
    for folder in (here, here / "sub"):
        spaces.write(folder, spaces.BASE, "a.yaml")
    assert library.find("a.yaml") == Path("a.yaml")
    assert library.find("a.yaml", beside=here / "sub") == here / "sub" / "a.yaml"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v2_tinny", r"v2_tinny: no space has this name\. Known: .*\. Did you mean v2_tiny\?"),
        ("efficientnet_bo", r"Did you mean efficientnet_b0\?"),
        ("none.yaml", r"none\.yaml: no such file\. Give a \.yaml file or a shipped name: .*v2_tiny\.$"),
        ("a/b", r"a/b: no such file\."),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message) as caught:
        load_space(name)
    assert caught.value.exit_code == 2


def test_a_number_in_powers_of_ten_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("extends: efficientnet_b0\nnorm_eps: 1e-5\n")
    assert load_space(path).norm_eps == 1e-5
