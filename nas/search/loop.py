"""The search loop: ask, decode, run phases, tell.

The loop owns the study and is its only writer; engines run phases and bring back results. A network that was measured
in this run is answered from memory and costs no budget.
"""

from __future__ import annotations

import json
import shlex
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import optuna
import yaml
from optuna.trial import Trial, TrialState

from nas.cost import Measurement
from nas.engine import Engine, Job, PhaseBug, checkpoints
from nas.errors import SearchError, TrialBug
from nas.evaluate import PhaseResult
from nas.objective import Reward
from nas.runs import Run, write_json, write_text
from nas.search import stopping
from nas.search.foreseen import Foresight
from nas.search.record import FAILED, TrialRecord, promising
from nas.search.samplers.drawn import STUCK, SUGGESTED_BY, ask
from nas.search.study import DATABASE, distributions, in_file, running, settle, values
from nas.space import Limit, SearchSpace, choices, decode, forbidden, stored_choose
from nas.spec import ArchSpec, summary


@dataclass(frozen=True)
class Terms:
    """What the loop works under: the space, the score, and when to stop.

    Args:
        num_phases: Training phases of every network. top_k: Networks whose weights are kept.
        skipped: Hashes of networks that are not to be tried, for the program fails on them.
        limits: Limits on costs; where one is on the step time, networks far beyond it are not timed (`nas.search.foreseen`).
        costs: That accuracy is traded against, each an objective of the study; without any the study has one, the reward.
    """

    space: SearchSpace
    num_classes: int
    in_channels: int
    reward: Reward
    num_phases: int
    budget: int
    patience: int
    seed: int
    top_k: int
    skipped: frozenset[str] = frozenset()
    limits: tuple[Limit, ...] = ()
    costs: tuple[str, ...] = ()


@dataclass
class _Flight:
    """A trial in flight."""

    trial: Trial
    spec: ArchSpec
    record: TrialRecord
    key: str
    accuracies: list[float] = field(default_factory=list)


