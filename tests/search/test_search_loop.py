from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from stubs import PHASES, Search, StubEvaluator, TwoSlots, failed, infeasible, kinds

from nas import catalog
from nas.engine import Job
from nas.errors import DeviceError, SearchError, TrialBug
from nas.evaluate import PhaseResult
from nas.objective import Reward
from nas.search.record import table
from nas.search.samplers import SAMPLERS
from nas.search.study import open_study, records
from nas.space import SearchSpace

SMALL = """
extends: tiny.yaml
name: small
stages:
  s1: {block: mbconv, kernel_size: [3, 5], expand_ratio: 1, out_channels: 8, num_layers: 1}
  s2: {kernel_size: [3, 5], expand_ratio: 1, se_ratio: [0, 0.25], out_channels: 16, num_layers: 1}
forbid: []
"""


@pytest.fixture
def small(tiny_space_file: Path) -> SearchSpace:
    """A space of eight networks."""
    path = tiny_space_file.with_name("small.yaml")
    path.write_text(SMALL)
    return catalog.load_space(path)


def test_the_budget_is_exact_and_counts_different_networks(search: Search) -> None:
    evaluator = StubEvaluator()
    found = search.go(evaluator, 30, memory=True)
    trained = kinds(found, "trained")
    assert len(trained) == len({record.arch_hash for record in trained}) == 30
    assert sorted(evaluator.trained()) == sorted(record.arch_hash for record in trained)
    assert found == search.told
    assert [record.number for record in found] == list(range(len(found)))


def test_a_record_holds_what_was_measured_and_its_score(search: Search) -> None:
    found = search.go(StubEvaluator(), 3)
    trial = search.study.trials[found[0].number]
    first = found[0]
    assert first.kind == "trained" and trial.state == TrialState.COMPLETE
    assert first.step_time_ms is not None and first.num_params is not None and first.val_accuracy is not None
    expected = first.val_accuracy * (first.step_time_ms / 10) ** -0.07 * (first.num_params / 5000) ** -0.05
    assert first.reward == pytest.approx(expected) and trial.value == pytest.approx(expected)
    assert set(trial.intermediate_values) == {1, 2}
    assert trial.intermediate_values[2] == pytest.approx(expected)
    assert first.phase_accuracy == f"{first.val_accuracy / 2:.4f} {first.val_accuracy:.4f}"
    assert (first.seconds, first.step_time_n, first.train_loss) == (2.5, 5, 0.5)
    assert records(search.study) == found
    frame = table(found)
    assert list(frame["arch_hash"]) == [record.arch_hash for record in found]
    assert {"param:s1.block", "param:s2.kernel_size"} <= set(frame.columns)


def test_duplicates_cost_no_budget_and_answer_the_stored_value(search: Search, small: SearchSpace) -> None:
    search.space = small
    evaluator = StubEvaluator()
    found = search.go(evaluator, 8, memory=True)
    assert len(evaluator.trained()) == len(set(evaluator.trained())) == 8
    twins = kinds(found, "duplicate")
    assert twins
    for twin in twins:
        first = found[twin.duplicate_of] if twin.duplicate_of is not None else pytest.fail("no first")
        assert (twin.arch_hash, twin.reward, twin.seconds) == (first.arch_hash, first.reward, 0)
        assert search.study.trials[twin.number].state == TrialState.COMPLETE
        assert search.study.trials[twin.number].value == first.reward
    assert len(found) == 8 + len(twins)


def test_a_forbidden_network_costs_nothing_and_is_pruned_with_a_constraint(search: Search) -> None:
    evaluator = StubEvaluator()
    found = search.go(evaluator, 15, memory=True)
    forbidden = kinds(found, "forbidden")
    assert forbidden, "the space forbids one combination in eight"
    for record in forbidden:
        trial = search.study.trials[record.number]
        assert trial.state == TrialState.PRUNED and trial.constraints["forbid"] > 0
        assert record.arch_hash not in {arch for arch, _ in evaluator.starts}
        assert record.reason.startswith("forbidden by the space: s1: ")
    assert len(kinds(found, "trained")) == 15


