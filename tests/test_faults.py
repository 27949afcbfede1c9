"""Each fault of `benchmarks.faults`, really done to a search: nothing lost, nothing counted twice, a message with a remedy."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from benchmarks._faults import FAULTS, Impossible
from benchmarks.faults import written

SEED = 20261122

SIGNALS = [name for name in FAULTS if name.startswith(("Ctrl-C", "SIGTERM"))]

HERE = [name for name in FAULTS if name not in SIGNALS] + [
    name for place, name in enumerate(SIGNALS) if place % 4 in (0, 3)
]
"""At each stage of a search one of the two signals, in turns; the benchmark sends both."""


PAGE = Path(__file__).parents[1] / "docs" / "faults.md"


def test_the_page_says_what_the_published_figures_say() -> None:
    (file,) = (PAGE.parents[1] / "results" / "published" / "benchmarks").glob("*/faults.json")
    content = json.loads(file.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    assert written(page, content) == page
    named = [row["fault"] for row in content["faults"]]
    assert named == [name for name in FAULTS if name in named], "faults that are there, in their order"
    tried = [row for row in content["faults"] if row["tried"]]
    assert len(tried) > 20 and all(row["right"] == row["tried"] for row in tried)


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("name", HERE)
def test_a_fault_loses_nothing_counts_nothing_twice_and_says_what_to_do(tmp_path: Path, name: str) -> None:
    print(f"seed {SEED}")
    try:
        outcome = FAULTS[name](tmp_path / "work", random.Random(f"{SEED} {name}"))
    except Impossible as reason:
        pytest.skip(str(reason))
    assert outcome.right, outcome
