"""What a scaling measures: timings and trainings through an engine, each stored as it ends and never repeated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nas import runs
from nas.cost.step_time import FULL, Protocol
from nas.engine import Engine, Job, checkpoints
from nas.runs import Run
from nas.scale.result import Watcher
from nas.search.trainings import Stored, name, train_all
from nas.spec import ArchSpec

MEASURED = "measured.json"
"""The raw values of all timings and trainings of a scaling."""

KINDS = ("timings", "screenings", "trainings")
"""The parts of that file: by the full protocol, by the search's, and whole trainings."""

PASSING = ("out_of_memory", "worker_died")
"""Outcomes that may be another program's fault: what ended so is tried again when a scaling goes on."""


class Measurements:
    """The raw values of a scaling, and the engine that fetches more.

    Args:
        num_phases: Training phases of every network. seeds: Of the trainings, by their number; timings have the first.

    Raises:
        RunError: the stored values are damaged.
    """

    def __init__(self, run: Run, engine: Engine, num_phases: int, seeds: Sequence[int], watcher: Watcher) -> None:
        self._run, self._engine, self._num_phases, self.seeds, self._watcher = run, engine, num_phases, seeds, watcher
        stored = run.path(MEASURED)
        again = "Delete it, and everything is measured again."
        content: dict[str, Stored] = runs.read_json(stored, dict, again) if stored.is_file() else {}
        self._timings, self._screenings, self._trainings = (
            {key: item for key, item in content.get(kind, {}).items() if item["outcome"] not in PASSING}
            for kind in KINDS
        )

    def key(self, spec: ArchSpec, number: int = 0) -> str:
        """Return what a training, or a timing, is stored as."""
        return name(Job(spec, 0, self.seeds[number]))

    def trained(self, spec: ArchSpec, number: int = 0) -> bool:
        """Return whether a network has been trained with a seed."""
        return self.key(spec, number) in self._trainings

    def of(self, spec: ArchSpec) -> dict[int, dict[str, Any]]:
        """Return the raw values of a network's trainings, by the number of the seed."""
        keys = {number: self.key(spec, number) for number in range(len(self.seeds))}
        return {number: self._trainings[key] for number, key in keys.items() if key in self._trainings}

    def timing(self, spec: ArchSpec) -> dict[str, Any]:
        """Return the raw values of a network's timing by the full protocol."""
        return self._timings[self.key(spec)]

    def screening(self, spec: ArchSpec) -> dict[str, Any] | None:
        """Return the raw values of a network's short timing; None where there is none."""
        return self._screenings.get(self.key(spec))

    def time(self, networks: Sequence[tuple[str, ArchSpec]]) -> None:
        """Time networks, each with what people know it as, by the full protocol, but those that have been."""
        self._time(networks, FULL, self._timings)

    def screen(self, networks: Sequence[tuple[str, ArchSpec]]) -> None:
        """Time networks as a search does, in a few seconds each, but those that have been."""
        self._time(networks, None, self._screenings)

    def _time(self, networks: Sequence[tuple[str, ArchSpec]], protocol: Protocol | None, stored: Stored) -> None:
        folder = self._run.path(checkpoints.FOLDER)

        def ended(job: Job) -> None:
            self._save()
            checkpoints.path_of(folder, job.key).unlink(missing_ok=True)  # its training measures for itself

        train_all(
            [
                job
                for label, spec in networks
                if name(job := Job(spec, 0, self.seeds[0], protocol, label)) not in stored
            ],
            self._engine,
            0,
            stored,
            folder,
            save=ended,
            on_phase=lambda job, phase: self._watcher.timing(job.name),
            seeds=(),  # a training that was cut off keeps its checkpoint
        )

    def train(self, wanted: Sequence[tuple[str, ArchSpec, int]], ended: Callable[[], None]) -> None:
        """Train networks that have not been trained.

        Args:
            wanted: What people know it as, the network, and the number of the seed. ended: Called after each training.
        """
        jobs = [Job(spec, 0, self.seeds[number], FULL, label) for label, spec, number in wanted]

        def save(job: Job) -> None:
            self._save()
            self._watcher.trained(job.name, job.seed, self._trainings[name(job)])
            ended()

        def began(job: Job, phase: int) -> None:
            done = sum(name(other) in self._trainings for other in jobs)
            self._watcher.training(job.name, job.seed, phase, done, len(jobs))

        train_all(
            jobs,
            self._engine,
            self._num_phases,
            self._trainings,
            self._run.path(checkpoints.FOLDER),
            save=save,
            on_phase=began,
            seeds=self.seeds,
        )

    def _save(self) -> None:
        runs.write_json(
            self._run.path(MEASURED), dict(zip(KINDS, (self._timings, self._screenings, self._trainings), strict=True))
        )