def test_an_infeasible_network_costs_nothing_and_is_pruned_with_its_slack(search: Search, small: SearchSpace) -> None:
    search.space = small
    evaluator = StubEvaluator(lambda job: infeasible(job) if job.spec.stages[0].layers[0]["kernel_size"] == 5 else None)
    found = search.go(evaluator, 4, memory=True)
    unfit = kinds(found, "infeasible")
    assert unfit and len(kinds(found, "trained")) == 4
    for record in unfit:
        trial = search.study.trials[record.number]
        assert trial.state == TrialState.PRUNED and trial.constraints == {"num_params.max": 0.25}
        assert record.reason == "num_params.max exceeded by 25.0%" and record.num_params == 5e3
    again = [record for record in found if record.kind == "duplicate" and record.reward is None]
    for record in again:
        trial = search.study.trials[record.number]
        assert trial.state == TrialState.PRUNED and max(trial.constraints.values()) > 0


@pytest.mark.parametrize(("outcome", "phase"), [("out_of_memory", 0), ("diverged", 1), ("timeout", 2)])
def test_a_failed_training_is_pruned_with_its_class_and_costs_nothing(search: Search, outcome: str, phase: int) -> None:
    seen: list[str] = []

    def trap(job: Job) -> PhaseResult | None:
        if job.phase == phase and not seen:
            seen.append(job.spec.arch_hash)
            return failed(job, outcome)
        return None

    evaluator = StubEvaluator(trap)
    found = search.go(evaluator, 4)
    (bad,) = kinds(found, outcome)
    trial = search.study.trials[bad.number]
    assert (bad.arch_hash, bad.reason) == (seen[0], f"it was {outcome}")
    assert trial.state == TrialState.PRUNED
    assert trial.user_attrs["kind"] == outcome
    assert max(trial.constraints.values()) > 0
    assert len(kinds(found, "trained")) == 4


def test_too_many_failures_end_the_search_with_a_message(search: Search) -> None:
    evaluator = StubEvaluator(lambda job: failed(job, "out_of_memory"))
    with pytest.raises(SearchError, match=r"10 of \d+ trials failed \(out_of_memory\); the last: .*Lower the recipe's"):
        search.go(evaluator, 20, memory=True)
    assert len(evaluator.starts) == 10


def test_an_exhausted_space_ends_the_search_with_what_it_has(search: Search, small: SearchSpace) -> None:
    search.space = small
    found = search.go(StubEvaluator(), 9, patience=40, memory=True)
    assert len(kinds(found, "trained")) == 8
    assert [record.kind for record in found[-40:]] == ["duplicate"] * 40


def test_a_budget_that_a_known_run_has_spent_trains_nothing(search: Search) -> None:
    search.go(StubEvaluator(), 3)
    again = StubEvaluator()
    assert len(kinds(search.go(again, 3), "trained")) == 3
    assert len(kinds(search.go(again, 2), "trained")) == 3
    assert again.starts == []


def test_the_pruner_stops_trials_at_a_phases_end_and_they_cost_budget(search: Search) -> None:
    evaluator = StubEvaluator()
    found = search.go(evaluator, 40, pruner="median", memory=True)
    pruned, trained = kinds(found, "pruned"), kinds(found, "trained")
    assert pruned and len(pruned) + len(trained) == 40
    for record in pruned:
        trial = search.study.trials[record.number]
        assert trial.state == TrialState.PRUNED
        assert trial.value == record.reward == trial.intermediate_values[1]
        assert record.reason == "reward below the median at the end of phase 1"
        assert (record.arch_hash, 2) not in evaluator.starts
    assert sum(record.kind in ("trained",) for record in found[: pruned[0].number]) >= 10


def test_the_pruner_leaves_queued_networks_alone(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda _: True)
    study = open_study(search.folder, "stub", sampler="random", pruner="none", seed=0)
    study.enqueue_trial({}, user_attrs={"enqueued": "mine"})
    assert [record.kind for record in search.go(StubEvaluator(), 2)][:2] == ["trained", "pruned"]


def test_the_pruner_never_stops_the_last_phase_or_phase_zero(search: Search) -> None:
    found = search.go(StubEvaluator(), 40, pruner="median", memory=True)
    assert all(len(record.phase_accuracy.split()) == 1 for record in kinds(found, "pruned"))
    assert all(len(record.phase_accuracy.split()) == PHASES for record in kinds(found, "trained"))


