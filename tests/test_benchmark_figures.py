"""What the benchmarks' figures are made of: intervals, rank correlations, the cost of a training, and the page of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fidelity, proxy_throughput, readme
from benchmarks._stats import median_interval, shown, shuffled, tau
from benchmarks.proxy_throughput import counted


def test_an_interval_of_few_values_is_their_range_and_says_so() -> None:
    few = median_interval([1.0, 3.0, 2.0])
    assert (few["median"], few["low"], few["high"], few["interval"]) == (2.0, 1.0, 3.0, "range")
    assert shown(few) == "2.00 (1.00 to 3.00)"
    assert shown(median_interval([2.0])) == "2.00 (one round)"


def test_an_interval_of_many_values_lies_within_their_range() -> None:
    values = [1.0, 1.1, 1.2, 1.3, 1.4, 9.0]
    many = median_interval(values)
    assert many["interval"] == "95 %" and 1.0 <= many["low"] <= many["median"] <= many["high"] <= 9.0
    assert shown(many) == f"1.25 [{many['low']:.2f}, {many['high']:.2f}]"


def test_every_arm_runs_once_a_round_and_the_next_round_is_the_other_way_round() -> None:
    rounds = shuffled(["a", "b", "c", "d"], 4)
    assert all(sorted(order) == ["a", "b", "c", "d"] for order in rounds)
    assert rounds[1] == rounds[0][::-1] and rounds[3] == rounds[2][::-1]
    assert shuffled(["a", "b", "c", "d"], 4, seed=1) != rounds


def test_what_a_training_pays_once_is_counted_once() -> None:
    """Built in 2 s, a first step of 3 s, 0.1 s for each other, 1 s of scoring: 100 steps are 2 + 3 + 9.9 + 1 s."""
    marks = [2 + 3 + 9 * 0.1, 2 + 3 + 29 * 0.1]
    parts = counted(marks, (10, 30), marks[1] + 1, 100)
    assert parts["step"] == pytest.approx(0.1)
    assert parts["proxy"] == pytest.approx(2 + 3 + 99 * 0.1 + 1)


def _round(**proxies: float) -> dict[str, Any]:
    arms: dict[str, Any] = {name: {"proxy": seconds, "step": 0.1} for name, seconds in proxies.items()}
    arms["nas"] |= {"proxy_with_stopping": arms["nas"]["proxy"] / 2, "timing": 1.0}
    return {"arms": arms}


def test_ratios_are_taken_round_by_round_against_the_rivals_best_arm() -> None:
    rounds = [
        _round(nas=10.0, plain=30.0, plain_loaders=20.0, resident=15.0),
        _round(nas=20.0, plain=90.0, plain_loaders=50.0, resident=20.0),
        _round(nas=10.0, plain=10.0, plain_loaders=40.0, resident=10.0),
    ]
    found = proxy_throughput.summary(rounds)
    plain = found["nas_over"]["plain"]
    assert plain["arm"] == "plain"  # 30 s against 40 s at the median
    assert (plain["median"], plain["low"], plain["high"]) == (3.0, 1.0, 4.5)
    assert found["nas_over"]["plain, with stopping"]["median"] == 6.0
    assert found["nas_over"]["resident"]["median"] == 1.0
    assert "ray" not in found["nas_over"]
    assert found["arms"]["nas"]["proxies_per_hour"]["median"] == 360


def test_tau_is_that_of_one_seed_with_the_long_training() -> None:
    accuracies = {
        "nas": [[0.1, 0.2], [0.2, 0.3], [0.3, 0.4]],  # both seeds in the right order
        "plain": [[0.3, 0.1], [0.2, 0.2], [0.1, 0.3]],  # one in the reverse order
        fidelity.TRUTH: [[0.5], [0.6], [0.7]],
    }
    names = ["x", "y", "z"]
    done = {
        f"{arm}/{name}/{seed}": {"accuracy": value}
        for arm, rows in accuracies.items()
        for name, row in zip(names, rows, strict=True)
        for seed, value in enumerate(row)
    }
    found = fidelity.table(done, names, {"nas": 2, "plain": 2, fidelity.TRUTH: 1}, draws=50)
    assert found["nas"]["tau"] == 1.0 and found["nas"]["ceiling"] == 1.0
    assert found["plain"]["tau"] == 0.0 and found["plain"]["ceiling"] == -1.0
    assert found["nas"]["tau_over_plain"] == 1.0
    assert "tau" not in found[fidelity.TRUTH] and "ceiling" not in found[fidelity.TRUTH]
    assert tau([1, 2, 3], [3, 2, 1]) == -1.0


def _kept(folder: Path, space: str) -> Path:
    head = {
        "device": {"name": "Some CPU", "cores": 2},
        "versions": {"torch": "2"},
        "command": "python -m benchmarks.x",
        "date": "2026-01-02T03:04:05",
    }
    settings = {"space": space, "data": "d", "recipe": "quick", "resolution": "None", "share": "0.5"}
    content = head | {"settings": settings, "processes": 2, "absent": {}, "rounds": []}
    content |= proxy_throughput.summary([_round(nas=10.0, nas_eager=20.0, plain=30.0)])
    truth = head | {
        "settings": {"space": "v2_tiny", "data": "d", "recipe": "quick"},
        "data": {"name": "D"},
        "networks": {"x": {}},
        "arms": {
            name: {"seeds": 1, "accuracy": 0.5, "tau": order, "tau_interval": [0, 1], "tau_over_plain": 0.0,
                   "tau_over_plain_interval": [0, 0]}
            for name, order in (("nas", 0.77), ("plain", 0.55))
        },
    }  # fmt: skip
    place = folder / "some-cpu"
    place.mkdir(parents=True)
    (place / "proxy_throughput.json").write_text(json.dumps(content))
    (place / "fidelity.json").write_text(json.dumps(truth))
    return folder


def test_the_page_says_how_faithful_each_arm_is(tmp_path: Path) -> None:
    page = readme.page(_kept(tmp_path, "v2_tiny"))
    first = page.partition("### Order")[0]
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in first.splitlines() if line.startswith("| ")}
    assert rows["plain"].endswith("| 3.00 (one round) | 0.55 |")
    assert rows["nas_eager"].endswith("| 2.00 (one round) | 0.77 |")
    assert "2026-01-02" in page and "Some CPU, 2 cores" in page


def test_a_figure_of_another_space_has_no_fidelity(tmp_path: Path) -> None:
    page = readme.page(_kept(tmp_path, "v2"))
    assert "| plain | 120 (one round) | 3.00 (one round) | not measured |" in page


def test_the_page_is_what_the_kept_figures_make() -> None:
    assert readme.PAGE.read_text(encoding="utf-8") == readme.page(readme.KEPT)


def test_no_place_on_a_machine_is_kept() -> None:
    content = {
        "settings": {"out": "/home/me/x", "data": "/home/me/photos.zip"},
        "rows": [{"command": "run --data /a/b.c -n 3"}],
    }
    assert readme._placeless(content) == {
        "settings": {"data": "photos.zip"},
        "rows": [{"command": "run --data b.c -n 3"}],
    }
