"""How many networks the shipped spaces hold, written out, and how that relates to the numbers of their papers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nas.catalog import load_space
from nas.lint import SpaceReport, lint
from nas.space import library
from nas.spec import round_channels

SPACES = [name for name in library.names() if not name.startswith("reference/")]


def report(name: str) -> SpaceReport:
    return lint(load_space(name), samples=1)


def layers(options: int, least: int, most: int) -> int:
    """Lists of layers of every allowed length, each layer with the same number of options."""
    return sum(options**number for number in range(least, most + 1))


def test_mnasnet() -> None:
    found = report("mnasnet")
    # The paper: 4 operations x 2 kernels x 2 squeeze-excitations x 3 skips x 3 widths x 3 depths a block.
    assert 4 * 2 * 2 * 3 * 3 * 3 == 432 and 432**5 == 15_045_919_506_432  # its example of five blocks
    # Encodings: the four operations are 2 `block` x 3 `expand_ratio`; rounding leaves the first two blocks two widths
    # each; the first and the last cannot have less than one layer. All of a block's choices but width and depth:
    open_ = (2 * 3) * 2 * 2 * 3
    assert open_ * 3 * 3 == 432 * 6 // 4
    assert found.raw_size == open_**7 * (2 * 2) * (2 * 3) * (3 * 3) ** 4 * (3 * 2)
    # Networks. Operation, kernel and squeeze-excitation of a block: a `conv` has no squeeze-excitation.
    forms = 1 * 2 * 1 + 3 * 2 * 2
    # A block of two layers or more has one of three skips. A single layer has one, but where the widths before and after
    # are equal, and that can be in the second block only (24 and 24): there it has pooling or, with its stride, none.
    first = forms * (1 + 3)  # of each of its two widths: one layer, or two
    second_after_16 = 2 * forms * (1 + 3 + 3)
    second_after_24 = forms * (2 + 3 + 3) + forms * (1 + 3 + 3)
    middle = 3 * forms * (3 + 3 + 3)
    last = 3 * forms * (1 + 3)
    assert found.size == first * (second_after_16 + second_after_24) * middle**4 * last == 77_981_312_707_135_488
    # Of the options that the paper counts for seven such blocks, one in 36 is a network of its own here.
    assert 432**7 / found.size == pytest.approx(36.0, abs=0.1)


@pytest.mark.parametrize(
    ("number", "width", "distinct"),
    [(1, 16, (16, 24)), (2, 24, (24, 32)), (3, 32, (24, 32, 40)), (4, 64, (48, 64, 80)), (5, 96, (72, 96, 120)),
     (6, 160, (120, 160, 200)), (7, 320, (240, 320, 400))],
)  # fmt: skip
def test_widths_of_mnasnet_are_multiples_of_mobilenet_v2s(number: int, width: int, distinct: tuple[int, ...]) -> None:
    assert tuple(sorted({round_channels(mult * width) for mult in (0.75, 1, 1.25)})) == distinct
    assert load_space("mnasnet").stages[number - 1].layers[0].out_channels.values == distinct


def test_proxyless() -> None:
    found = report("proxyless")
    # Encodings: five cells of 1 to 4 layers, of which four are always asked for, and a last layer; 3 kernels x 2 expansions.
    assert found.raw_size == (4 * 6**4) ** 5 * 6
    # Networks: a cell is a list of one to four layers.
    cell = layers(6, 1, 4)
    assert cell == 6 * (1 + 6 + 36 + 216)
    assert found.size == cell**5 * 6 == 54_375_883_032_510_144
    # The paper's space: 6 operations in 6 layers, and 7 with Zero in the 15 others. Zero leaves a layer out, so that a cell of
    # 6 x 7^3 says which positions are left out: 1, 3, 3, 1 ways for one, two, three, four layers.
    assert 6 * 7**3 == 6 * (1 + 3 * 6 + 3 * 36 + 216)
    assert 6**6 * 7**15 == (6 * 7**3) ** 5 * 6 == 221_502_229_807_900_608


def test_ofa() -> None:
    found = report("ofa")
    resolutions = len(load_space("ofa").resolution.values)
    assert resolutions == (224 - 128) // 4 + 1 == 25
    # Encodings: five units of 2 to 4 layers, of which four are always asked for; 3 kernels x 3 expansions.
    assert found.raw_size == (3 * 9**4) ** 5 * resolutions
    assert found.size == (81 + 729 + 6561) ** 5 * resolutions
    assert found.size // resolutions == 21_758_655_492_572_485_851  # as published, "2 x 10^19", at each resolution


def test_attentive() -> None:
    found = report("attentive")
    widths = 2 * (2 * 2 * 2 * 2 * 3 * 4 * 2) * 2  # stem, seven stages, last
    depths = 2 * 3 * 4 * 4 * 6 * 6 * 2
    assert (widths, depths) == (1536, 6912)
    assert found.raw_size == found.size == 4 * widths * depths * 2**7 * 3**4 == 440_301_256_704


def test_mobilenet_v3() -> None:
    found = report("mobilenet_v3")
    layer = 6 * 3 * 2  # expansion, kernel, squeeze-excitation
    widths = 4 * 6 * 7 * 7 * 7  # of the five searched stages, after rounding
    ends = 7 * 7  # of the last convolution and the head
    stem, first = 2 * 4, 3 * 4  # kernel and width each
    assert found.raw_size == stem * first * widths * ends * (4 * layer**4) ** 5
    assert found.size == stem * first * widths * ends * layers(layer, 1, 4) ** 5
    # TuNAS counts decisions: each of three optional layers is there or not, and its kernel and the rest are decided all the
    # same; its first layer has the stem's width and is optional (2 x 3 decisions).
    decisions = stem * (2 * 3) * widths * ends * (2**3 * layer**4) ** 5
    assert decisions == pytest.approx(8.5e42, rel=0.003)
    # Distinct networks of TuNAS: the first layer is left out or has one of three kernels. Here it is always there, with one of
    # four widths: three times as many networks.
    assert found.size == 3 * (stem * (1 + 3) * widths * ends * layers(layer, 1, 4) ** 5)
    assert found.size == pytest.approx(5.96e38, rel=0.001)


@pytest.mark.parametrize(
    ("stage", "width", "distinct"), [("stem", 16, 4), ("s2", 16, 4), ("s3", 32, 6), ("s4", 64, 7), ("s5", 128, 7),
                                     ("s6", 256, 7), ("s7", 512, 7), ("head", 1024, 7)]
)  # fmt: skip
def test_widths_of_mobilenet_v3_are_multiples_of_tunas_base(stage: str, width: int, distinct: int) -> None:
    multipliers = (0.5, 0.625, 0.75, 1, 1.25, 1.5, 2)
    rounded = sorted({max(8, int(mult * width / 8 + 0.5) * 8) for mult in multipliers})
    assert len(rounded) == distinct
    assert list(dict(load_space("mobilenet_v3").layers())[stage].out_channels.values) == rounded


def test_the_tiny_spaces_are_counted_too() -> None:
    """As their parents, with one or two layers a stage, fewer widths, and one resolution."""
    assert sizes("proxyless_tiny") == ((2 * 6**2) ** 5 * 6, layers(6, 1, 2) ** 5 * 6)
    assert sizes("ofa_tiny") == ((2 * 9**2) ** 5, layers(9, 1, 2) ** 5)
    attentive = (2 * 2**6 * 2) * 2**5 * 2**7 * 3**4  # widths, depths, kernels, expansions
    assert sizes("attentive_tiny") == (attentive, attentive)
    others = (2 * 3) * (2 * 3 * 4 * 4) * (7 * 7)  # kernels of stem and first stage, widths, ends
    assert sizes("mobilenet_v3_tiny") == (others * (2 * 36**2) ** 5, others * layers(36, 1, 2) ** 5)
    # Of each block of mnasnet_tiny: its widths, depths and stride. As above, only a single layer asks for the widths.
    blocks = [((4, 8), (1,), 1), ((4, 8), (1, 2), 2), ((8, 12), (1, 2), 2), ((12, 16, 20), (1, 2), 2)]
    blocks += [((20, 24, 32), (1, 2), 1), ((32, 40, 52), (1, 2), 2), ((60, 80, 100), (1, 2), 1)]
    networks = {8: 1}  # by the width that comes last
    encodings = 1
    for widths, depths, stride in blocks:
        skips = {(width, before): 3 if stride == 1 else 2 for width in widths for before in networks if width == before}
        networks = {
            width: sum(
                number * 14 * sum(3 if depth > 1 else skips.get((width, before), 1) for depth in depths)
                for before, number in networks.items()
            )
            for width in widths
        }
        encodings *= 72 * len(widths) * len(depths)
    assert sizes("mnasnet_tiny") == (encodings, sum(networks.values()))


def sizes(name: str) -> tuple[int, int | None]:
    found = report(name)
    return found.raw_size, found.size


def test_the_table_of_shipped_spaces_says_what_lint_counts() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "space.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", page.partition("## Shipped spaces")[2], re.MULTILINE))
    assert sorted(rows) == sorted(SPACES)
    for name in SPACES:
        found = report(name)
        assert found.size is not None
        cells = [cell.strip() for cell in rows[name].split("|")]
        recipe = load_space(name).recipe
        assert cells[-3:] == [f"{found.raw_size:.2g}".replace("+", ""), f"{found.size:.2g}".replace("+", ""), recipe]
