"""The last word on a search: the best networks trained again with fresh seeds, for the best of many flatters itself.

The highest of many noisy rewards is high partly by luck. The finalists are ranked by trainings that had no part in making
them finalists; what the search's own rewards were above these, on average, is its optimism, and is printed. The images
scored on are the search's, so what was learnt of them stays in the numbers.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nas.cost.step_time import FULL
from nas.engine import Engine, Job, checkpoints
from nas.objective import Reward, ranked
from nas.report.front import members
from nas.report.read import FINALISTS, read_finalists
from nas.runs import Run, write_json
from nas.search.record import TrialRecord, promising
from nas.search.trainings import name, train_all
from nas.spec import ArchSpec


@dataclass(frozen=True)
class Finalist:
    """A network of the last round.

    Args:
        record: What the search saw of it. document: The network in the space language.
        accuracies, rewards: One for each fresh seed.
        step_time_ms, ref_step_time_ms: By the full protocol, one for each fresh seed.
        accuracy, accuracy_error: Mean over fresh seeds, and its standard error (validation images and seeds together).
        reward: Mean over fresh seeds. optimism: The search's reward minus that.
        outcome: `ok`, or how a fresh training failed.
        latency_ms, latency_mad_ms: Likewise; empty in a search without a limit on it.
    """

    record: TrialRecord
    document: Mapping[str, Any]
    accuracies: tuple[float, ...]
    rewards: tuple[float, ...]
    step_time_ms: tuple[float, ...]
    step_time_mad_ms: tuple[float, ...]
    ref_step_time_ms: tuple[float, ...]
    accuracy: float
    accuracy_error: float
    reward: float
    optimism: float
    outcome: str = "ok"
    latency_ms: tuple[float, ...] = ()
    latency_mad_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Fresh:
    """A fresh training at the beginning of one of its phases.

    Args:
        record: What the search saw of the network. seed: The fresh seed.
        done, total: Of all fresh trainings and timings of the run, those that have ended, and their number.
    """

    record: TrialRecord
    seed: int
    phase: int
    done: int
    total: int


def best(
    records: Sequence[TrialRecord],
    reward: Reward,
    top_k: int,
    skipped: Collection[str] = (),
    costs: Sequence[str] = (),
) -> list[TrialRecord]:
    """Return the best networks that were trained to the end, those apart that the program fails on.

    Where accuracy is traded against costs they are those of the front (`nas.search.record.promising`).
    """
    trained = {
        record.arch_hash: record for record in records if record.kind == "trained" and record.arch_hash not in skipped
    }
    if costs:
        return promising(list(trained.values()), costs, top_k)
    order = ranked([record.candidate() for record in trained.values()], reward)
    return [trained[candidate.arch_hash] for candidate in order[:top_k]]


def finalists_before(records: Sequence[TrialRecord], run: Run, seeds: Sequence[int]) -> list[TrialRecord]:
    """Return the networks that have a training with each fresh seed already, from before the budget was raised.

    They compete again, and cost nothing: what was measured of a network counts, also where others now lead the search.
    """
    stored = _stored(run)
    return [
        record
        for record in records
        if record.kind == "trained" and all(f"{record.arch_hash}-{seed}" in stored for seed in seeds)
    ]


def _stored(run: Run) -> dict[str, dict[str, Any]]:
    """Return the fresh trainings that the run folder holds."""
    found: dict[str, dict[str, Any]] = read_finalists(run)["trainings"]
    return found


def measure_again(
    finalists: Sequence[tuple[TrialRecord, ArchSpec]],
    engine: Engine,
    num_phases: int,
    reward: Reward,
    run: Run,
    seeds: Sequence[int],
    on_phase: Callable[[Fresh], None],
    costs: Sequence[str] = (),
) -> list[Finalist]:
    """Train each finalist with each fresh seed and time it by the full protocol; return them, the winner first.

    They come by falling reward, or, where accuracy is traded against costs, the front's knee, the front, and what is beaten.

    Each training is stored in the run folder as it ends; a run that goes on does not repeat it, and continues those that were
    in flight from their checkpoints.

    Args:
        on_phase: Called before each phase. costs: That accuracy is traded against; none with a reward.

    A finalist of which a fresh training fails (memory, divergence, time) cannot be trusted with a longer one either: it
    comes last, with the reward 0 and its outcome.

    Raises:
        PhaseBug: the program failed on one of them.
    """
    stored = _stored(run)
    wanted = [
        (record, Job(spec, 0, seed, FULL, f"finalist {record.arch_hash[:8]} (trial {record.number}) with seed {seed}"))
        for record, spec in finalists
        for seed in seeds
    ]
    of = {job.key: record for record, job in wanted}
    # The weights of each finalist's first fresh training stay: they are what `nas export` hands over.
    kept = [Job(spec, 0, seeds[0]).key for _, spec in finalists]

    def announce(job: Job, phase: int) -> None:
        done = sum(name(other) in stored for _, other in wanted)
        on_phase(Fresh(of[job.key], job.seed, phase, done, len(wanted)))

    train_all(
        [job for _, job in wanted],
        engine,
        num_phases,
        stored,
        run.path(checkpoints.FOLDER),
        save=lambda job: write_json(run.path(FINALISTS), {"trainings": stored}),
        on_phase=announce,
        kept=kept,
        seeds=seeds,
    )
    found = [
        _finalist(record, spec, [stored[name(Job(spec, 0, seed))] for seed in seeds], reward)
        for record, spec in finalists
    ]
    found.sort(key=lambda item: -item.reward)
    if costs:
        places = [item.place for item in members([asdict(item) for item in found], costs)]
        found = [found[place] for place in [*places, *(place for place in range(len(found)) if place not in places)]]
    write_json(run.path(FINALISTS), {"trainings": stored, "finalists": [asdict(item) for item in found]})
    return found


def optimism(finalists: Sequence[Finalist]) -> float:
    """Return the mean optimism of a search over its finalists.

    Not the winner's own: of several finalists the one whose fresh trainings were luckiest wins, so its own is too small.
    """
    return statistics.fmean(item.optimism for item in finalists if item.outcome == "ok")


def _finalist(record: TrialRecord, spec: ArchSpec, trainings: Sequence[Mapping[str, Any]], reward: Reward) -> Finalist:
    assert record.num_params is not None and record.reward is not None
    failed = [item["outcome"] for item in trainings if item["outcome"] != "ok"]
    if failed:
        empty: tuple[float, ...] = ()
        return Finalist(record, spec.document(), empty, empty, empty, empty, empty, 0.0, 0.0, 0.0, 0.0, failed[0])
    rewards = [
        reward.score(
            item["val_accuracy"],
            step_time_ms=item["step_time_ms"],
            ref_step_time_ms=item["ref_step_time_ms"],
            num_params=record.num_params,
        )
        for item in trainings
    ]
    accuracies = [item["val_accuracy"] for item in trainings]
    # All seeds are scored on the same validation images, so their sampling error does not shrink with more seeds.
    between = statistics.stdev(accuracies) / math.sqrt(len(accuracies)) if len(accuracies) > 1 else 0.0
    within = statistics.fmean(item["val_error"] for item in trainings)
    mean = statistics.fmean(rewards)
    return Finalist(
        record=record,
        document=spec.document(),
        accuracies=tuple(accuracies),
        rewards=tuple(rewards),
        step_time_ms=tuple(item["step_time_ms"] for item in trainings),
        step_time_mad_ms=tuple(item["step_time_mad_ms"] for item in trainings),
        ref_step_time_ms=tuple(item["ref_step_time_ms"] for item in trainings),
        accuracy=statistics.fmean(accuracies),
        accuracy_error=math.hypot(between, within),
        reward=mean,
        optimism=record.reward - mean,
        latency_ms=tuple(item["latency_ms"] for item in trainings if "latency_ms" in item),
        latency_mad_ms=tuple(item["latency_mad_ms"] for item in trainings if "latency_ms" in item),
    )
