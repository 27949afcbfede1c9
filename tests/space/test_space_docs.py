"""What the pages say of the language is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nas.blocks import rules
from nas.catalog import load_arch, load_space
from nas.space import choices
from nas.space.schema import LAYER_KEYS, SCALE_KEYS

DOCS = Path(__file__).parents[2] / "docs"


def test_the_small_print_is_documented_as_it_is() -> None:
    page = (DOCS / "space.md").read_text(encoding="utf-8")
    small_print = page.partition("## Small print")[2].partition("\n## ")[0]
    rows = set(re.findall(r"^\| `.*$", small_print, re.M))
    expected = set()
    for name, key in {name: key for rule in rules().values() for name, key in rule.keys.items() if key.quiet}.items():
        blocks = ", ".join(f"`{block}`" for block, rule in sorted(rules().items()) if name in rule.keys)
        default = str(key.default).lower()
        allowed = f": {key.allowed()}" if key.names else ""
        expected.add(f"| `{name}` | `{default}` | {blocks} | {key.doc}{allowed} |")
    assert rows == expected


def test_every_key_of_a_layer_is_documented() -> None:
    table = (DOCS / "space.md").read_text(encoding="utf-8").partition("## Layers")[2].partition("\n## ")[0]
    documented = {word for row in re.findall(r"^\| (`.*?) \|", table, re.M) for word in re.findall(r"`(\w+)`", row)}
    options = {name for rule in rules().values() for name, key in rule.keys.items() if not key.quiet}
    ends = {"dropout", "pool_first", "max_pool"}
    assert documented == {"block", "activation", "layers", "per_layer"} | ends | options | set(LAYER_KEYS | SCALE_KEYS)


@pytest.mark.parametrize("number", [0, 1])
def test_the_files_of_the_networks_page_can_be_read(number: int, tmp_path: Path) -> None:
    page = (DOCS / "networks.md").read_text(encoding="utf-8")
    text = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)[number]
    file = tmp_path / "page.yaml"
    file.write_text(text, encoding="utf-8")
    if number == 0:  # the beginning of the shipped file
        shipped = load_arch("fbnet_c")
        begun = load_arch(file)
        assert [stage.layers for stage in begun.stages] == [stage.layers for stage in shipped.stages[:2]]
        assert (begun.stem, begun.head) == (shipped.stem, shipped.head)
    else:
        space = load_space(file)
        assert len(choices(space)) == 8
        assert space.baseline is not None
        assert space.baseline.arch_hash == load_arch("mobilenet_v3_large").arch_hash
