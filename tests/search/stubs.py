"""A search without training: costs and accuracies are functions of the network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna

from nas import runs
from nas.cost import Measurement, count
from nas.cost.step_time import Protocol
from nas.engine import Engine, InlineEngine, Job, PhaseBug, checkpoints
from nas.engine._worker import Worker
from nas.evaluate import PhaseResult
from nas.objective import Reward
from nas.search.loop import Terms, run_loop
from nas.search.record import TrialRecord
from nas.search.study import open_study, records
from nas.space import Limit, SearchSpace
from nas.spec import ArchSpec
from nas.train.loop import PhaseTraining

PHASES = 2
Trap = Callable[[Job], PhaseResult | None]


def accuracy(spec: ArchSpec, phase: int) -> float:
    """A number between 0.3 and 0.9 that the network alone decides; it rises from phase to phase."""
    return (0.3 + 0.6 * (int(spec.arch_hash[:8], 16) / 0xFFFFFFFF)) * phase / PHASES


def counted(value: float, unit: str = "") -> Measurement:
    return Measurement(value, unit, 0.1, 5, "stub")


@dataclass
class StubEvaluator:
    """`log` holds (arch_hash, phase) of every phase that was run to its end; `trap` may answer in its place, or raise."""

    trap: Trap = lambda job: None
    log: list[tuple[str, int]] = field(default_factory=list)
    starts: list[tuple[str, int]] = field(default_factory=list)

    def snapshot(self, state: Any) -> dict[str, Any]:
        return dict(state)

    def at_work(self) -> AbstractContextManager[None]:
        return nullcontext()

    def run_phase(
        self, spec: ArchSpec, phase: int, state: Any, *, seed: int, protocol: Protocol | None = None
    ) -> PhaseResult:
        """The state is a dictionary that counts the phases trained."""
        self.starts.append((spec.arch_hash, phase))
        trapped = self.trap(Job(spec, phase, seed))
        if trapped is not None:
            return trapped
        self.log.append((spec.arch_hash, phase))
        if phase == 0:
            params, macs = count(spec).params, count(spec).macs
            found = {"num_params": counted(params), "macs": counted(macs), "step_time_ms": counted(macs / 1e5, "ms")}
            return PhaseResult(0, "ok", 0.5, measurements=found | {"ref_step_time_ms": counted(10.0, "ms")})
        assert (state or {"phases": 0})["phases"] == phase - 1, "a phase was run on the wrong state"
        training = PhaseTraining(1.0 / phase, accuracy(spec, phase), 0.01, 4, 1.0, 0.1)
        return PhaseResult(phase, "ok", 1.0, training=training, state={"phases": phase})  # type: ignore[arg-type]

    def trained(self) -> list[str]:
        return [arch for arch, phase in self.log if phase == PHASES]


class TwoSlots:
    """An engine with two phases in flight, whose later one ends first."""

    slots = 2

    def __init__(self, evaluator: StubEvaluator, checkpoints: Path | None = None) -> None:
        self.worker = Worker(evaluator, checkpoints)
        self.flying: list[Job] = []
        self.most = 0

    def submit(self, job: Job) -> None:
        self.flying.append(job)
        self.most = max(self.most, len(self.flying))

    def next(self) -> tuple[Job, PhaseResult]:
        job = self.flying.pop()
        try:
            return job, self.worker.run(job)
        except Exception as error:
            raise PhaseBug.of(job, error) from error

    def drop(self, key: str) -> None:
        self.worker.drop(key)

    def close(self) -> None: ...


@dataclass
class Search:
    """A run folder that `go` searches in, again and again, as `nas search` and `--resume` would."""

    folder: Path
    space: SearchSpace
    run: runs.Run = field(init=False)
    study: optuna.Study = field(init=False)
    told: list[TrialRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.run = runs.create(runs.new_folder(None, "search", "stub", self.folder), "search", {})

    def go(
        self,
        evaluator: StubEvaluator,
        budget: int,
        *,
        sampler: str = "random",
        pruner: str = "none",
        seed: int = 0,
        patience: int = 200,
        engine: Callable[[Any, Path | None], Engine] = InlineEngine,
        memory: bool = False,
        reward: Reward | None = None,
        top_k: int = 2,
        skipped: frozenset[str] = frozenset(),
        limits: tuple[Limit, ...] = (),
        again: bool = False,
        costs: tuple[str, ...] = (),
    ) -> list[TrialRecord]:
        if not again:  # else the study goes on as it is, also one in memory
            self.study = open_study(self.folder, "stub", sampler=sampler, pruner=pruner, seed=seed, costs=costs)
        if memory and not again:  # an SQLite file costs more than everything else here
            directions = self.study.directions
            self.study = optuna.create_study(
                directions=directions, sampler=self.study.sampler, pruner=self.study.pruner
            )
        known = records(self.study)
        terms = Terms(
            space=self.space,
            num_classes=3,
            in_channels=3,
            reward=reward or Reward(-0.07, -0.05, 5000),
            num_phases=PHASES,
            budget=budget,
            patience=patience,
            seed=seed,
            top_k=top_k,
            skipped=skipped,
            limits=limits,
            costs=costs,
        )
        folder = None if memory else self.checkpoints
        return run_loop(
            self.study,
            engine(evaluator, folder),
            terms,
            self.run,
            known,
            self.told.append,
            lambda record, phase: None,
        )

    @property
    def checkpoints(self) -> Path:
        return self.folder / checkpoints.FOLDER


def kinds(found: list[TrialRecord], *names: str) -> list[TrialRecord]:
    return [record for record in found if record.kind in names]


def infeasible(job: Job) -> PhaseResult:
    return PhaseResult(
        0, "infeasible", 0.1, "num_params.max exceeded by 25.0%", {"num_params": counted(5e3)}, {"num_params.max": 0.25}
    )


def failed(job: Job, outcome: Any) -> PhaseResult:
    return replace(PhaseResult(job.phase, "ok", 0.1), outcome=outcome, reason=f"it was {outcome}")
