"""The engine whose workers are actors of a Ray cluster, on as many machines as there are.

A training stays on its worker, with its state in memory; the checkpoint of each phase comes to the owner of the run with the
result, in one message. A worker that is lost is replaced if its node is there, and its training continues on any other from
the owner's checkpoint: it loses the phase that was in flight. Only the owner writes the run's folder.

Step times compare only on devices of one kind. Phase 0 runs on workers of that kind alone; the others train.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from nas.data import Dataset
from nas.data.parcel import parcel, parts
from nas.engine import checkpoints
from nas.engine._base import Job, PhaseBug
from nas.engine._ray_worker import Start
from nas.engine.local import DEATHS
from nas.engine.ray_cluster import LOOK_SECONDS, Cluster, Member, unborn
from nas.errors import DeviceError
from nas.evaluate import PhaseResult, Setup
from nas.runs import write_bytes
from nas.spec import ArchSpec
from nas.train.graphs import Mode
from nas.train.preflight import step_mode
from nas.train.recipes import Recipe

LOSSES = 5
"""A phase that was lost so often, with nodes or workers, is given up: it may be what brings nodes down."""


class RayEngine:
    """Runs phases in the workers of a cluster, which it closes when it is closed.

    Args:
        start: Makes an evaluator on a worker's device. data: Images that it is given there; each machine gets them once.
        kind: What step times depend on; the phases that time run on such devices only. None: on all.
        folder: Of the checkpoints; without one, a worker that dies takes the trainings on it along.
        say: Called with a sentence when a worker was lost.
    """

    def __init__(
        self,
        cluster: Cluster,
        start: Start,
        data: Dataset | None,
        *,
        kind: Mapping[str, Any] | None,
        folder: Path | None,
        say: Callable[[str], None],
    ) -> None:
        if folder is not None:
            checkpoints.make(folder)
        self._cluster, self._start, self._data = cluster, start, data
        self._kind, self._folder, self._say = kind, folder, say
        self._sent = None if data is None else parcel(data)
        self._parts: list[Any] | None = None
        self._queue: list[Job] = []
        self._answers: list[tuple[Job, PhaseResult]] = []
        self._deaths: Counter[tuple[str, int]] = Counter()
        self._losses: Counter[tuple[str, int]] = Counter()
        self._unborn = 0
        self._told = ""

    @property
    def slots(self) -> int:
        """Trainings that should be in flight: one for each worker that is there or starting; it changes with the nodes."""
        return max(1, len(self._cluster.members))

    def submit(self, job: Job) -> None:
        """Queue a phase, and hand it to a worker if one is free."""
        self._queue.append(job)
        self._hand_out()

    def next(self) -> tuple[Job, PhaseResult]:
        """Wait for the first phase to end, on whichever worker."""
        while not self._answers:
            timing = frozenset(
                item.host
                for item in self._cluster.members
                if item.doing is not None and item.job and item.job.phase == 0
            )
            self._cluster.look_around(timing)
            for member in [item for item in self._cluster.members if item.stage == "silent"]:
                self._silent(member)
            self._hand_out()
            self._explain()
            asked = {member.doing: member for member in self._cluster.members if member.doing is not None}
            if not asked:
                time.sleep(1.0)  # no worker is there; a node may come
                continue
            done, _ = ray.wait(list(asked), timeout=LOOK_SECONDS)
            for reference in done:
                if (
                    member := asked[reference]
                ) in self._cluster.members:  # and not refused with another one of its node
                    self._hear(member)
        return self._answers.pop(0)

    def drop(self, key: str) -> None:
        """Forget the state of a training, on its worker."""
        for member in self._cluster.members:
            if key in member.keys:
                member.keys.discard(key)
                member.actor.drop.remote(key)

    def close(self) -> None:
        """End all workers, also in the middle of a phase."""
        self._cluster.close()

    def _times(self, member: Member) -> bool:
        return self._kind is None or member.kind == self._kind

    def _hand_out(self) -> None:
        """Start workers, and give each that is free a queued phase: of a training it has, or else of one that no worker has."""
        members = self._cluster.members
        for member in members:
            if member.stage == "vacant":
                self._begin(member)
        starting = {member.host for member in members if member.stage != "ready"}  # imports would disturb a timing
        others = [member for member in members if not self._times(member)]
        # Those that may not time are served first: the others can do what they leave.
        for member in sorted(members, key=self._times):
            if member.stage != "ready" or member.job is not None:
                continue
            elsewhere = {key for other in members if other is not member for key in other.keys}
            may_time = self._times(member) and member.host not in starting
            # After phase 0 there is nothing in memory that a training would have to stay for.
            fits = [
                job
                for job in self._queue
                if (may_time if job.phase == 0 else job.phase == 1 or job.key not in elsewhere)
            ]
            # Where some cannot time, those who can do that first, so that the others get something to train.
            fits.sort(key=lambda job: (job.phase > 0 if others else False, job.key not in member.keys))
            if fits:
                self._give(member, fits[0])

    def _give(self, member: Member, job: Job) -> None:
        self._queue.remove(job)
        for other in self._cluster.members:
            if other is not member and job.key in other.keys:
                other.keys.discard(job.key)
                other.actor.drop.remote(job.key)
        checkpoint = None
        if job.key not in member.keys and self._folder is not None:
            path = checkpoints.path_of(self._folder, job.key)
            checkpoint = path.read_bytes() if path.exists() else None
        member.job = job
        member.keys.add(job.key)
        member.doing = member.actor.run.remote(job, checkpoint)

    def _begin(self, member: Member) -> None:
        member.stage = "starting"
        member.doing = member.actor.start.remote(self._start, self._sent, self._parts, self._folder is not None)

    def _hear(self, member: Member) -> None:
        """Take what a worker answered, in whichever stage it is."""
        try:
            heard = ray.get(member.doing)
        except RayTaskError as error:  # it lives, but what it was asked cannot be done there
            if member.stage != "looking":
                raise DeviceError(unborn(member, error)) from error
            self._cluster.refuse(member, unborn(member, error))
            return
        except RayError as error:
            member.silent = time.monotonic()
            self._silent(member, error)
            return
        member.doing = None
        if member.stage == "looking":
            self._cluster.heard_facts(member, heard)
        elif heard[0] == "error":
            raise heard[1]
        elif heard[0] == "absent":  # its node has no pack: the images travel through the object store, once
            assert self._data is not None
            if self._parts is None:
                self._parts = [ray.put(part) for part in parts(self._data)]
            self._begin(member)
        elif heard[0] == "ready":
            member.stage, self._unborn = "ready", 0
        else:
            job, member.job = member.job, None
            assert job is not None
            what, content, checkpoint = heard
            if what == "bug":
                raise PhaseBug(job, *content)
            if checkpoint is not None and self._folder is not None:
                write_bytes(checkpoints.path_of(self._folder, job.key), checkpoint)
            self._answers.append((job, content))

    def _silent(self, member: Member, error: Exception | None = None) -> None:
        """Let a worker go as soon as it is known what became of it; its phase in flight is queued again, first."""
        fate = self._cluster.fate(member)
        if not fate:
            if member.stage != "silent":
                member.stage, member.silent, member.doing = "silent", time.monotonic(), None
            return
        if member.stage == "looking" and fate == "worker" and error is not None:
            self._cluster.refuse(member, unborn(member, error))
            return
        born = member.stage != "starting"
        self._cluster.dismiss(member)
        node = fate == "node"
        how = f"the node {member.host} is gone" if node else f"a worker on {member.host} died"
        if not born and not node and error is not None:
            self._unborn += 1
            if self._unborn > self.slots:
                raise DeviceError(f"{unborn(member, error)} Again and again; Ray's logs say more (ray logs).")
        lost = member.job
        if lost is None:
            self._say(f"{how[0].upper()}{how[1:]}; another one takes its place where there is one.")
            return
        place = lost.key, lost.phase
        self._losses[place] += 1
        self._deaths[place] += not node
        if self._deaths[place] < DEATHS and self._losses[place] < LOSSES:
            self._queue.insert(0, lost)
            self._say(
                f"{how[0].upper()}{how[1:]} in phase {lost.phase} of {lost.name or lost.key}; that phase runs again."
            )
            return
        reason = f"{self._losses[place]} workers died in phase {lost.phase}; of the last one: {how}"
        self._answers.append((lost, PhaseResult(lost.phase, "worker_died", 0.0, reason)))

    def _explain(self) -> None:
        """Say once why nothing goes on, where nodes are wanting."""
        members = self._cluster.members
        why = ""
        if not members:
            why = "No worker is left. The search goes on as soon as a node is there; Ctrl-C ends it, --resume continues it."
        elif not any(member.job for member in members) and all(member.stage == "ready" for member in members):
            why = f"No worker is left that may time ({(self._kind or {}).get('name')}). The search goes on when one is there."
        if why and why != self._told:
            self._say(why)
        self._told = why


class RayPlace:
    """A Ray cluster as the place of a search.

    Args:
        before: The manifest of the run, where it is continued: its device's kind is the one that times.
        address, devices, gpus_per_trial, say: As of `Cluster`.

    Raises:
        DeviceError: no cluster there, or no device in it that fits.
    """

    def __init__(
        self,
        address: str,
        devices: str,
        gpus_per_trial: float,
        before: Mapping[str, Any] | None,
        say: Callable[[str], None],
    ) -> None:
        self._cluster = Cluster(address, devices, gpus_per_trial, say)
        self.devices = (torch.device(self._cluster.type),)
        ready = [member for member in self._cluster.members if member.stage == "vacant"]
        kinds = Counter(tuple(sorted(member.kind.items())) for member in ready)
        wanted = None if before is None else before["device"]
        # What a manifest says of precision, layout and steps is the recipe's, not the device's.
        same = [
            kind
            for kind in kinds
            if wanted is not None and all(wanted.get(name) == value for name, value in kind if name in PHYSICAL)
        ]
        if wanted is not None and not same:
            found = ", ".join(sorted(str(dict(kind)["name"]) for kind in kinds))
            self.close()
            raise DeviceError(
                f"{address}: found {found}; the run's step times were measured on {wanted['name']}. Continue where the cluster "
                "has such a device, or start a new run."
            )
        kind = same[0] if same else max(kinds, key=lambda item: (kinds[item], item))
        self._kind = dict(kind)
        self._timer = next(member for member in ready if member.kind == self._kind)
        if len(kinds) > 1:
            rest = ", ".join(sorted(str(dict(other)["name"]) for other in kinds if other != kind))
            say(f"Step times are measured on {self._kind['name']} alone; other devices train only ({rest}).")

    def steps(
        self,
        asked: str,
        before: Mapping[str, Any] | None,
        baseline: ArchSpec,
        recipe: Recipe,
        waiting: Callable[[], None],
    ) -> tuple[Mode, str]:
        """Return how steps are done, found out on a worker that times."""
        found: tuple[Mode, str] = self._cluster.call(self._timer, _step_mode, asked, before, baseline, recipe)
        return found

    def describe(self, steps: str) -> dict[str, Any]:
        """Return what step times depend on."""
        return self._kind | ({} if steps == "eager" else {"steps": steps})

    def engine(
        self,
        setup: Setup,
        data: Dataset,
        *,
        checkpoints: Path,
        say: Callable[[str], None],
        waiting: Callable[[], None],
    ) -> RayEngine:
        """Return the engine."""
        return RayEngine(self._cluster, setup.evaluator, data, kind=self._kind, folder=checkpoints, say=say)

    def close(self) -> None:
        """Stop all workers."""
        self._cluster.close()


PHYSICAL = ("type", "name", "memory_mib", "cores", "threads")
"""What of a device's description is its own."""


def _step_mode(
    device: torch.device, asked: str, before: Mapping[str, Any] | None, baseline: ArchSpec, recipe: Recipe
) -> tuple[Mode, str]:
    return step_mode(asked, before, device, baseline, recipe)
