"""The replay of stopping rules is that of the pruners, and its figures are those of a case worked out by hand."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.stopping import RULES, Network, judged, main, replayed  # noqa: E402
from nas.search.samplers import PRUNERS  # noqa: E402


def drawn(number: int, phases: int) -> list[Network]:
    rng = random.Random(phases)
    return [
        Network(str(place), tuple(rng.random() for _ in range(phases)), (1.0,) * (phases + 1))
        for place in range(number)
    ]


@pytest.mark.parametrize(("rule", "pruner"), [("none", "none"), ("median", "median"), ("halving, eta 3", "halving")])
@pytest.mark.parametrize("phases", [2, 3])
def test_a_replay_stops_whom_the_pruner_stops(rule: str, pruner: str, phases: int) -> None:
    networks = drawn(60, phases)
    study = optuna.create_study(direction="maximize", pruner=PRUNERS[pruner]())
    stopped = []
    for network in networks:
        trial = study.ask({"x": FloatDistribution(0, 1)})
        for phase, reward in enumerate(network.rewards, 1):
            trial.report(reward, step=phase)
            if phase < phases and trial.should_prune():
                stopped.append(phase)
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            stopped.append(0)
            study.tell(trial, network.rewards[-1])
    assert list(replayed(networks, RULES[rule]).stopped) == stopped
    assert (max(stopped) > 0) == (rule != "none")


def test_what_is_lost_and_saved_of_three_networks() -> None:
    networks = [
        Network("a", (0.5, 0.6), (1, 2, 5)),
        Network("b", (0.4, 0.9), (1, 2, 5)),
        Network("c", (0.6, 0.7), (1, 2, 5)),
    ]
    outcome = replayed(networks, lambda rewards, came, whole: rewards[-1] >= 0.5)
    assert outcome.stopped == (0, 1, 0) and outcome.ended == (8, 11, 19)
    found = judged(networks, outcome, ["b", "c"], quarter=11)
    assert found["stopped_share"] == pytest.approx(1 / 3) and found["saved_share"] == pytest.approx(5 / 24)
    assert (found["best_stopped"], found["any_of_best_stopped"], found["share_of_best_stopped"]) == (1, 1, 0.5)
    assert found["regret"] == pytest.approx(0.2) and found["equal_time_networks"] == 2
    assert found["equal_time_regret"] == pytest.approx(0.3)


def test_the_published_run_is_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = ROOT / "results" / "published"
    command = [str(published / "v2_tiny-200"), "--shares", str(published / "v2_tiny-family"), "--orders", "3"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*/stopping.json")
    (run,) = json.loads(path.read_text())["runs"]
    assert run["networks_trained_to_the_end"] == 104 and set(run["rules"]) == set(RULES)
    assert run["rules"]["none"]["saved_share"]["mean"] == 0 < run["rules"]["halving, eta 3"]["saved_share"]["mean"]
    assert main([command[0], "--shares", command[0], "--out", str(tmp_path)]) == 2
    assert "did not keep phase seconds" in capsys.readouterr().err
