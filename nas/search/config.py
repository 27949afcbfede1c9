"""What a search is asked to do. Every setting and its default is documented here, once."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nas.data import BUILTIN
from nas.errors import UsageError
from nas.registry import settings_of
from nas.search.database import checked, redacted
from nas.space import Limit, parse_quantity

LIMIT_FIELDS = {
    "max_params": "num_params",
    "max_macs": "macs",
    "max_step_time": "step_time_ms",
    "max_latency": "latency_ms",
    "max_memory": "peak_memory_mib",
}
"""The fields of `SearchConfig` that are limits, and the costs they bound."""

COST_WORDS = {name.removeprefix("max_"): cost for name, cost in LIMIT_FIELDS.items()}
"""What accuracy can be traded against with `objective="pareto"`: the words of `--costs`, and the costs they name."""

USUAL = {"reward": {"pruner": "halving", "top_k": 3}, "pareto": {"pruner": "none", "top_k": 8}}
"""Objectives, and the settings that depend on them unless given."""

ASKED_FOR = ("latency_ms", "peak_memory_mib")
"""Costs that are not measured in every search: only where a limit names them, and on some devices."""

PATHS = ("out", "warm_start")

ENGINES = ("local", "ray")
"""Where a search can run: on this machine, or on a Ray cluster."""


def option(name: str) -> str:
    """Return the option of the command line that a setting has."""
    return "--trial-timeout" if name == "trial_timeout_s" else f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class SearchConfig:
    """The settings of a search.

    Args:
        space: A shipped space or a YAML file.
        budget: Networks to train; duplicates, infeasible and failed ones cost nothing.
        data: `fashion-mnist-subset` (built in), a folder or archive of images by class, or another source of `nas.data`.
        skip_broken: Leave out images that cannot be read, and count them, in place of stopping at them.
        recipe: `quick`, `standard` or a YAML file; None takes the space's own.
        devices: `auto`, `cpu`, `cuda`, `cuda:1`; `auto` is CUDA where there is a device. Several (`cuda:0,cuda:1`) or a number
            of workers (`cpu:2`, or `cpu:auto` for as many as pay) have a process each; a script that asks for them needs
            `if __name__ == "__main__":`.
        engine: `local`, on this machine; `ray`, on a Ray cluster, whose nodes come and go (docs/cluster.md). There `devices` says
            what each node gives: `auto` or `cuda` its GPUs, `cpu` one worker, `cpu:N` so many.
        address: Of the Ray cluster: `auto` for the one that this machine belongs to, `HOST:PORT`, `ray://HOST:10001`.
        gpus_per_trial: Share of a GPU that each worker of a Ray cluster takes. Ray counts shares and guards no memory.
        steps: How training steps are done, in training and timing alike: `eager`, kernel by kernel; `graph`, as CUDA graphs;
            `auto`, as CUDA graphs on a CUDA device where the baseline's first steps agree.
        objective: `reward`, one score of accuracy and costs; `pareto`, the front of accuracy against each of the `costs`: the
            networks that no other beats in all of them. The winner is then the front's knee.
        costs: With `pareto` one or two of `step_time`, `params`, `macs`, `latency`, `memory` (CUDA): `step_time,params`.
        sampler: Who suggests networks: `arch`, made for architectures, needs the fewest trainings; `tpe`, `gp`, `nsga2` and
            `random` are Optuna's; `evolution` and `local` search move by small changes. See `nas.search.samplers`.
        pruner: Who ends a trial at a phase's end: `halving` lets the best third of all that came so far go on, `median` those
            above the median of the networks trained to the end, `none` all. See `nas.search.stopping`. Unless given `halving`;
            with `pareto` only `none`, for a network that is behind in accuracy may be ahead in cost.
        seed: Of suggestions, weights, order and augmentation. Step times are not fixed by it, so neither are rewards.
        w, v: Exponents of step time and parameters in the reward.
        max_params, max_macs, max_step_time, max_latency, max_memory: Limits with units (`5M`, `600M`, `12ms`, `5ms`, `2GiB`).
        latency_batch_size: Images of the inference that `max_latency`, or the space's own limit, bounds.
        top_k: Networks trained again before the winner is named; unless given 3, and for a front 8.
        top_k_seeds: Fresh seeds for each.
        patience: Suggestions in a row without a new network after which the search ends.
        warm_start: Folder of another run on the same data, recipe and device, whose results this one begins with.
        enqueue: Networks of the space to train first: shipped names or YAML files.
        trial_timeout_s: Seconds that one phase of a trial may take; None is no limit. With it, a step that hangs for twice as
            long ends its process.
        storage: URL of a PostgreSQL database for the study (`postgresql://user@host/db`), so that a team watches one database.
            None is an SQLite file in the run's folder. Passwords are not written down: give them in PGPASSWORD or ~/.pgpass.
        out: Run folder; None makes `results/<time>-search-<space>-<device>`.
    """

    space: str = "v2"
    budget: int = 50
    data: str = BUILTIN
    skip_broken: bool = False
    recipe: str | None = None
    devices: str = "auto"
    steps: str = "auto"
    objective: str = "reward"
    costs: str = "step_time"
    sampler: str = "arch"
    pruner: str = None  # type: ignore[assignment]  # here and below None becomes what is usual with the objective
    seed: int = 0
    w: float = -0.07
    v: float = -0.05
    max_params: str | None = None
    max_macs: str | None = None
    max_step_time: str | None = None
    max_latency: str | None = None
    max_memory: str | None = None
    latency_batch_size: int = 1
    top_k: int = None  # type: ignore[assignment]
    top_k_seeds: int = 2
    patience: int = 200
    warm_start: Path | None = None
    enqueue: tuple[str, ...] = ()
    trial_timeout_s: float | None = None
    storage: str | None = field(default=None, repr=False)
    engine: str = "local"
    address: str = "auto"
    gpus_per_trial: float = 1.0
    out: Path | None = None

    def __post_init__(self) -> None:
        for name in ("space", "data", "recipe", *PATHS):  # a path in place of a name, and a name in place of a path
            value = getattr(self, name)
            if value is not None:
                text = _text(name, value)
                object.__setattr__(self, name, Path(text) if name in PATHS else text)
        given: Any = self.enqueue
        queued = [given] if isinstance(given, str | os.PathLike) else given
        object.__setattr__(self, "enqueue", tuple(_text("enqueue", item) for item in queued))
        given = self.costs
        if not isinstance(given, str | list | tuple):
            raise _wrong_kind("costs", given, f"names of costs ({', '.join(COST_WORDS)})")
        words = given.split(",") if isinstance(given, str) else given
        object.__setattr__(self, "costs", ",".join(str(item).strip() for item in words))
        self._check_objective()
        for name in ("devices", "steps", "sampler", "pruner", "engine", "address"):
            if not isinstance(getattr(self, name), str):
                raise _wrong_kind(name, getattr(self, name), "text")
        positive = ("budget", "latency_batch_size", "top_k", "top_k_seeds", "patience")
        for name in (*positive, "seed"):
            if not isinstance(getattr(self, name), int):
                raise _wrong_kind(name, getattr(self, name), "a whole number")
        for name in ("w", "v", "trial_timeout_s", "gpus_per_trial"):
            if not isinstance(getattr(self, name), int | float | None):
                raise _wrong_kind(name, getattr(self, name), "a number")
        for name in LIMIT_FIELDS:
            if not isinstance(getattr(self, name), str | None):
                raise _wrong_kind(name, getattr(self, name), "text with a unit, such as '5M' or '12ms'")
        if self.storage is not None:
            object.__setattr__(self, "storage", checked(_text("storage", self.storage)))
        for name, least in (*((name, 1) for name in positive), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{option(name)}: found {getattr(self, name)}; allowed: {least} or more.")
        if self.trial_timeout_s is not None and not 0 < self.trial_timeout_s < math.inf:
            raise UsageError(
                f"{option('trial_timeout_s')}: found {self.trial_timeout_s:g}; allowed: seconds above 0. "
                "Leave it out for no limit."
            )
        if self.engine not in ENGINES:
            raise UsageError(f"--engine: found {self.engine!r}; allowed: {', '.join(ENGINES)}.")
        if not 0 < self.gpus_per_trial <= 1:
            raise UsageError(
                f"{option('gpus_per_trial')}: found {self.gpus_per_trial:g}; allowed: above 0, up to 1 (a trial has one GPU)."
            )
        if self.engine == "local" and (self.address, self.gpus_per_trial) != ("auto", 1.0):
            raise UsageError("--address and --gpus-per-trial: belong to --engine ray. Give it, or leave them out.")
        for name in ("w", "v"):
            value = getattr(self, name)
            if not -10 <= value <= 0:
                raise UsageError(
                    f"--{name}: found {value:g}; allowed: -10 to 0 (a cost lowers the reward; 0 ignores it)."
                )

    def _check_objective(self) -> None:
        """Check what is traded against what, and fill in what is usual with it."""
        if self.objective not in tuple(USUAL):
            raise UsageError(f"--objective: found {self.objective!r}; allowed: {', '.join(USUAL)}.")
        for name, value in USUAL[self.objective].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.objective == "reward":
            if self.costs != "step_time":
                raise UsageError(
                    "--costs: belongs to --objective pareto; found the objective reward. Give both, or neither."
                )
            return
        words = self.costs.split(",")
        if not set(words) <= set(COST_WORDS) or len(words) > 2 or len(set(words)) < len(words):
            raise UsageError(
                f"--costs: found {self.costs or 'nothing'}; allowed: one or two different ones of "
                f"{', '.join(COST_WORDS)}, such as step_time,params."
            )
        if self.pruner != "none":
            raise UsageError(
                f"--pruner: found {self.pruner}; allowed with --objective pareto: none, for a network that is behind in "
                "accuracy may be ahead in cost. Leave it out."
            )

    def cost_names(self) -> tuple[str, ...]:
        """Return the costs that accuracy is traded against, by the names of what is measured; none with a reward."""
        return tuple(COST_WORDS[name] for name in self.costs.split(",")) if self.objective == "pareto" else ()

    def limits(self) -> tuple[Limit, ...]:
        """Return the limits that were given, and one without a bound for each cost that is measured only where it is asked for.

        Raises:
            UsageError: a quantity that cannot be read.
        """
        found = []
        for name, cost in LIMIT_FIELDS.items():
            text = getattr(self, name)
            if text is None:
                continue
            try:
                found.append(Limit(cost, max=parse_quantity(text, cost)))
            except ValueError as error:
                raise UsageError(f"{option(name)}: {error}.") from None
        bounded = {limit.cost for limit in found}
        asked = [cost for cost in self.cost_names() if cost in ASKED_FOR and cost not in bounded]
        return (*found, *(Limit(cost) for cost in asked))

    def document(self) -> dict[str, Any]:
        """Return the settings as plain data, for the manifest; the storage is without its password."""
        plain = {
            name: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }
        return plain | {"storage": None if self.storage is None else redacted(self.storage)}


def _text(name: str, value: object) -> str:
    if not isinstance(value, str | os.PathLike):
        raise _wrong_kind(name, value, "a name, or the path of a file or folder")
    return os.fspath(value)


def _wrong_kind(name: str, value: object, allowed: str) -> UsageError:
    shown = repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
    return UsageError(f"{option(name)}: found {shown}; allowed: {allowed}. Give that instead.")


def from_settings(settings: dict[str, Any], where: str) -> SearchConfig:
    """Return the settings that were given by name.

    Raises:
        UnknownNameError: no such setting.
    """
    return settings_of(SearchConfig, settings, where)


def from_document(data: dict[str, Any]) -> SearchConfig:
    """Return the settings that a manifest holds."""
    data = dict(data)
    if "device" in data:  # its name in the first runs
        data["devices"] = data.pop("device")
    return from_settings(data, "manifest.json: config")
