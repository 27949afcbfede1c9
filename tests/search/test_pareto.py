"""Searches for a front: what the study is told, what is measured again, and what the run leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState
from stubs import PHASES, Search, StubEvaluator, TwoSlots, failed, infeasible, kinds

import nas
from nas import catalog
from nas.engine import Job
from nas.errors import UnknownNameError, UsageError
from nas.evaluate import PhaseResult
from nas.export import export
from nas.front import beats, front
from nas.report import load_run, rerank
from nas.report.front import front_of
from nas.search import SearchResult, begin, resume
from nas.search.config import SearchConfig, from_document
from nas.search.finalists import best
from nas.search.record import promising
from nas.search.samplers import FRONTS, SAMPLERS, maker
from nas.space import Limit

COSTS = ("step_time_ms", "num_params")


# --- settings ---------------------------------------------------------------------------------------------


def test_what_is_usual_depends_on_the_objective() -> None:
    assert (SearchConfig().pruner, SearchConfig().top_k, SearchConfig().cost_names()) == ("halving", 3, ())
    config = SearchConfig(objective="pareto", costs="step_time,params")
    assert (config.pruner, config.top_k, config.cost_names()) == ("none", 8, COSTS)
    assert SearchConfig(objective="pareto", top_k=4).top_k == 4
    assert from_document(json.loads(json.dumps(config.document()))) == config


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"objective": "front"}, "--objective: found 'front'; allowed: reward, pareto"),
        ({"costs": "params"}, "--costs: belongs to --objective pareto"),
        (
            {"objective": "pareto", "costs": "flops"},
            "--costs: found flops; allowed: one or two different ones of params, ",
        ),
        ({"objective": "pareto", "costs": ("params",) * 2}, "--costs: found params,params; allowed"),
        ({"objective": "pareto", "costs": ("params", "macs", "latency")}, "allowed: one or two"),
        ({"objective": "pareto", "costs": 3}, "--costs: found 3; allowed: names of costs"),
        (
            {"objective": "pareto", "pruner": "halving"},
            "--pruner: found halving; allowed with --objective pareto: none",
        ),
    ],
)
def test_what_a_front_cannot_do_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SearchConfig(**settings)


def test_a_cost_that_is_measured_on_demand_is_a_limit_without_a_bound() -> None:
    config = SearchConfig(objective="pareto", costs="latency,params")
    assert config.limits() == (Limit("latency_ms"),)
    assert SearchConfig(objective="pareto", costs="latency", max_latency="5ms").limits() == (
        Limit("latency_ms", max=5),
    )


@pytest.mark.parametrize("sampler", ["evolution", "local"])
def test_a_sampler_for_one_best_network_is_refused_and_those_for_a_front_are_named(
    sampler: str, tmp_path: Path
) -> None:
    with pytest.raises(
        UsageError, match=rf"--sampler: found {sampler}, which looks for one best .*: arch, gp, nsga2, random, tpe"
    ):
        nas.search(space="v2_tiny", objective="pareto", sampler=sampler, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert maker(sampler, ()) is SAMPLERS[sampler]
    with pytest.raises(UnknownNameError, match="Known: arch, gp, nsga2, random, tpe"):
        maker("nsga3", ("macs",))


# --- the loop ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", sorted(FRONTS))
def test_every_sampler_for_fronts_spends_the_budget(search: Search, sampler: str) -> None:
    found = search.go(StubEvaluator(), 22, sampler=sampler, costs=COSTS, memory=True)
    trained = kinds(found, "trained")
    assert len(trained) == len({record.arch_hash for record in trained}) == 22
    assert search.study.directions == [StudyDirection.MAXIMIZE] + 2 * [StudyDirection.MINIMIZE]
    for record in trained:
        assert record.val_accuracy and record.step_time_ms and record.num_params
        values = search.study.trials[record.number].values
        assert values == pytest.approx([record.val_accuracy, record.step_time_ms / 10, record.num_params])
    points = {record.number: record.point(COSTS) for record in trained}
    own = {trial.number for trial in search.study.best_trials if trial.number in points}
    assert own == {list(points)[place] for place in front(list(points.values()))}, "the dashboard shows the same front"


def test_the_reward_stays_computed_and_nothing_is_pruned(search: Search) -> None:
    found = search.go(StubEvaluator(), 14, costs=("macs",), pruner="none")
    assert {record.kind for record in found} <= {"trained", "duplicate", "forbidden"}
    first = kinds(found, "trained")[0]
    assert first.val_accuracy and first.step_time_ms and first.num_params
    assert first.reward == pytest.approx(
        first.val_accuracy * (first.step_time_ms / 10) ** -0.07 * (first.num_params / 5000) ** -0.05
    )
    assert search.study.metric_names == ["val_accuracy", "macs"]


@pytest.mark.parametrize("sampler", ["arch", "tpe", "nsga2"])
def test_failures_and_limits_cost_no_budget_and_have_constraints(search: Search, sampler: str) -> None:
    def trap(job: Job) -> PhaseResult | None:
        number = int(job.spec.arch_hash[:6], 16) % 5
        if number == 0 and job.phase == 0:
            return infeasible(job)
        return failed(job, "diverged") if number == 1 and job.phase == PHASES else None

    found = search.go(StubEvaluator(trap), 24, sampler=sampler, costs=("macs",), memory=True)
    assert len(kinds(found, "trained")) == 24
    bad = kinds(found, "infeasible", "diverged")
    assert {record.kind for record in bad} == {"infeasible", "diverged"}
    for record in (*bad, *(item for item in kinds(found, "duplicate") if item.reason.endswith("diverged)"))):
        trial = search.study.trials[record.number]
        assert trial.state == TrialState.PRUNED and max(trial.constraints.values()) > 0


@pytest.mark.parametrize("engine", [None, TwoSlots])
def test_a_search_for_a_front_goes_on_where_it_stopped(search: Search, engine: Any) -> None:
    seen = StubEvaluator()

    def stop(job: Job) -> PhaseResult | None:
        if len(seen.log) == 20:
            raise KeyboardInterrupt
        return None

    seen.trap = stop
    more = {} if engine is None else {"engine": engine}
    with pytest.raises(KeyboardInterrupt):
        search.go(seen, 15, costs=COSTS, **more)
    rest = StubEvaluator()
    found = search.go(rest, 15, sampler="arch", costs=COSTS, **more)
    trained = kinds(found, "trained")
    assert len(trained) == 15
    assert sorted(seen.trained() + rest.trained()) == sorted(record.arch_hash for record in trained), (
        "none is trained twice"
    )


def test_the_weights_of_the_front_are_kept(search: Search) -> None:
    found = kinds(search.go(StubEvaluator(), 12, costs=("macs",), top_k=3), "trained")
    expected = {record.arch_hash for record in promising(found, ("macs",), 3)}
    assert {path.name.split("-s")[0] for path in search.checkpoints.iterdir()} == expected


def test_the_networks_measured_again_are_the_front_and_what_is_next_to_it(search: Search) -> None:
    found = search.go(StubEvaluator(), 40, costs=("macs",), memory=True)
    reward = nas.objective.Reward(-0.07, -0.05, 5000)
    trained = kinds(found, "trained")
    points = {record.arch_hash: record.point(("macs",)) for record in trained}
    whole = [
        record.arch_hash
        for record in trained
        if not any(beats(other, points[record.arch_hash]) for other in points.values())
    ]
    chosen = [record.arch_hash for record in best(found, reward, len(whole) + 3, costs=("macs",))]
    assert set(chosen[: len(whole)]) == set(whole) and len(chosen) == len(set(chosen)) == len(whole) + 3
    costs = [points[arch][1] for arch in chosen[: len(whole)]]
    assert costs == sorted(costs)
    left = [points[arch] for arch in points if arch not in whole]
    for arch in chosen[len(whole) :]:
        assert not any(beats(other, points[arch]) for other in left), "the front without the front"
    assert set(record.arch_hash for record in best(found, reward, 2, costs=("macs",))) <= set(whole)
    assert len(best(found, reward, 99, costs=("macs",))) == 40
    assert promising(trained, (), 3) == sorted(trained, key=lambda record: -(record.reward or 0))[:3]


# --- a whole run ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fronted(finished: SearchResult, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """A real search for a front of four networks."""
    config = finished.run.manifest["config"]
    return nas.search(
        space=config["space"],
        data=config["data"],
        recipe=config["recipe"],
        out=tmp_path_factory.mktemp("fronted") / "run",
        devices="cpu",
        objective="pareto",
        costs="params,latency",
        sampler="arch",
        budget=4,
        top_k=3,
        top_k_seeds=1,
        seed=5,
    )


def test_a_run_leaves_its_front(fronted: SearchResult) -> None:
    view = load_run(fronted.run.folder)
    assert view.costs == ("num_params", "latency_ms") and fronted.run.manifest["pruner"] == "none"
    found = front_of(view)
    assert len(found) >= 3
    assert found[0].verdict == "knee" and found[0].arch_hash == fronted.winner.arch_hash == view.winner.arch_hash
    files = {path.stem for path in fronted.run.path("front").iterdir()}
    assert files == {item.name for item in found} and len(found) == len(fronted.finalists)
    for item in found:
        arch = catalog.load_arch(fronted.run.path("front") / f"{item.name}.yaml")
        assert arch.arch_hash == item.arch_hash and arch.num_classes == 3
    table = pd.read_csv(fronted.run.path("front.csv"), dtype={"arch_hash": str})
    assert list(table["trial"]) == [item.number for item in found] and (table["latency_ms_error"] > 0).all()
    page = fronted.run.path("report.md").read_text()
    assert f"Knee: trial {found[0].number}, `{found[0].arch_hash}`" in page
    assert "## Front as the search saw it" in page and "Hypervolume (accuracy x ln cost): " in page
    assert "- objective accuracy against num_params and latency_ms" in page
    assert "reward, fresh" not in page and "Stopping early" not in page
    assert fronted.run.path("pareto.png").read_bytes().startswith(b"\x89PNG")


def test_any_member_of_a_front_is_handed_over(fronted: SearchResult, tmp_path: Path) -> None:
    last = front_of(load_run(fronted.run.folder))[-1]
    handed = export(fronted.run.folder, ("safetensors",), out=tmp_path / "export", trial=str(last.number))
    assert handed.checks[0].difference <= handed.checks[0].allowed
    assert catalog.load_arch(handed.folder / "architecture.yaml").arch_hash == last.arch_hash


def test_a_run_for_a_front_is_ranked_again_by_any_reward(fronted: SearchResult) -> None:
    view = load_run(fronted.run.folder)
    order = rerank(view).table
    assert len(order) == 4 and list(order["reward"]) == sorted(order["reward"], reverse=True)


def test_a_run_for_a_front_goes_on_with_a_higher_budget(fronted: SearchResult, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(fronted.run.folder, tmp_path / "copy"))
    (copy / "front" / "trial-999.yaml").write_text("left over")
    result = resume(copy, budget=5)
    trained = [record for record in result.records if record.kind == "trained"]
    assert len(trained) == 5 and trained[:4] == [record for record in fronted.records if record.kind == "trained"]
    assert {path.stem for path in (copy / "front").iterdir()} == {item.name for item in front_of(load_run(copy))}
    assert {item.record.arch_hash for item in fronted.finalists} <= {item.record.arch_hash for item in result.finalists}


def test_a_front_begins_with_what_another_run_trained(
    fronted: SearchResult, finished: SearchResult, tmp_path: Path
) -> None:
    config = fronted.run.manifest["config"]
    settings = {name: config[name] for name in ("space", "data", "recipe")} | {
        "devices": "cpu",
        "top_k_seeds": 1,
        "seed": 9,
    }
    result = nas.search(
        **settings, budget=1, objective="pareto", costs="macs", warm_start=finished.run.folder, out=tmp_path / "run"
    )
    taken = [record for record in result.records if record.origin]
    theirs = [record for record in finished.records if record.kind == "trained"]
    assert {record.arch_hash for record in taken} == {record.arch_hash for record in theirs}
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'run' / 'study.db'}")
    for record in taken:
        assert study.trials[record.number].values == pytest.approx([record.val_accuracy, record.macs])
    back = nas.search(**settings, budget=1, warm_start=fronted.run.folder, out=tmp_path / "back", top_k=1)
    assert sum(record.origin != "" for record in back.records) == 4, "and the other way round"
    facts = finished.run.manifest | {"config": {"latency_batch_size": 1}}
    other = begin.warm_start(
        optuna.create_study(directions=["maximize", "minimize"]),
        begin.read(finished.run.folder, facts),
        catalog.load_space(config["space"]),
        nas.objective.Reward(0, 0, 1),
        [Limit("latency_ms")],
        ("latency_ms",),
    )
    assert "of 3 it did not measure what is limited here (latency_ms)" in other


def test_memory_is_no_cost_of_a_cpu(fronted: SearchResult, tmp_path: Path) -> None:
    config = fronted.run.manifest["config"]
    with pytest.raises(
        UsageError, match=r"objective on peak_memory_mib: .*CUDA devices only; this is cpu\. Leave the objective out"
    ):
        nas.search(
            space=config["space"], data=config["data"], recipe=config["recipe"], devices="cpu", objective="pareto",
            costs="memory", budget=1, out=tmp_path / "run",
        )  # fmt: skip


def test_what_is_scaled_is_the_knee(fronted: SearchResult) -> None:
    assert catalog.load_arch(fronted.run.folder).arch_hash == front_of(load_run(fronted.run.folder))[0].arch_hash
