"""What foresees networks of recorded runs: models that know a made order, and the networks of a published run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import readme, surrogates  # noqa: E402
from nas.report import load_run  # noqa: E402
from nas.search.samplers.known import Known, Params  # noqa: E402

CHOICES = {f"x{place}": IntDistribution(0, 2) for place in range(4)} | {"y": CategoricalDistribution(("a", "b"))}
KNOWN = Known(
    CHOICES,
    network=lambda params: tuple(params.values()),
    active=lambda params: frozenset(CHOICES) - ({"x3"} if params["y"] == "b" else set()),
    cost=lambda params: {"num_params": 0.5 * params["x0"]},
)


def drawn(number: int) -> list[Params]:
    rng = np.random.default_rng(0)
    return [
        {name: int(rng.integers(3)) for name in list(CHOICES)[:4]} | {"y": "ab"[rng.integers(2)]} for _ in range(number)
    ]


def test_models_find_what_they_can_express() -> None:
    networks = drawn(120)
    values = np.array([params["x0"] + 0.5 * params["x1"] + (params["y"] == "a") * params["x3"] for params in networks])
    found = surrogates.foreseen(networks, values, KNOWN, [60], 3, 0)
    assert found["additive"]["60"]["mean"] > 0.9 and found["gaussian"]["60"]["mean"] > 0.9
    assert found["additive"]["60"]["over_additive"] == {"mean": 0, "low": 0, "high": 0}
    assert 0.3 < found["costs"]["60"]["mean"] < found["nearest"]["60"]["mean"] < found["additive"]["60"]["mean"]
    first = surrogates.costs(networks[:60], 2.0 * np.array([params["x0"] for params in networks[:60]]), networks, KNOWN)
    assert first == pytest.approx([2.0 * params["x0"] for params in networks])


def test_masked_choices_are_not_marked() -> None:
    one, other = ({"x0": 0, "x1": 0, "x2": 0, "x3": place, "y": "b"} for place in (0, 2))
    rows = surrogates.marks([one, other, {**one, "y": "a"}], KNOWN)
    assert (rows[0] == rows[1]).all() and rows.sum(1).tolist() == [4, 4, 5]


def test_networks_of_a_published_run_are_read() -> None:
    view = load_run(ROOT / "results/published/v2_tiny-200")
    networks, values, known = surrogates.recorded(view)
    rows = view.trials[view.trials["kind"].isin(["trained", "pruned"])]
    assert [known.network(params) for params in networks] == list(rows["arch_hash"]) and len(values) == 200
    assert 0.2 < values.min() < values.max() < 1


def test_a_run_that_is_too_short_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert surrogates.main([str(ROOT / "results/published/v2_tiny-family"), "--out", str(tmp_path)]) == 1 + 1
    assert "allowed: 50 or more" in capsys.readouterr().err


def test_the_command_writes_what_the_page_shows(tmp_path: Path) -> None:
    run = str(ROOT / "results/published/v2_tiny-200")
    assert surrogates.main([run, "--splits", "1", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*/surrogates.json")
    lines = readme.surrogates(json.loads(path.read_text()), {})
    assert sum(line.startswith("| `") and line.count("|") == 5 for line in lines) == len(surrogates.MODELS)
