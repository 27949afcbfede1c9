"""Whole trainings of given networks through an engine: stored as they end, continued where they were cut off."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.engine import Engine, Job, checkpoints
from nas.evaluate import PhaseResult
from nas.search.loop import costs

Stored = dict[str, dict[str, Any]]
"""Raw values of trainings by `name`."""


def name(job: Job) -> str:
    """Return what a training is stored as."""
    return f"{job.spec.arch_hash}-{job.seed}"


def train_all(
    jobs: Sequence[Job],
    engine: Engine,
    num_phases: int,
    stored: Stored,
    folder: Path,
    *,
    save: Callable[[Job], None],
    on_phase: Callable[[Job, int], None],
    kept: Collection[str] = (),
    seeds: Collection[int],
) -> None:
    """Train each network with each seed, but those that are stored already.

    Args:
        jobs: At phase 0, with the protocol of their timing.
        num_phases: Training phases of every network; 0 only counts and times.
        stored: Is filled. folder: Of the checkpoints; those in flight when the run ended last are continued.
        save: Called after each training; `stored` has it by then. on_phase: Called before each phase, with its number.
        kept: Keys of trainings whose checkpoints stay. seeds: Those of all trainings whose checkpoints lie in the folder.

    Raises:
        PhaseBug: the program failed on one of them.
    """
    queue = deque(job for job in jobs if name(job) not in stored)
    checkpoints.keep_only(folder, [*kept, *(job.key for job in queue)], seeds)
    flying: dict[str, list[PhaseResult]] = {}

    def proceed(job: Job) -> None:
        """Start the next phase of a training, or store what it showed."""
        results = flying[job.key]
        if results and (not _goes_on(results[-1]) or results[-1].phase == num_phases):
            stored[name(job)] = _values(results)
            save(job)
            engine.drop(job.key)
            del flying[job.key]
            checkpoints.keep_only(folder, [*kept, *flying, *(other.key for other in queue)], seeds)
        else:
            on_phase(job, len(results))
            engine.submit(replace(job, phase=len(results)))

    while queue or flying:
        while queue and len(flying) < engine.slots:
            job = queue.popleft()
            flying[job.key] = list(checkpoints.load(folder, job.key)[0])
            proceed(job)
        if flying:
            job, result = engine.next()
            flying[job.key].append(result)
            proceed(job)


def _goes_on(result: PhaseResult) -> bool:
    """Whether a training goes on: a limit on time may be just broken in a second measurement, and is no reason to end."""
    return result.outcome in ("ok", "infeasible")


def _values(results: Sequence[PhaseResult]) -> dict[str, Any]:
    """Return the raw values of one training and timing."""
    values: dict[str, Any] = dict(costs(results[0].measurements))
    last = results[-1]
    if last.training is not None:
        accuracies = [item.training.val_accuracy for item in results if item.training is not None]
        values |= {
            "val_accuracy": last.training.val_accuracy,
            "val_error": last.training.val_error,
            "phase_accuracy": accuracies,
            "val_right": last.training.val_right,
        }
    seconds = {
        "timing_seconds": round(results[0].seconds, 3),
        "seconds": round(sum(result.seconds for result in results), 3),
    }
    failed = {} if _goes_on(last) else {"reason": last.reason}
    return values | seconds | {"outcome": "ok" if _goes_on(last) else last.outcome} | failed