def run_loop(
    study: optuna.Study,
    engine: Engine,
    terms: Terms,
    run: Run,
    known: list[TrialRecord],
    on_trial: Callable[[TrialRecord], None],
    on_phase: Callable[[TrialRecord, int], None],
) -> list[TrialRecord]:
    """Search until the budget is trained or nothing new is suggested, and return all records of the run.

    Trials that were in flight when the run ended last are continued first, from the phases that their checkpoints hold.

    Args:
        known: Records of the run so far; they count against the budget and answer duplicates.
        on_trial: Called with the record of each trial that ends. on_phase: Called with what is known of a trial, and
            the phase that starts.

    Raises:
        SearchError: too many trials failed.
        TrialBug: the program failed on one network; it and the traceback are in the run folder.
    """
    asked = choices(terms.space)
    domains = distributions(asked)
    found = list(known)
    memory = {record.arch_hash: record for record in known if record.duplicate_of is None}
    flights: dict[str, _Flight] = {}
    waiting: dict[str, list[_Flight]] = {}
    folder = run.path(checkpoints.FOLDER)
    foresight = Foresight(terms.space, terms.num_classes, terms.in_channels, terms.limits)
    idle = 0

    filed = in_file(study)

    def settled() -> None:
        """Wait until what the study was told is on the disk; a database server waits by itself, at each transaction."""
        if filed:
            settle(run.path(DATABASE))

    def flight_of(trial: Trial) -> _Flight:
        spec = decode(
            terms.space,
            stored_choose(values(asked, trial.params)),
            num_classes=terms.num_classes,
            in_channels=terms.in_channels,
        )
        attributes = trial.user_attrs
        record = TrialRecord(
            trial.number,
            "",
            spec.arch_hash,
            summary(spec),
            audited=attributes.get(stopping.AUDITED, ""),
            suggested_by=attributes.get(SUGGESTED_BY, "user" if "enqueued" in attributes else ""),
            foreseen_ms=attributes.get("foreseen_ms"),
            params=dict(trial.params),
        )
        return _Flight(trial, spec, record, Job(spec, 0, terms.seed).key)

    def begin(flight: _Flight) -> None:
        """Send a trial on its way, or answer it at once."""
        record, decided = flight.record, decided_record(flight.trial)
        rules = forbidden(terms.space, flight.spec)
        if decided is not None:
            end(flight, decided)
        elif record.arch_hash in memory:
            first = memory[record.arch_hash]
            end(flight, _again(record, first), first)
        elif rules:
            end(flight, replace(record, kind="forbidden", reason=f"forbidden by the space: {rules[0]}"))
        elif record.arch_hash in terms.skipped:
            end(flight, replace(record, kind="bug", reason="the program fails on it; left out by --skip-bugs"))
        elif flight.key in flights:
            waiting.setdefault(record.arch_hash, []).append(flight)
        else:
            results, _ = checkpoints.load(folder, flight.key)
            if not results:
                flight.record = judged(flight)
            if flight.record.kind:
                return end(flight, flight.record)
            flights[flight.key] = flight
            settled()  # a checkpoint is worth nothing without its trial
            for result in results[:-1]:
                take(flight, result)
            proceed(flight, results[-1] if results else None)

    def judged(flight: _Flight) -> TrialRecord:
        """Return a trial's record with what is foreseen of it: nothing of a user's network, which is always timed."""
        if flight.record.foreseen_ms is not None or "enqueued" in flight.trial.user_attrs:
            return flight.record  # the former was about to be timed when the run was cut off
        seen = [*found, *(other.record for other in (*flights.values(), *interrupted))]
        record = foresight.judged(flight.record, flight.spec, seen)
        if record.foreseen_ms is not None and not record.kind:
            flight.trial.set_user_attr("foreseen_ms", record.foreseen_ms)  # also if the run is cut off, it is timed
        return record

    def take(flight: _Flight, result: PhaseResult) -> None:
        """Add a phase's result to its trial."""
        flight.record = _with_result(flight, result, terms.reward)
        if result.training is not None and not terms.costs:  # Optuna keeps no course of several objectives
            assert flight.record.reward is not None
            flight.trial.report(flight.record.reward, step=result.phase)

    def proceed(flight: _Flight, result: PhaseResult | None) -> None:
        """Add the last result of a trial, where there is one, and end the trial or start its next phase."""
        phase = 0
        if result is not None:
            take(flight, result)
            ended = _ended(flight, result, terms.num_phases)
            if ended is not None:
                end(flight, ended)
                if ended.kind in FAILED:
                    _check_failures(found, terms.budget)
                return
            phase = result.phase + 1
        on_phase(flight.record, phase)
        engine.submit(Job(flight.spec, phase, terms.seed, name=f"trial {flight.record.number}"))

    def end(flight: _Flight, record: TrialRecord, first: TrialRecord | None = None) -> None:
        """Store a trial's record and tell the study; `first` is what a duplicate repeats."""
        _store(study, flight.trial, record, (first or record).kind, foresight.slacks(record), terms.costs)
        found.append(record)
        if record.duplicate_of is None:
            memory[record.arch_hash] = record
        if flights.pop(flight.key, None) is not None:
            settled()  # the trial's record is safe before its checkpoint goes
            engine.drop(flight.key)
            sweep()
        on_trial(record)
        for twin in waiting.pop(record.arch_hash, []):
            end(twin, _again(twin.record, record), record)

    def sweep() -> None:
        """Keep the checkpoints of trials in flight and of the best; delete the others."""
        kept = {*flights, *(flight.key for flight in interrupted), *_best_keys(found, terms)}
        checkpoints.keep_only(folder, kept, seeds=[terms.seed])

    left = [flight_of(trial) for trial in running(study, domains)]
    left.sort(key=lambda flight: decided_record(flight.trial) is None)  # stops are counted, so those decided come first
    interrupted = deque(left)
    sweep()
    while True:
        while len(flights) < engine.slots:
            if interrupted:
                begin(interrupted.popleft())
                continue
            spent = sum(record.costs_budget for record in found)
            if spent + len(flights) >= terms.budget or idle >= terms.patience:
                break
            idle += 1
            stuck = idle > 1 and idle % STUCK == 1
            begin(flight_of(ask(study, domains, stuck=stuck, seed=terms.seed + len(found))))
        if not flights:
            sweep()
            foresight.write(run, found)
            return found
        try:
            job, result = engine.next()
        except PhaseBug as bug:
            raise saved_bug(run, bug, f"trial {flights[bug.job.key].trial.number}") from bug
        if result.outcome == "ok":
            idle = 0  # a new network that can be trained
        proceed(flights[job.key], result)


