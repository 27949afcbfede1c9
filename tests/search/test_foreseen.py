"""A network far beyond the limit on step time is not timed, one in ten of them is all the same, and none is scored."""

from __future__ import annotations

import json

import pytest
from optuna.trial import TrialState
from stubs import Search, StubEvaluator, TwoSlots, counted, kinds

from nas.cost import count
from nas.cost.block_table import LEAST
from nas.engine import Job
from nas.evaluate import PhaseResult
from nas.objective import slacks
from nas.search.foreseen import CHECKED
from nas.search.record import TrialRecord
from nas.search.study import records
from nas.space import Limit, choices

MAX = Limit("step_time_ms", max=1.0)
"""Three networks in four take longer."""


def timed(job: Job) -> PhaseResult | None:
    """Phase 0 of a stub whose step time is affine in the multiply-adds; beyond the limit is infeasible, as in a search."""
    if job.phase:
        return None
    own = count(job.spec)
    ms = 0.5 + own.macs / 3e5
    found = {"num_params": counted(own.params), "macs": counted(own.macs), "step_time_ms": counted(ms, "ms")}
    beyond = slacks({"step_time_ms": ms}, [MAX])
    outcome = "infeasible" if max(beyond.values()) > 0 else "ok"
    return PhaseResult(0, outcome, 0.5, "too slow", found | {"ref_step_time_ms": counted(1.0, "ms")}, beyond)


def foreseen(found: list[TrialRecord]) -> tuple[list[TrialRecord], list[TrialRecord]]:
    """Return those that were not timed, and those timed all the same."""
    own = [record for record in found if record.foreseen_ms is not None and record.kind != "duplicate"]
    return [item for item in own if item.step_time_ms is None], [item for item in own if item.step_time_ms is not None]


def test_networks_far_beyond_the_limit_are_not_timed_and_score_nothing(search: Search) -> None:
    evaluator = StubEvaluator(timed)
    found = search.go(evaluator, 25, memory=True, limits=(MAX,))
    left, checked = foreseen(found)
    assert len(left) > 10 and len(kinds(found, "trained")) == 25
    before = found[: found.index(left[0])]
    assert sum(record.step_time_ms is not None and record.kind != "duplicate" for record in before) >= LEAST
    for record in left:
        trial = search.study.trials[record.number]
        assert record.kind == "infeasible" and trial.state == TrialState.PRUNED
        assert record.arch_hash not in {arch for arch, _ in evaluator.starts}
        assert (record.step_time_ms, record.reward, record.val_accuracy, record.seconds) == (None, None, None, 0.0)
        assert record.foreseen_ms is not None and record.num_params and record.macs
        assert 0.5 + record.macs / 3e5 > 1.0, "the table was right"
        assert trial.constraints == {"step_time_ms.max": pytest.approx(record.foreseen_ms / 1.0 - 1)}
        assert trial.constraints["step_time_ms.max"] > 0 and trial.user_attrs["feasible"] == "no"
        assert record.reason.startswith(f"step_time_ms predicted {record.foreseen_ms:.4g} ms ± ")
        assert record.reason.endswith("the limit is 1 ms; not measured")
    assert len(checked) == -(-(len(left) + len(checked)) // CHECKED)
    assert all(record.kind == "infeasible" and record.reason == "too slow" for record in checked)
    assert foreseen(found)[0] == [record for record in records(search.study) if record in left]


def test_what_was_foreseen_is_a_duplicate_when_it_is_met_again(search: Search) -> None:
    found = search.go(StubEvaluator(timed), 50, memory=True, limits=(MAX,))
    numbers = {record.number for record in foreseen(found)[0]}
    again = [record for record in kinds(found, "duplicate") if record.duplicate_of in numbers]
    assert again
    for record in again:
        assert record.reason == f"the network of trial {record.duplicate_of} (infeasible)" and record.reward is None
        assert search.study.trials[record.number].constraints == {"duplicate_of_infeasible": 1.0}


@pytest.mark.parametrize("limits", [(), (Limit("num_params", max=1e9),), (Limit("step_time_ms", max=1e9),)])
def test_without_a_limit_that_is_passed_nothing_is_foreseen(search: Search, limits: tuple[Limit, ...]) -> None:
    found = search.go(StubEvaluator(), 25, memory=True, limits=limits)
    assert foreseen(found) == ([], [])
    assert (search.folder / "foreseen.json").exists() == any(limit.cost == "step_time_ms" for limit in limits)


def test_what_breaks_another_limit_too_ends_for_that(search: Search) -> None:
    def counts_first(job: Job) -> PhaseResult | None:
        if job.phase == 0 and count(job.spec).params > 6000:
            own = count(job.spec)
            known = {"num_params": counted(own.params), "macs": counted(own.macs)}
            return PhaseResult(0, "infeasible", 0.1, "too large", known, {"num_params.max": own.params / 6000 - 1})
        return timed(job)

    limits = (MAX, Limit("num_params", max=6000))
    found = search.go(StubEvaluator(counts_first), 30, memory=True, limits=limits, patience=1000)
    left, _ = foreseen(found)
    assert left and all((record.num_params or 0) <= 6000 for record in left)
    assert any(record.reason == "too large" for record in found)


def test_a_users_own_network_is_always_timed(search: Search) -> None:
    known = search.go(StubEvaluator(timed), 6, memory=True, limits=(MAX,))
    assert sum(record.step_time_ms is not None for record in known) > LEAST
    largest = {
        name: len(domain.values) - 1 if domain.ordered else "mbconv" for name, domain in choices(search.space).items()
    }
    search.study.enqueue_trial(largest, user_attrs={"enqueued": "mine"})
    mine = search.go(StubEvaluator(timed), 7, memory=True, again=True, limits=(MAX,))[len(known)]
    assert mine.params == largest and mine.duplicate_of is None
    assert mine.foreseen_ms is None and mine.step_time_ms is not None and mine.reason == "too slow"


@pytest.mark.parametrize("slots", [1, 2])
def test_a_run_that_was_cut_off_goes_on_foreseeing(search: Search, slots: int) -> None:
    """Here where a network that was foreseen was about to be timed all the same: that one is timed."""

    class Cut(TwoSlots):
        def submit(self, job: Job) -> None:
            trial = search.study.get_trials(deepcopy=False)[int(job.name.removeprefix("trial "))]
            if "foreseen_ms" in trial.user_attrs:
                raise KeyboardInterrupt
            super().submit(job)

    engine = type("Cut", (Cut,), {"slots": slots})
    with pytest.raises(KeyboardInterrupt):
        search.go(StubEvaluator(timed), 12, memory=True, limits=(MAX,), engine=engine)
    (cut,) = (item for item in search.study.trials if not item.state.is_finished() and "foreseen_ms" in item.user_attrs)
    before = {record.number: record for record in records(search.study)}
    found = search.go(StubEvaluator(timed), 12, memory=True, again=True, limits=(MAX,), engine=TwoSlots)
    left, checked = foreseen(found)
    by_number = {record.number: record for record in found}
    assert by_number[cut.number] in checked and by_number[cut.number].foreseen_ms == cut.user_attrs["foreseen_ms"]
    assert {number: by_number[number] for number in before} == before
    assert left and len(checked) == -(-(len(left) + len(checked)) // CHECKED)
    assert len(kinds(found, "trained")) == 12
    worth = json.loads((search.folder / "foreseen.json").read_text())
    assert worth["table"]["networks"] == sum(bool(item.step_time_ms) and item.kind != "duplicate" for item in found)
