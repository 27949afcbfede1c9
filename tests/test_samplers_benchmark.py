"""The figures of the samplers' benchmark are those of cases worked out by hand, and it goes on with what is stored."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import _sampler_tasks, readme, samplers  # noqa: E402
from benchmarks._sampler_tasks import TASKS, Task  # noqa: E402
from nas.search.samplers._draw import Draw  # noqa: E402
from nas.search.samplers.known import Known, values_of  # noqa: E402

CHOICES: dict[str, BaseDistribution] = {"x": IntDistribution(0, 3), "y": CategoricalDistribution(("a", "b"))}


def tiny(data: Path) -> Task:
    """Eight networks, one forbidden; what is seen is always true."""

    def true(params: Any) -> float:
        return float(params["x"] + 4 * (params["y"] == "b"))

    def network(params: Any) -> Any:
        return None if params["x"] == 3 and params["y"] == "b" else (params["x"], params["y"])

    known = Known(CHOICES, network, lambda params: frozenset(CHOICES), lambda params: {})
    return Task(known, lambda params, rng: true(params), true, 6.0, 3.0, lambda params: true(params) - 6, "tiny")


@pytest.fixture
def only_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sampler_tasks, "TASKS", {"tiny": tiny})
    monkeypatch.setattr(samplers, "TASKS", {"tiny": tiny})
    _sampler_tasks.task.cache_clear()


def run(picks: list[tuple[int, float]], budget: int = 4) -> dict[str, Any]:
    return {"networks": budget, "budget": budget, "asks": 10, "duplicates": 2, "forbidden": 1, "picks": picks} | {
        "bests": [(1, 9.0)],
        "seconds": {"25": 0.5},
    }


def test_regret_is_a_share_of_what_random_loses() -> None:
    about = {"optimum": 10.0, "mean": 6.0}
    found = samplers.regrets([run([(1, 6.0), (3, 8.0)]), run([(1, 2.0), (2, 10.0), (4, 9.0)])], about)
    assert found.tolist() == [[1.0, 1.0, 0.5, 0.5], [2.0, 0.0, 0.0, 0.25]]
    assert samplers.regrets([run([(1, 6.0), (3, 8.0)]), run([(1, 10.0)], budget=2)], about).tolist() == [[1, 1], [0, 0]]
    assert samplers.spread(found[:, 2]) == {"mean": 0.25, "error": pytest.approx(0.25)}


def test_needed_is_the_first_number_that_equals_the_rival() -> None:
    rival = np.array([[1.0, 0.8, 0.4], [1.0, 0.6, 0.6]])
    assert samplers.reached(np.array([[0.9, 0.5, 0.6]]), 0.5) == 2
    assert samplers.reached(np.array([[0.9, 0.6, 0.6]]), 0.5) is None
    assert samplers.needed(rival - 0.3, rival, 3) == {"networks": 2, "low": 2, "high": 3}
    assert samplers.needed(rival + 0.3, rival, 3) == {"networks": None, "low": None, "high": None}
    assert samplers.needed(rival, rival, 3)["networks"] == 3, "itself, at the end"


def test_the_table_of_two_samplers() -> None:
    about = {"optimum": 10.0, "mean": 6.0}
    rows = samplers.summary(
        {
            "optuna": {0: run([(1, 6.0)]), 1: run([(1, 6.0), (4, 8.0)])},
            "random": {1: run([(1, 8.0)]), 0: run([(1, 6.0)])},
        },
        about,
    )
    assert rows["random"]["regret"] == {4: {"mean": 0.75, "error": 0.25}}
    assert rows["random"]["regret_of_best"] == {4: {"mean": 0.25, "error": 0.0}}
    assert rows["random"]["regret_over_optuna"] == {4: {"mean": 0.0, "error": 0.0}}, "by seed"
    assert rows["random"]["needed"]["networks"] == 1 and rows["optuna"]["needed"]["networks"] == 4
    assert rows["optuna"]["duplicates_share"] == 0.2 and rows["optuna"]["forbidden_share"] == 0.1
    assert rows["optuna"]["seconds_over_random"]["25"]["median"] == 1.0
    assert "optuna" in samplers.table("tiny", rows)


@pytest.mark.parametrize("pending", [0, 3])
def test_a_search_counts_different_networks(pending: int, tmp_path: Path) -> None:
    found = samplers.searched(tiny(tmp_path), "random", 0, 7, pending)
    assert found["networks"] == 7 and found["asks"] == 7 + found["duplicates"] + found["forbidden"]
    assert found["picks"][-1][1] == found["bests"][-1][1] == 6.0
    assert found["picks"][0][0] == 1
    own = samplers.searched(tiny(tmp_path), "evolution", 0, 7, pending)
    assert own["asks"] - own["forbidden"] == 7, "none twice"


def test_a_search_that_finds_nothing_new_ends(tmp_path: Path) -> None:
    found = samplers.searched(tiny(tmp_path), "random", 0, 8, 0)
    assert found["networks"] == 7 and found["asks"] == 8 * samplers.PATIENCE


def test_optunas_default_is_asked_for_categories(tmp_path: Path) -> None:
    found = samplers.asked("optuna", tiny(tmp_path))
    assert found == {"x": CategoricalDistribution((0, 1, 2, 3)), "y": CHOICES["y"]}
    assert samplers.asked("tpe", tiny(tmp_path)) == CHOICES


def test_the_command_goes_on_where_it_was(
    tmp_path: Path, only_tiny: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--tasks", "tiny", "--seeds", "2", "--budget", "5", "--out", str(tmp_path)]
    done: list[tuple[Any, ...]] = []
    one = samplers.one
    monkeypatch.setattr(samplers, "one", lambda *given: done.append(given) or one(*given))
    samplers.main([*arguments, "--samplers", "random"])
    assert len(done) == 2
    (path,) = tmp_path.glob("*/samplers.json")
    before = json.loads(path.read_text())["runs"]
    samplers.main([*arguments, "--samplers", "random", "local"])
    assert len(done) == 4
    content = json.loads(path.read_text())
    assert content["runs"].items() > before.items() and set(content["summary"]["0"]["tiny"]) == {"random", "local"}
    samplers.main([*arguments, "--samplers", "local", "--pending", "1"])
    content = json.loads(path.read_text())
    assert set(content["summary"]) == {"0", "1"}
    lines = readme.samplers(content, {})
    assert sum(line.startswith("| `local` | 2 |") for line in lines) == 2
    monkeypatch.setattr(samplers, "task", lambda name, data: Task(**{**vars(tiny(data)), "optimum": 7.0}))
    with pytest.raises(SystemExit, match="another task tiny"):
        samplers.main(arguments)


def test_tables_that_are_absent_are_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samplers.main(["--tasks", "macro", "--data-dir", str(tmp_path / "none"), "--out", str(tmp_path)])
    assert "macro: skipped, for" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["stages", "layers"])
def test_made_tasks_are_what_they_say(name: str) -> None:
    made, again = TASKS[name](), TASKS[name]()
    rng = np.random.default_rng(1)
    draw = Draw(made.known, set(), rng)
    drawn = [draw.random() for _ in range(300)]
    networks = [made.known.network(params) for params in drawn]
    forbidden = sum(one is None for one in networks) / len(drawn)
    assert 0.4 < forbidden < 0.6
    assert all((one is None) == (made.slack(params) > 0) for one, params in zip(networks, drawn, strict=True))
    true = [made.true(params) for params, one in zip(drawn, networks, strict=True) if one is not None]
    assert max(true) < made.optimum == again.optimum and abs(np.mean(true) - made.mean) < 0.02
    assert [again.true(params) for params in drawn[:5]] == [made.true(params) for params in drawn[:5]]
    shown = [made.observe(drawn[0], rng) for _ in range(200)]
    assert 0.004 < np.std(shown) < 0.012 and abs(np.mean(shown) - made.true(drawn[0])) < 0.003
    for params in drawn[:20]:
        for key, item in made.known.distributions.items():
            other = {**params, key: next(value for value in values_of(key, item) if value != params[key])}
            same = made.known.network(params) == made.known.network(other) and made.true(params) == made.true(other)
            if made.known.network(params) is not None and made.known.network(other) is not None:
                assert same == (key not in made.known.active(params)), key


def test_other_seeds_are_other_tasks() -> None:
    assert TASKS["stages"]().optimum != TASKS["stages-1"]().optimum
