from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stubs import PHASES, StubEvaluator, counted

from nas import runs
from nas.cost import count
from nas.cost.step_time import FULL, Protocol
from nas.engine import InlineEngine, PhaseBug, checkpoints
from nas.evaluate import PhaseResult
from nas.objective import Reward
from nas.search.finalists import Fresh, best, finalists_before, measure_again, optimism
from nas.search.loop import saved_bug
from nas.search.record import TrialRecord
from nas.spec import ArchSpec, scaled

REWARD = Reward(-0.07, -0.05, 5000)


class Again(StubEvaluator):
    """An evaluator whose accuracies depend on network and seed."""

    def __init__(
        self,
        accuracies: dict[tuple[str, int], float],
        diverge: tuple[str, int] | None = None,
        full: int | None = None,
    ) -> None:
        super().__init__()
        self.accuracies = accuracies
        self.diverge = diverge
        self.full = full
        self.measured: list[str] = []
        self.seeds: list[tuple[str, int]] = []

    def run_phase(
        self, spec: ArchSpec, phase: int, state: Any, *, seed: int, protocol: Protocol | None = None
    ) -> PhaseResult:
        if phase == 0:
            assert protocol is FULL
            self.measured.append(spec.arch_hash)
            if self.full == seed:
                return PhaseResult(0, "out_of_memory", 1.0, "no room")
            times = {"step_time_ms": counted(12.0, "ms"), "ref_step_time_ms": counted(10.0, "ms")}
            return PhaseResult(0, "ok", 1.0, measurements=times)
        self.seeds.append((spec.arch_hash, seed))
        if self.diverge == (spec.arch_hash, seed) and phase == 2:
            return PhaseResult(phase, "diverged", 1.0, "no number")
        result = super().run_phase(spec, phase, state, seed=seed)
        assert result.training is not None
        value = self.accuracies[spec.arch_hash, seed]
        return replace(result, training=replace(result.training, val_accuracy=value, val_error=0.02))