def test_a_bug_is_saved_for_replay_and_the_study_stays_loadable(search: Search) -> None:
    def trap(job: Job) -> PhaseResult | None:
        if len(evaluator.trained()) == 2 and job.phase == 1:
            raise ZeroDivisionError("in the block")
        return None

    evaluator = StubEvaluator(trap)
    with pytest.raises(
        TrialBug, match=r"trial \d+, phase 1: the program failed .*ZeroDivisionError.*nas debug .*--skip-bugs"
    ) as raised:
        search.go(evaluator, 5)
    broken = evaluator.starts[-1][0]
    arch, trace = (search.folder / f"bug-{broken}.{ending}" for ending in ("yaml", "txt"))
    assert str(arch) in str(raised.value) and str(trace) in str(raised.value)
    assert catalog.load_arch(arch).arch_hash == broken
    assert "ZeroDivisionError: in the block" in trace.read_text() and "Traceback" in trace.read_text()
    assert "ZeroDivisionError" in "".join(traceback.format_exception(raised.value))
    study = optuna.load_study(study_name="stub", storage=f"sqlite:///{search.folder / 'study.db'}")
    assert len(kinds(records(study), "trained")) == 2
    mended = StubEvaluator()
    assert len(kinds(search.go(mended, 5), "trained")) == 5
    assert mended.starts[0] == (broken, 1), "it goes on from its checkpoint"


def test_a_network_with_a_bug_can_be_left_out(search: Search) -> None:
    def trap(job: Job) -> PhaseResult | None:
        if len(evaluator.trained()) == 2:
            raise ZeroDivisionError("in the block")
        return None

    evaluator = StubEvaluator(trap)
    with pytest.raises(TrialBug):
        search.go(evaluator, 4)
    broken = evaluator.starts[-1][0]
    with pytest.raises(TrialBug):
        search.go(StubEvaluator(trap), 4)
    rest = StubEvaluator()
    found = search.go(rest, 4, skipped=frozenset([broken]))
    (left,) = kinds(found, "bug")
    assert left.arch_hash == broken and broken not in {arch for arch, _ in rest.starts}
    assert search.study.trials[left.number].state == TrialState.PRUNED
    assert len(kinds(found, "trained")) == 4


def test_one_seed_and_the_random_sampler_ask_the_same_networks(tmp_path: Path, tiny_space: SearchSpace) -> None:
    found = {
        (name, seed): [
            record.arch_hash
            for record in Search(tmp_path / name, tiny_space).go(StubEvaluator(), 10, seed=seed, memory=True)
        ]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    }
    assert found["a", 0] == found["b", 0] != found["c", 1]


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_every_sampler_searches(search: Search, sampler: str) -> None:
    if sampler == "gp":
        pytest.importorskip("scipy", reason="the Gaussian process of optuna needs SciPy")
    evaluator = StubEvaluator()
    found = search.go(evaluator, 25, sampler=sampler, memory=True)
    assert len(kinds(found, "trained")) == len(set(evaluator.trained())) == 25


def test_a_sampler_that_learns_beats_chance(tmp_path: Path, tiny_space: SearchSpace) -> None:
    """Rewards that follow the choices are found: guards against values that reach the sampler upside down."""

    class Wide(StubEvaluator):
        def run_phase(self, spec, phase, state, *, seed, protocol=None):  # type: ignore[no-untyped-def]
            result = super().run_phase(spec, phase, state, seed=seed)
            if result.training is None:
                return result
            wide = sum(layer.out_channels for stage in spec.stages for layer in stage.layers)
            deep = sum(stage.num_layers for stage in spec.stages)
            return replace(result, training=replace(result.training, val_accuracy=wide * 0.01 + deep * 0.05))

    late: dict[str, float] = {}
    for sampler in ("random", "tpe"):
        search = Search(tmp_path / sampler, tiny_space)
        found = search.go(Wide(), 60, sampler=sampler, memory=True, reward=Reward(0, 0, 1))
        rewards = [record.reward or 0 for record in kinds(found, "trained")][30:]
        late[sampler] = sum(rewards) / len(rewards)
    assert late["tpe"] > late["random"] + 0.03


# --- two flights ------------------------------------------------------------------------------------------


def test_two_slots_keep_the_budget_exact(search: Search) -> None:
    evaluator = StubEvaluator()
    engines: list[TwoSlots] = []

    def make(stub: StubEvaluator, checkpoints: Path | None) -> TwoSlots:
        engines.append(TwoSlots(stub, checkpoints))
        return engines[0]

    found = search.go(evaluator, 15, engine=make, memory=True)
    assert len(evaluator.trained()) == len(set(evaluator.trained())) == len(kinds(found, "trained")) == 15
    assert engines[0].most == 2
    assert not [trial for trial in search.study.trials if not trial.state.is_finished()]