def _ended(flight: _Flight, result: PhaseResult, num_phases: int) -> TrialRecord | None:
    """Return the record of a trial that ends with a phase's result, or None where it goes on."""
    record = flight.record
    if result.outcome != "ok":
        return replace(record, kind=result.outcome, reason=result.reason)
    if result.phase == num_phases:
        return replace(record, kind="trained")
    if result.phase > 0 and (reason := stopping.reason_to_stop(flight.trial, result.phase)):
        if not stopping.audits(flight.trial, result.phase):
            return replace(record, kind="pruned", reason=reason)
        flight.record = replace(record, audited=f"phase {result.phase}")
    return None


def _best_keys(found: list[TrialRecord], terms: Terms) -> list[str]:
    """Return the trainings whose weights are kept when they have ended."""
    trained = [record for record in found if record.kind == "trained" and not record.origin]
    return [f"{record.arch_hash}-s{terms.seed}" for record in promising(trained, terms.costs, terms.top_k)]


def _with_result(flight: _Flight, result: PhaseResult, reward: Reward) -> TrialRecord:
    """Add what a phase showed to a trial's record."""
    record = replace(
        flight.record,
        seconds=flight.record.seconds + result.seconds,
        phase_seconds=f"{flight.record.phase_seconds} {result.seconds:.3f}".strip(),
    )
    if result.phase == 0:
        for name, slack in result.slacks.items():
            _set_slack(flight.trial, name, slack)
        known: dict[str, Any] = costs(result.measurements)
        return replace(record, **known)
    if result.training is None:
        return record
    flight.accuracies.append(result.training.val_accuracy)
    record = replace(
        record,
        val_accuracy=result.training.val_accuracy,
        val_error=result.training.val_error,
        train_loss=result.training.train_loss,
        phase_accuracy=" ".join(f"{value:.4f}" for value in flight.accuracies),
    )
    assert record.step_time_ms and record.ref_step_time_ms and record.num_params
    score = reward.score(
        result.training.val_accuracy,
        step_time_ms=record.step_time_ms,
        ref_step_time_ms=record.ref_step_time_ms,
        num_params=record.num_params,
    )
    return replace(record, reward=score)


def _set_slack(trial: Trial, name: str, slack: float) -> None:
    trial.set_constraint(name, slack)
    trial.set_user_attr(f"slack_{name}", round(slack, 4))


def costs(measurements: Mapping[str, Measurement]) -> dict[str, float | int | str]:
    """Return measurements as the fields of a record."""
    found: dict[str, float | int | str] = {name: item.value for name, item in measurements.items()}
    for word in ("step_time", "latency"):
        if (time := measurements.get(f"{word}_ms")) is not None:
            found |= {f"{word}_mad_ms": time.spread, f"{word}_n": time.n}
    seen = measurements["step_time_ms"].conditions if "step_time_ms" in measurements else None
    if seen is not None:
        values = {"clock_mhz": seen.clock_mhz, "foreign_load": seen.foreign_load, "note": seen.remarks}
        found |= {f"step_time_{name}": value for name, value in values.items() if value not in (None, "")}
    return found


