"""What a report says of how far to believe it, on made runs and on a published one."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import fabricate, finalist, trial

from nas import runs
from nas.objective import Reward, score_of
from nas.report import load_run, page, rerank
from nas.report.sensitivity import sensitivity
from nas.report.trust import luck_of, seed_scatter
from nas.search.record import TrialRecord

PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "v2_tiny-200"
HEAD = "## How far to believe this"


def doubt(folder: Path) -> str:
    """The part of a page that is tested here."""
    text = page(load_run(folder))
    return text.split(HEAD)[1].split("\n## ")[0] if HEAD in text else ""


def many(number: int, noise: float = 0.02) -> list[TrialRecord]:
    """Networks of one cost, the first ten drawn at random and worse than the others."""
    rng = np.random.default_rng(0)
    return [
        replace(
            trial(n, accuracy=float(0.6 + 0.1 * (n >= 10) + rng.normal(0, noise))),
            step_time_ms=10.0,
            suggested_by="random" if n < 10 else "",
        )
        for n in range(number)
    ]


def lost(record: TrialRecord, by: float) -> dict[str, Any]:
    """A finalist whose fresh trainings are so much below what the search saw."""
    return finalist(record, (record.reward or 0) - by)


def stored(folder: Path, trainings: dict[str, float]) -> None:
    """Give a run fresh trainings, by `<arch_hash>-<seed>`."""
    content = json.loads((folder / "finalists.json").read_text())
    content["trainings"] = {name: {"outcome": "ok", "val_accuracy": value} for name, value in trainings.items()}
    runs.write_json(folder / "finalists.json", content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    trials = many(40)
    best = sorted(trials, key=lambda record: -(record.reward or 0))
    folder = fabricate(tmp_path / "run", trials, [lost(best[0], 0.006), lost(best[1], 0.004)], [])
    stored(
        folder,
        {f"{best[0].arch_hash}-1": 0.70, f"{best[0].arch_hash}-2": 0.72, f"{best[1].arch_hash}-1": 0.69,
         f"{best[1].arch_hash}-2": 0.71},
    )  # fmt: skip
    return folder


def test_each_part_begins_with_a_sentence(folder: Path) -> None:
    text = doubt(folder)
    parts = text.split("\n### ")[1:]
    titles = [part.splitlines()[0] for part in parts]
    assert titles == ["Noise", "The best of many flatters itself", "The proxy", "Beside random draws", "Exponents"]
    for part in parts:
        first = part.splitlines()[2]
        assert re.match(r"[A-Z0-9][^|]*\w[.:] ", first + " "), first


def test_the_noise_floor_comes_from_fresh_trainings(folder: Path, tmp_path: Path) -> None:
    seeds = seed_scatter(load_run(folder))
    assert seeds is not None and seeds.deviation == pytest.approx(0.02 / 2**0.5) and seeds.freedom == 2
    text = doubt(folder)
    assert "scatters by 0.0141 on the same images" in text and "4 trainings of 2 networks" in text
    alone = rerank(load_run(folder)).not_told_apart()
    both = int(re.search(r"(\d+) of the other 39 networks cannot be told from the first", text)[1])  # type: ignore[index]
    assert both > alone and f"By the images alone it would be {alone}: seeds scatter too." in text
    bare = fabricate(tmp_path / "bare", many(12), [], [])
    assert "no network was trained with several fresh ones" in doubt(bare)
    (folder / "audit").mkdir()
    runs.write_json(
        folder / "audit" / "audit.json", {"trainings": {"x-1": {"outcome": "ok", "val_accuracy": 0.5}} | {
            f"x-{seed}": {"outcome": "ok", "val_accuracy": 0.5} for seed in (2, 3)}}
    )  # fmt: skip
    audited = seed_scatter(load_run(folder))
    assert audited is not None and audited.freedom == 4 and audited.deviation < seeds.deviation


def test_luck_is_taken_off_the_best(folder: Path, tmp_path: Path) -> None:
    view = load_run(folder)
    luck = luck_of(view, seed_scatter(view))
    factor = (view.trained()["reward"] / view.trained()["val_accuracy"]).median()
    assert luck.prior.noise == pytest.approx(0.02 / 2**0.5 * factor) and not luck.raised
    text = doubt(folder)
    best = view.trained()["reward"].iloc[0]
    value = luck.prior.shrunken(float(best))[0]
    assert f"The highest of 40 rewards, {best:.4f}, is high partly by luck; expect {value:.4f}" in text and value < best
    assert "Of the winner:" in text and "the scatter between seeds" in text
    assert "the finalists lost 0.0050 on average, where" in text
    assert "| finalist | in the search | measured again | expected, from all |" in text
    same = [replace(record, reward=0.7 + record.number / 1e5, val_accuracy=0.7) for record in many(20)]
    assert "Luck alone" in doubt(fabricate(tmp_path / "same", same, [], []))
    assert "9 networks are too few" in doubt(fabricate(tmp_path / "nine", many(9), [], []))


def test_what_finalists_lost_says_more_than_the_scatter_of_a_few_trainings(folder: Path) -> None:
    before = load_run(folder)
    content = json.loads((folder / "finalists.json").read_text())
    for item in content["finalists"]:
        item["reward"] = item["record"]["reward"] - 0.04
        item["optimism"] = 0.04
    runs.write_json(folder / "finalists.json", content)
    view = load_run(folder)
    luck = luck_of(view, seed_scatter(view))
    assert luck.raised and luck.lost == pytest.approx(0.04) and luck.foreseen < 0.03
    assert luck.prior.noise > 1.2 * luck_of(before, seed_scatter(before)).prior.noise
    # With this luck the loss is what is to be expected of the finalists.
    seen = float(np.mean([item["record"]["reward"] for item in view.finalists]))
    assert seen - luck.prior.shrunken(seen)[0] == pytest.approx(min(0.04, seen - luck.prior.centre))
    assert "luck is taken to be as large as that says" in doubt(folder)


def test_the_sampler_is_held_against_random_draws(folder: Path, tmp_path: Path) -> None:
    text = doubt(folder)
    assert "The sampler's suggestions were better than random draws: one is better than the other in" in text
    assert "30 suggested, 10 drawn at random" in text and "| 10 | 0.6" in text
    assert "| 20 |" not in text, "beyond what ten random draws can say"
    assert "nas audit RUN --against" in text
    turned = [replace(record, suggested_by="" if record.suggested_by else "random") for record in many(40)]
    assert "were **worse** than random draws" in doubt(fabricate(tmp_path / "turned", turned, [], []))
    old = [replace(record, suggested_by="") for record in many(40)]
    assert "Too few networks of this run are known to be drawn" in doubt(fabricate(tmp_path / "old", old, [], []))


def trade(number: int, accuracy: float, time: float) -> TrialRecord:
    own = Reward(-0.07, -0.05, 1e6)
    made = replace(trial(number, accuracy=accuracy), step_time_ms=time)
    return replace(made, reward=score_of(made.candidate(), own))


def test_exponents_change_the_winner_where_they_do(tmp_path: Path) -> None:
    # Fast, balanced, exact: 0.01 of accuracy known, and 0.35 between the first and the last.
    fabricate(tmp_path / "run", [trade(0, 0.60, 5.0), trade(1, 0.72, 20.0), trade(2, 0.95, 2000.0)], [], [])
    found = sensitivity(load_run(tmp_path / "run"))
    assert found is not None and len(found.cells) == 16 and found.firsts == 3
    free = [cell for cell in found.cells if cell.reward.w == 0]
    assert {cell.first for cell in free} == {f"{2:016d}"}
    assert found.named == f"{1:016d}" and not free[0].within and free[0].gap == pytest.approx(0.23 * 1, abs=0.02)
    text = doubt(tmp_path / "run")
    assert "3 different networks come first with 16 pairs of exponents." in text and " by 0.2" in text
    alone = fabricate(tmp_path / "alone", [trade(n, 0.5 + n / 10, 10.0) for n in range(3)], [], [])
    assert "The same network comes first with all 16 pairs" in doubt(alone)


def test_a_run_of_hardly_any_networks_is_not_doubted(tmp_path: Path) -> None:
    assert doubt(fabricate(tmp_path / "run", [trial(0), trial(1)], [], [])) == ""


def audit(**more: Any) -> dict[str, Any]:
    def order(tau: float) -> dict[str, Any]:
        known = {"value": tau, "low": tau - 0.2, "high": tau + 0.1, "networks": 8}
        return {"tau": known, "spearman": known, "tau_upper": None}

    fidelity = {
        "long": 5.0,
        "networks": 8,
        "change": {"better": -0.03, "worse": 0.01},
        "accuracy": {"long": order(0.4), "again": order(0.8)},
        "reward": {"long": order(0.6), "again": None},
    }
    return {"trainings": {}, "fidelity": fidelity, **more}


def test_what_an_audit_found_is_folded_in(folder: Path) -> None:
    assert "`nas audit RUN`" in doubt(folder), "what is not known says how to know it"
    (folder / "audit").mkdir()
    candidate = {"epochs": 3.0, "train_images": 64, "phases": 2, "cost": 1.9}
    tau = {"value": 0.75, "low": 0.5, "high": 0.9, "networks": 8}
    tuning = {"threshold": 0.7, "chosen": "twice", "candidates": [{"name": "twice", **candidate, "tau": tau}]}
    against = {
        "name": "run2", "sampler": "random", "budget": 40, "budget_other": 41, "reward": 0.72, "reward_other": 0.70,
        "gap": 0.02, "error": 0.005, "matched_after": 12,
    }  # fmt: skip
    runs.write_json(folder / "audit" / "audit.json", audit(tuning=tuning, against=against))
    text = doubt(folder)
    assert "the wrong one first in about 30% of cases" in text and "0.40 [0.20, 0.50]" in text
    assert "better half changed by -0.0300 on average, those of the other half by +0.0100" in text
    assert "wide interval" not in text
    assert "**That is weak.** It is not the scatter alone" in text
    assert "The cheapest recipe tried that reaches tau 0.7 is **twice**, at 1.90 times" in text
    assert "The winner is better than that of the search with `random` (run2, 41 networks)." in text
    assert "had seen after 12." in text
    runs.write_json(folder / "audit" / "audit.json", audit(tuning={**tuning, "chosen": None}))
    assert "No recipe tried reaches tau 0.7" in doubt(folder)


def test_the_published_run_can_be_doubted() -> None:
    text = doubt(PUBLISHED)
    assert "of the other 103 networks cannot be told from the first" in text
    assert "The highest of 104 rewards, 0.8533, is high partly by luck" in text
    assert "Too few networks of this run are known to be drawn at random" in text, "it does not say which were"
    assert "### Which choices mattered" in text and "in one stage, on average over the stages" in text