def test_two_slots_never_train_a_network_that_is_in_flight(search: Search, small: SearchSpace) -> None:
    search.space = small
    evaluator = StubEvaluator()
    found = search.go(evaluator, 8, engine=TwoSlots, memory=True)
    assert sorted(evaluator.trained()) == sorted(set(evaluator.trained()))
    assert len(evaluator.trained()) == 8
    assert all(evaluator.starts.count(start) == 1 for start in evaluator.starts)
    twins = kinds(found, "duplicate")
    by_number = {record.number: record for record in found}
    in_flight = [
        twin for twin in twins if twin.duplicate_of is not None and found.index(by_number[twin.duplicate_of]) > 0
    ]
    assert in_flight
    for twin in twins:
        assert twin.duplicate_of is not None
        assert twin.reward == by_number[twin.duplicate_of].reward
        assert found.index(twin) > found.index(by_number[twin.duplicate_of])
    assert not [trial for trial in search.study.trials if not trial.state.is_finished()]


def test_a_twin_of_a_flight_that_fails_is_answered_too(search: Search, small: SearchSpace) -> None:
    """A twin asked for while the first is in flight shares its end, whatever that is."""
    search.space = small
    first: list[str] = []

    def trap(job: Job) -> PhaseResult | None:
        first.append(job.spec.arch_hash)
        return failed(job, "diverged") if job.spec.arch_hash == first[0] and job.phase == 1 else None

    found = search.go(StubEvaluator(trap), 6, engine=TwoSlots, memory=True)
    assert len(kinds(found, "trained")) == 6
    again = [
        record for record in kinds(found, "duplicate") if record.arch_hash == kinds(found, "diverged")[0].arch_hash
    ]
    for record in again:
        trial = search.study.trials[record.number]
        assert trial.state == TrialState.PRUNED and max(trial.constraints.values()) > 0


def test_a_sampler_that_is_stuck_is_helped_by_a_random_draw(search: Search) -> None:
    class Stuck(optuna.samplers.RandomSampler):
        """Suggests the first option of everything, as GP does that learns nothing from pruned trials."""

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            return distribution.to_external_repr(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "nas.search.samplers.SAMPLERS._values", {**SAMPLERS._values, "stuck": lambda seed, known: Stuck(seed=seed)}
        )
        found = search.go(StubEvaluator(), 4, sampler="stuck", memory=True)
    assert len(kinds(found, "trained")) == 4
    helped = [trial for trial in search.study.trials if "suggested_by" in trial.user_attrs]
    assert helped and len(kinds(found, "duplicate", "forbidden")) >= 3 * 9
    assert {record.suggested_by[:6] for record in found} == {"", "random"}


@pytest.mark.parametrize(("sampler", "drawn"), [("random", 30), ("tpe", 20), ("nsga2", 20), ("gp", 20)])
def test_records_say_who_was_drawn_at_random(search: Search, sampler: str, drawn: int) -> None:
    found = search.go(StubEvaluator(), 30, sampler=sampler, memory=True)
    random = [record for record in found if record.suggested_by]
    assert {record.suggested_by for record in random} == {"random"}
    # TPE counts all trials that ended, GP those that were trained, NSGA-II its first generation.
    counted = found if sampler in ("tpe", "random") else kinds(found, "trained")
    assert sum(bool(record.suggested_by) for record in counted) == (len(found) if sampler == "random" else drawn)
    assert all(not record.suggested_by for record in found[found.index(random[-1]) + 1 :])
    assert list(table(found)["suggested_by"]) == [record.suggested_by for record in found]


def test_a_sampler_of_our_own_says_itself_what_it_drew(search: Search) -> None:
    class Own(optuna.samplers.RandomSampler):
        """Draws every other network at random, or says so."""

        drew_at_random = False

        def before_trial(self, study: Any, trial: Any) -> None:
            self.drew_at_random = trial.number % 2 == 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.search.samplers.SAMPLERS._values", {"own": lambda seed, known: Own(seed=seed)})
        found = search.go(StubEvaluator(), 6, sampler="own", memory=True)
    assert [record.suggested_by for record in found] == ["random" if n % 2 == 0 else "" for n in range(len(found))]


@pytest.mark.parametrize("sampler", ["gp", "nsga2"])
def test_samplers_that_ignore_pruned_trials_leave_forbidden_ground(search: Search, sampler: str) -> None:
    found = search.go(StubEvaluator(), 24, sampler=sampler, memory=True)
    assert len(kinds(found, "trained")) == 24


def test_an_error_that_the_user_can_mend_is_no_bug(search: Search) -> None:
    def unwritable(job: Job) -> None:
        raise DeviceError("no lock")

    with pytest.raises(DeviceError, match="no lock"):
        search.go(StubEvaluator(trap=unwritable), 2)
    assert not list(search.folder.glob("bug-*"))