def _again(record: TrialRecord, first: TrialRecord) -> TrialRecord:
    """Return the record of a network that was met before: the first one's values, and no budget."""
    return replace(
        first,
        number=record.number,
        params=record.params,
        kind="duplicate",
        duplicate_of=first.number,
        seconds=0.0,
        audited="",
        suggested_by=record.suggested_by,
        reason=f"the network of trial {first.number} ({first.kind})",
    )


DECIDED = "nas:record"
"""The attribute that makes a trial's end certain: its whole record in one write. What follows can be written again."""


def decided_record(trial: Trial) -> TrialRecord | None:
    """Return how a trial ends that was cut off while its end was written; None where that is open."""
    stored = trial.storage.get_trial_system_attrs(trial._trial_id).get(DECIDED)
    return None if stored is None else TrialRecord(**json.loads(stored))


def _store(
    study: optuna.Study,
    trial: Trial,
    record: TrialRecord,
    ended_as: str,
    unmeasured: Mapping[str, float],
    costs: Sequence[str],
) -> None:
    """Write a record as attributes of its trial, then its end; killed in between, the trial counts as in flight.

    Only a network trained to the end is complete. All others end as pruned, never as failed: samplers learn from pruned
    trials and their constraints, and ignore failed ones (and would suggest the same again).
    """
    if record.duplicate_of is None:
        trial.storage.set_trial_system_attr(trial._trial_id, DECIDED, json.dumps(asdict(record)))
    for name, value in record.attributes().items():
        trial.set_user_attr(name, value)
    for name, slack in unmeasured.items():
        _set_slack(trial, name, slack)
    failed, unfit = ended_as in FAILED, ended_as in ("infeasible", "forbidden")
    trial.set_user_attr("feasible", "no" if unfit or failed else "yes")
    if record.kind in (*FAILED, "forbidden"):  # an infeasible one has its slacks; samplers are to stay away from all
        trial.set_constraint("failed" if failed else "forbid", 1.0)
    if ended_as == "trained":
        study.tell(trial, record.point(costs) if costs else record.reward)
        return
    if record.duplicate_of is not None and record.reward is not None and not costs:
        trial.report(record.reward, step=len(record.phase_accuracy.split()))
    if record.duplicate_of is not None and (unfit or failed):
        trial.set_constraint(f"duplicate_of_{'infeasible' if unfit else 'failed'}", 1.0)
    study.tell(trial, state=TrialState.PRUNED)


def _check_failures(found: list[TrialRecord], budget: int) -> None:
    failed = [record for record in found if record.kind in FAILED]
    most = max(10, budget // 4)
    if len(failed) >= most and len(failed) * 2 > len(found):
        kinds = sorted({record.kind for record in failed})
        longer = "Give a longer --trial-timeout, or lower" if "timeout" in kinds else "Lower"
        raise SearchError(
            f"{len(failed)} of {len(found)} trials failed ({', '.join(kinds)}); the last: {failed[-1].reason}. {longer} the "
            "recipe's batch_size or learning_rate, the space's resolution, or set --max-params; then start a new run."
        )


def saved_bug(run: Run, bug: PhaseBug, whose: str) -> TrialBug:
    """Save the network and the traceback of a bug, and return the error that names them."""
    spec = bug.job.spec
    arch, trace = (run.path(f"bug-{spec.arch_hash}.{ending}") for ending in ("yaml", "txt"))
    write_text(arch, yaml.safe_dump(spec.document(), sort_keys=False))
    write_text(trace, bug.trace)
    timing = None if bug.job.protocol is None else asdict(bug.job.protocol)
    write_json(arch.with_suffix(".json"), {"phase": bug.job.phase, "seed": bug.job.seed, "protocol": timing})
    return TrialBug(
        f"{whose}, phase {bug.job.phase}: the program failed ({bug.error}). The network is in {arch}, the "
        f"traceback in {trace}; please report both. See it fail again: nas debug {shlex.quote(str(arch))}. Continue without "
        f"this network: nas search --resume {shlex.quote(str(run.folder))} --skip-bugs"
    )