def record(spec: ArchSpec, number: int, reward: float, accuracy: float = 0.7) -> TrialRecord:
    params = float(count(spec).params)
    return TrialRecord(
        number, "trained", spec.arch_hash, "net", reward=reward, val_accuracy=accuracy, val_error=0.01,
        step_time_ms=12.0, step_time_mad_ms=0.1, step_time_n=5, ref_step_time_ms=10.0, num_params=params, macs=1e6,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> runs.Run:
    return runs.create(runs.new_folder(None, "search", "stub", tmp_path / "run"), "search", {})


@pytest.fixture
def pair(tiny_spec: ArchSpec) -> list[tuple[TrialRecord, ArchSpec]]:
    wide = scaled(tiny_spec, width=2)
    return [(record(tiny_spec, 0, 0.75), tiny_spec), (record(wide, 1, 0.74), wide)]


def accuracies(pair: list[tuple[TrialRecord, ArchSpec]], *values: float) -> dict[tuple[str, int], float]:
    keys = [(spec.arch_hash, seed) for _, spec in pair for seed in (1, 2)]
    return dict(zip(keys, values, strict=True))


def test_optimism_is_the_searchs_reward_above_that_of_fresh_seeds(
    pair: list[tuple[TrialRecord, ArchSpec]], run: runs.Run
) -> None:
    evaluator = Again(accuracies(pair, 0.60, 0.64, 0.80, 0.84))
    asked: list[tuple[int, ...]] = []
    found = measure_again(
        pair, InlineEngine(evaluator), PHASES, REWARD, run, [1, 2],
        lambda fresh: asked.append((fresh.record.number, fresh.seed, fresh.phase, fresh.done)),
    )  # fmt: skip
    winner, second = found
    assert (winner.record.number, second.record.number) == (1, 0)
    trainings = [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert asked == [(*item, phase, done) for done, item in enumerate(trainings) for phase in range(PHASES + 1)]
    assert second.record.num_params is not None
    factor = 1.2**-0.07 * (second.record.num_params / 5000) ** -0.05
    assert second.rewards == pytest.approx((0.60 * factor, 0.64 * factor))
    assert second.reward == pytest.approx(0.62 * factor)
    assert second.optimism == pytest.approx(0.75 - 0.62 * factor)
    assert second.accuracies == (0.60, 0.64) and second.accuracy == pytest.approx(0.62)
    # Seeds scatter by 0.02 * sqrt(2) / sqrt(2); the images' own error, the same for all seeds, does not shrink.
    assert second.accuracy_error == pytest.approx(math.hypot(0.02, 0.02))
    assert second.step_time_ms == (12.0, 12.0) and second.ref_step_time_ms == (10.0, 10.0)


def test_one_seed_has_the_error_of_the_images_alone(pair: list[tuple[TrialRecord, ArchSpec]], run: runs.Run) -> None:
    found = measure_again(
        pair[:1], InlineEngine(Again(accuracies(pair, 0.6, 0, 0, 0))), PHASES, REWARD, run, [1], lambda *_: None
    )
    assert found[0].accuracy_error == pytest.approx(0.02)


def test_stored_trainings_are_not_repeated(pair: list[tuple[TrialRecord, ArchSpec]], run: runs.Run) -> None:
    values = accuracies(pair, 0.60, 0.64, 0.80, 0.84)
    first = measure_again(pair, InlineEngine(Again(values)), PHASES, REWARD, run, [1, 2], lambda *_: None)
    again = Again({})
    second = measure_again(
        pair, InlineEngine(again), PHASES, REWARD, run, [1, 2], lambda *_: pytest.fail("trained again")
    )
    assert second == first
    assert again.measured == again.seeds == []
    more = Again({(spec.arch_hash, 3): 0.9 for _, spec in pair})
    measure_again(pair, InlineEngine(more), PHASES, REWARD, run, [1, 2, 3], lambda *_: None)
    assert {seed for _, seed in more.seeds} == {3}


def test_the_weights_of_each_finalists_first_fresh_training_are_kept(
    pair: list[tuple[TrialRecord, ArchSpec]], run: runs.Run
) -> None:
    folder = run.path(checkpoints.FOLDER)
    checkpoints.make(folder)
    for name in ("best-s0", "other-s1", "other-s2"):  # of the search, and of finalists before the budget was raised
        checkpoints.path_of(folder, name).touch()
    values = accuracies(pair, 0.60, 0.64, 0.80, 0.84)
    expected = {"best-s0", *(f"{spec.arch_hash}-s1" for _, spec in pair)}
    for evaluator in (Again(values), Again({})):  # also where nothing is left to be trained
        measure_again(pair, InlineEngine(evaluator, folder), PHASES, REWARD, run, [1, 2], lambda *_: None)
        assert {path.stem for path in folder.iterdir()} == expected
    results, state = checkpoints.load(folder, f"{pair[0][1].arch_hash}-s1")
    assert results[-1].phase == PHASES and state is not None


def test_a_training_is_stored_as_soon_as_it_ends(pair: list[tuple[TrialRecord, ArchSpec]], run: runs.Run) -> None:
    values = accuracies(pair, 0.60, 0.64, 0.80, 0.84)

    def stop(fresh: Fresh) -> None:
        if (fresh.record.number, fresh.seed) == (1, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_again(pair, InlineEngine(Again(values)), PHASES, REWARD, run, [1, 2], stop)
    stored = json.loads(run.path("finalists.json").read_text())["trainings"]
    assert sorted(stored) == sorted(f"{pair[0][1].arch_hash}-{seed}" for seed in (1, 2))
    rest = Again(values)
    measure_again(pair, InlineEngine(rest), PHASES, REWARD, run, [1, 2], lambda *_: None)
    assert {arch for arch, _ in rest.seeds} == {pair[1][1].arch_hash}


def test_a_finalist_that_fails_comes_last_with_its_outcome(
    pair: list[tuple[TrialRecord, ArchSpec]], run: runs.Run
) -> None:
    better = pair[1][1].arch_hash
    evaluator = Again(accuracies(pair, 0.5, 0.5, 0.9, 0.9), diverge=(better, 2))
    winner, failed = measure_again(pair, InlineEngine(evaluator), PHASES, REWARD, run, [1, 2], lambda *_: None)
    assert winner.record.number == 0 and winner.outcome == "ok"
    assert (failed.record.arch_hash, failed.outcome, failed.reward, failed.accuracies) == (better, "diverged", 0.0, ())
    assert optimism([winner, failed]) == winner.optimism


def test_a_full_memory_is_an_outcome_too(pair: list[tuple[TrialRecord, ArchSpec]], run: runs.Run) -> None:
    evaluator = Again(accuracies(pair, 0.6, 0.6, 0.5, 0.5), full=2)
    found = measure_again(pair, InlineEngine(evaluator), PHASES, REWARD, run, [1, 2], lambda *_: None)
    assert {item.outcome for item in found} == {"out_of_memory"}


def test_the_optimism_of_a_search_is_the_mean_of_its_finalists(
    pair: list[tuple[TrialRecord, ArchSpec]], run: runs.Run
) -> None:
    found = measure_again(
        pair,
        InlineEngine(Again(accuracies(pair, 0.60, 0.64, 0.80, 0.84))),
        PHASES,
        REWARD,
        run,
        [1, 2],
        lambda *_: None,
    )
    assert optimism(found) == pytest.approx((found[0].optimism + found[1].optimism) / 2)
    assert optimism(found) > found[0].optimism  # the luckiest of the second round wins it


def test_the_best_are_trained_to_the_end_and_different(pair: list[tuple[TrialRecord, ArchSpec]]) -> None:
    (small, _), (large, _) = pair
    good = replace(large, val_accuracy=0.9, number=5)
    others = [
        replace(small, number=2, kind="pruned", arch_hash="p", val_accuracy=0.99),
        replace(small, number=3, kind="duplicate", duplicate_of=0),
        TrialRecord(4, "infeasible", "i", "net"),
    ]
    assert [item.number for item in best([small, *others, good], REWARD, 5)] == [5, 0]
    assert [item.number for item in best([small, good], REWARD, 1)] == [5]
    assert best(others, REWARD, 3) == []


def test_a_network_that_the_program_fails_on_is_no_finalist(pair: list[tuple[TrialRecord, ArchSpec]]) -> None:
    (first, _), (second, _) = pair
    assert [item.number for item in best([first, second], REWARD, 2, {first.arch_hash})] == [second.number]


def test_trainings_in_flight_continue_from_their_checkpoints(
    pair: list[tuple[TrialRecord, ArchSpec]], run: runs.Run
) -> None:
    values = accuracies(pair, 0.60, 0.64, 0.80, 0.84)
    folder = run.path(checkpoints.FOLDER)

    class Killed(Again):
        def run_phase(self, spec: ArchSpec, phase: int, state: Any, **named: Any) -> PhaseResult:
            if (phase, len(self.seeds)) == (2, 3):
                raise KeyboardInterrupt
            return super().run_phase(spec, phase, state, **named)

    with pytest.raises(KeyboardInterrupt):
        measure_again(pair, InlineEngine(Killed(values), folder), PHASES, REWARD, run, [1, 2], lambda *_: None)
    first, key = (f"{pair[0][1].arch_hash}-s{seed}" for seed in (1, 2))
    assert {path.stem for path in folder.iterdir()} == {first, key}
    rest = Again(values)
    found = measure_again(pair, InlineEngine(rest, folder), PHASES, REWARD, run, [1, 2], lambda *_: None)
    assert rest.seeds[0] == (pair[0][1].arch_hash, 2) and len(rest.seeds) == 1 + 2 * 2, (
        "its second phase, and the others' two"
    )
    assert found[0].accuracies == (0.80, 0.84)
    assert {path.stem for path in folder.iterdir()} == {f"{spec.arch_hash}-s1" for _, spec in pair}


def test_the_conditions_of_a_bug_are_saved_with_it(pair: list[tuple[TrialRecord, ArchSpec]], run: runs.Run) -> None:
    class Broken(Again):
        def run_phase(self, spec: ArchSpec, phase: int, state: Any, **named: Any) -> PhaseResult:
            raise ZeroDivisionError("boom")

    with pytest.raises(PhaseBug) as raised:
        measure_again(pair, InlineEngine(Broken({})), PHASES, REWARD, run, [4], lambda *_: None)
    error = saved_bug(run, raised.value, "a finalist")
    assert str(error).startswith("a finalist, phase 0: the program failed (ZeroDivisionError('boom'))")
    stored = json.loads((run.folder / f"bug-{pair[0][1].arch_hash}.json").read_text())
    assert (stored["seed"], stored["phase"], Protocol(**stored["protocol"])) == (4, 0, FULL)


def test_who_was_measured_again_before_competes_again(pair: list[tuple[TrialRecord, ArchSpec]], run: runs.Run) -> None:
    """After the budget was raised another network may lead the search; the fresh trainings of this one still count."""
    (first, _), (second, _) = pair
    assert finalists_before([first, second], run, [1, 2]) == []
    measure_again(
        pair[:1], InlineEngine(Again(accuracies(pair, 0.6, 0.6, 0, 0))), PHASES, REWARD, run, [1, 2], lambda *_: None
    )
    assert finalists_before([first, second], run, [1, 2]) == [first]
    assert finalists_before([first, second], run, [1, 2, 3]) == [], "a seed more is a training more"
