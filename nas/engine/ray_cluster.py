"""A Ray cluster: the connection to it, and a persistent worker (an actor) for each place that its nodes offer.

Workers are tied to their node. A node that comes gets workers, one that goes takes them along; Ray restarts none, for the
owner of the run decides what runs again.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import: nothing is told to anybody
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's next default, and no warning about it

import ray
import torch
from ray.exceptions import ActorDiedError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import nas
from nas.engine._base import Job
from nas.engine._ray_worker import RayWorker
from nas.errors import DeviceError, NasError

LOOK_SECONDS = 5.0
"""So often the nodes of the cluster are looked at."""

PATIENCE_SECONDS = 120.0
"""So long the first worker may take to be placed and to import."""

ASK_SECONDS = 5.0
"""So long an address may take to answer."""

SILENT_SECONDS = 90.0
"""So long a worker may be silent before it is given up."""


@dataclass(eq=False)
class Member:
    """A worker, as the owner sees it.

    Args:
        node: Its node's identity. host: The machine's name. doing: What it was asked last and has not answered.
        stage: `looking` until it has said what it runs on, then `vacant`, `starting`, and `ready` for phases; `silent` when the
            connection broke. silent: Since when, by `time.monotonic()`.
        kind: What step times on it depend on. keys: Trainings whose state it has.
    """

    node: str
    host: str
    actor: Any
    doing: Any
    stage: str = "looking"
    silent: float = 0.0
    kind: Mapping[str, Any] = field(default_factory=dict)
    job: Job | None = None
    keys: set[str] = field(default_factory=set)


class Cluster:
    """A connection to a Ray cluster, and the workers there.

    Args:
        address: `auto` for the cluster that this machine belongs to, `HOST:PORT`, or `ray://HOST:PORT` from outside.
        devices: What a node offers: `auto` (GPUs where the cluster has any), `cuda`, `cpu`, or `cpu:N` for N workers on each.
        gpus_per_trial: Share of a GPU that a worker takes.
        say: Called with a sentence when nodes come and go.

    Raises:
        DeviceError: no cluster there, nothing in it that fits, or other versions there than here.
    """

    def __init__(self, address: str, devices: str, gpus_per_trial: float, say: Callable[[str], None]) -> None:
        self._address, self._say = address, say
        self._connected = not ray.is_initialized()
        if self._connected:
            _connect(address)
        self._looked = -LOOK_SECONDS
        self._refused: set[str] = set()
        self.members: list[Member] = []
        self._hired_on: set[str] = set()
        try:
            self.type, self._per_node = self._asked(devices)
            self._gpus = gpus_per_trial if self.type == "cuda" else 0.0
            self.look_around(frozenset())
            if not self.members:
                raise DeviceError(self._nothing_fits())
            self._await_first()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop all workers, also in the middle of a phase, and let the cluster go."""
        for member in self.members:
            with contextlib.suppress(Exception):  # it, or the whole cluster, may be gone
                ray.kill(member.actor)
        self.members.clear()
        if self._connected:
            ray.shutdown()
            self._connected = False

    def look_around(self, timing: frozenset[str]) -> None:
        """Hire on nodes that came, and let workers go whose node is gone; now and then, for it costs a message.

        Args:
            timing: Machines on which something is timed: no worker starts there meanwhile.
        """
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        alive, first = self.nodes(), set[str]()
        for member in list(self.members):
            if member.node not in alive and member.doing is None and member.stage != "silent":
                self._say(f"The node {member.host} is gone, with an idle worker on it.")
                self.members.remove(member)
        for identity, node in alive.items():
            host, offered = node["NodeManagerHostname"], self._places(node["Resources"])
            there = sum(member.node == identity for member in self.members)
            if identity in self._refused or there >= offered:
                continue
            if host in timing:
                self._looked = -LOOK_SECONDS  # look again as soon as the timing is over
                continue
            if self._hired_on and identity not in self._hired_on:
                self._say(f"The node {host} is new; it gets {offered} worker{'s' * (offered > 1)}.")
            self.members += [self._hired(identity, host, node["Resources"], offered) for _ in range(offered - there)]
            first.add(identity)
        self._hired_on |= first

    def nodes(self) -> dict[str, Mapping[str, Any]]:
        """Return the nodes that are alive, by identity."""
        return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}

    def heard_facts(self, member: Member, facts: Mapping[str, Any]) -> None:
        """Take what a worker says of its node: it is vacant then, or refused where other versions are."""
        wrong = _other_versions(facts["versions"])
        if wrong:
            self.refuse(member, f"{member.host}: found {wrong}. Install the same versions on all nodes and here.")
        else:
            member.kind, member.stage, member.doing = facts["device"], "vacant", None

    def refuse(self, member: Member, why: str) -> None:
        """Leave a node out from now on, and say why; it is an error where no other worker is there.

        Raises:
            DeviceError: there is none.
        """
        self._refused.add(member.node)
        for other in [other for other in self.members if other.node == member.node]:
            self.dismiss(other)
        if not self.members:
            raise DeviceError(why)
        self._say(f"{why} Until then that node is left out.")

    def dismiss(self, member: Member) -> None:
        """Stop a worker, whatever it does, and forget it."""
        self.members.remove(member)
        with contextlib.suppress(RayError):
            ray.kill(member.actor)

    def fate(self, member: Member) -> str:
        """Return what became of a worker that broke off: `node` or `worker` for what is gone, or nothing while Ray finds out.

        A machine that vanishes says nothing; Ray misses it after some seconds, and until then the worker is only silent.
        """
        if member.node not in self.nodes():
            return "node"
        try:
            ray.get(member.actor.drop.remote(""), timeout=1.0)
        except ActorDiedError:
            return "node" if member.node not in self.nodes() else "worker"
        except RayError:
            return "" if time.monotonic() - member.silent < SILENT_SECONDS else "node"
        return "node"  # it answers again, but what it was doing is lost with the connection

    def call(self, member: Member, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function on a worker's device, `function(device, *arguments)`, and return what it returns.

        Raises:
            NasError: the function's own. DeviceError: the worker is lost.
        """
        try:
            what, content = ray.get(member.actor.call.remote(function, *arguments))
        except RayError as error:
            raise DeviceError(f"{member.host}: its worker is lost ({_line(error)}). Try again.") from error
        if what == "error":
            raise content
        return content

    def _asked(self, devices: str) -> tuple[str, int]:
        """Return the type of device that is asked for, and the workers on each node's CPU."""
        kind, _, number = devices.partition(":")
        if devices == "auto":
            kind = "cuda" if any("GPU" in node["Resources"] for node in self.nodes().values()) else "cpu"
        if kind not in ("cpu", "cuda") or (number and (kind == "cuda" or not number.isdecimal() or not int(number))):
            raise DeviceError(
                f"--devices: found {devices!r}; allowed with --engine ray: auto, cuda, cpu, cpu:N for N workers on each node. "
                "Ray chooses the GPUs; --gpus-per-trial says how much of one a trial gets."
            )
        return kind, int(number or 1)

    def _places(self, resources: Mapping[str, float]) -> int:
        """Return how many workers a node has room for."""
        if self.type == "cuda":
            return int(resources.get("GPU", 0.0) / self._gpus + 1e-9)
        return min(self._per_node, int(resources.get("CPU", 0.0)))

    def _hired(self, node: str, host: str, resources: Mapping[str, float], places: int) -> Member:
        cpus = int(resources.get("CPU", 0.0)) // places
        worker = ray.remote(RayWorker).options(
            # A GPU is what is scarce on a node that has one; its CPU cores are not counted.
            num_cpus=0 if self._gpus else cpus,
            num_gpus=self._gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        actor = worker.remote(self.type, max(1, cpus))
        return Member(node, host, actor, actor.look.remote())

    def _await_first(self) -> None:
        """Wait until the workers have said what they run on; for those that are not placed only until others are."""
        until = time.monotonic() + PATIENCE_SECONDS
        while looking := {member.doing: member for member in self.members if member.stage == "looking"}:
            done, _ = ray.wait(list(looking), timeout=max(0.0, until - time.monotonic()))
            if not done:
                break
            member = looking[done[0]]
            try:
                facts = ray.get(done[0])
            except RayError as error:
                self.refuse(member, unborn(member, error))
                continue
            self.heard_facts(member, facts)
        if not any(member.stage == "vacant" for member in self.members):
            free = {name: value for name, value in ray.available_resources().items() if name in ("CPU", "GPU")}
            raise DeviceError(
                f"{self._address}: no worker found room within {PATIENCE_SECONDS:g} s; free are {free or 'no CPU and no GPU'}. "
                "Wait until other programs have let go of the cluster, or lower --gpus-per-trial."
            )

    def _nothing_fits(self) -> str:
        nodes = self.nodes()
        total = {name: sum(node["Resources"].get(name, 0.0) for node in nodes.values()) for name in ("CPU", "GPU")}
        needed = f"{self._gpus:g} GPU" if self.type == "cuda" else "1 CPU"
        other = "cpu" if self.type == "cuda" else "cuda"
        return (
            f"{self._address}: found {len(nodes)} node{'s' * (len(nodes) > 1)} with {total['CPU']:g} CPU and "
            f"{total['GPU']:g} GPU in all; a worker needs {needed} of one node. Give --devices {other}, or add nodes: "
            "ray start --address=HEAD:PORT --num-gpus=N"
        )


def unborn(member: Member, error: Exception) -> str:
    """Say why a worker could not start."""
    if isinstance(error, NasError):  # Ray's errors are of the class of their cause, too
        return f"{member.host}: {error.cause}"  # type: ignore[attr-defined]
    text = str(error)
    if "No module named" in text:
        name = text.split("No module named", 1)[1].strip().splitlines()[0].split()[0].strip("'\".,;")
        return f"{member.host}: cannot import {name}. Install there, in the Python of Ray, what is installed here."
    return f"{member.host}: its worker ended while it started ({_line(error)})."


def _line(error: Exception) -> str:
    """Return the line of Ray's message that says most: its last one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _connect(address: str) -> None:
    """Connect to a cluster; none is started where there is none.

    Raises:
        DeviceError: it cannot be reached, or has other versions.
    """
    where = "no Ray cluster runs on this machine" if address == "auto" else "no Ray cluster answers there"
    absent = (
        f"--address: found {address}, but {where}. Start one (ray start --head), or give the address of one: "
        "auto, HOST:6379, ray://HOST:10001."
    )
    # Ray itself tries for minutes.
    if address != "auto" and not _answers(address.removeprefix("ray://")):
        raise DeviceError(absent)
    try:
        with _own_signals():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", namespace="nas")
    except (RayError, OSError, RuntimeError, ValueError, AssertionError, ImportError) as error:
        text = " ".join(str(error).split())
        if "ersion mismatch" in text or "different version" in text:
            raise DeviceError(
                f"{address}: found a cluster of other versions ({text}). Install the same Ray and Python here and there."
            ) from error
        if "authentication" in text.lower():
            raise DeviceError(
                f"{address}: the cluster wants a token that this user does not have ({text}). Take the head's "
                "~/.ray/auth_token, or set RAY_AUTH_TOKEN_PATH."
            ) from error
        if isinstance(error, ImportError) or "grpc" in text:
            raise DeviceError(
                f"{address}: Ray's client is not installed. Install it: pip install 'ray[client]'"
            ) from error
        if address != "auto":
            raise DeviceError(
                f"{address}: something answers, but Ray could not connect ({_line(error)}). Try again."
            ) from error
        raise DeviceError(absent) from error


def _answers(address: str) -> bool:
    """Return whether anything listens at an address of the form HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ASK_SECONDS):
            return True
    except (OSError, ValueError, OverflowError):
        return False


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what signals do: Ray has handlers of its own, and what ends a run is decided elsewhere."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _other_versions(there: Mapping[str, str]) -> str:
    """Return in which versions a node differs from this process, or nothing."""
    here = versions()
    return ", ".join(f"{name} {there[name]} (here {here[name]})" for name in here if there[name] != here[name])


def versions() -> dict[str, str]:
    """Return the versions that all nodes must share; builds of torch for another device are the same version."""
    python = ".".join(platform.python_version_tuple()[:2])
    torch_version = torch.__version__.partition("+")[0]
    return {"phinas": nas.__version__, "python": python, "ray": ray.__version__, "torch": torch_version}
