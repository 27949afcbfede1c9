"""One audit: trains networks of a run again, keeps what they show in its folder, and writes its report anew."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from nas import runs
from nas.audit import plan
from nas.audit.config import AuditConfig, from_settings
from nas.audit.findings import compared, fidelity, tuning
from nas.audit.plan import FAR, OWN, Arm, Training
from nas.cost import count
from nas.data import Dataset, is_found, located
from nas.devices import describe_device, pick_devices
from nas.engine import Job, PhaseBug, checkpoints, engine_for
from nas.errors import RunError, UsageError
from nas.objective import Reward
from nas.owner import owned
from nas.report import RunView, load_run, write_report
from nas.report.audited import against_said, fidelity_said, tuning_said
from nas.runs import Run
from nas.search import config as search_configs
from nas.search.facts import manifest
from nas.search.session import reopened, setup_of
from nas.search.trainings import Stored, name, train_all
from nas.search.watcher import Watcher as SearchWatcher
from nas.space import SearchSpace, choices, decode, stored_choose
from nas.spec import ArchSpec, Value
from nas.train.preflight import step_mode

FOLDER = "audit"
RAW = "trainings.json"
"""The raw values of all trainings of a run's audits, by the name of the recipe."""

PASSING = ("out_of_memory", "worker_died")
"""Outcomes that may be another program's fault: what ended so is tried again by the next audit."""


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Args:
        run: The search. folder: Of the audit. findings: As in `audit.json`. lines: Its report, as Markdown.
    """

    run: Run
    folder: Path
    findings: Mapping[str, Any]
    lines: tuple[str, ...]


class Watcher(SearchWatcher):
    """Whoever wants to see an audit go on overrides what interests them, besides what a search shows."""

    def planned(self, run: Run, arms: Sequence[Arm], wanted: Sequence[Training], left: int, minutes: float) -> None:
        """What will be trained is known, how much of it has not been yet, and about how long that takes."""

    def training(self, arm: Arm, label: str, seed: int, phase: int, done: int, total: int) -> None:
        """A phase of a training begins; so many of all have ended."""

    def trained(self, arm: Arm, label: str, seed: int, values: Mapping[str, Any]) -> None:
        """A training has ended."""


def audit(config: AuditConfig | None = None, *, watcher: Watcher | None = None, **settings: Any) -> AuditResult:
    """Find out how far a search is to be believed, by trainings of its own networks under its own conditions.

    An audit that was cut off is continued by the same call; nothing that was trained is trained again, and later audits with
    other settings take what is there.

    Args:
        config: The settings; or give them by name: `audit(run="results/run1", networks=12)`.
        watcher: Sees the audit go on.

    Raises:
        NasError: one of its kinds, for anything a user can mend.
    """
    if config is not None and settings:
        raise UsageError(f"audit: found config and {', '.join(settings)}; give one or the other.")
    config = config or from_settings(settings, "audit")
    folder = Path(config.run) if config.run is not None else runs.latest()
    view = load_run(folder)
    with owned(folder):
        home = folder / FOLDER
        checkpoints.make(home)
        findings = dict(view.audit)
        if config.against is not None:
            findings["against"] = compared(view, load_run(config.against))
        else:
            findings |= _Audit(config, view, home, watcher or Watcher()).run()
        return _written(view.run, home, findings)


class _Audit:
    """An audit at work: what its steps share."""

    def __init__(self, config: AuditConfig, view: RunView, home: Path, watcher: Watcher) -> None:
        self.config, self.view, self.home, self.watcher = config, view, home, watcher
        run, self.space, recipe = reopened(view.run.folder)
        own = search_configs.from_document(run.manifest["config"])
        place = own.data if config.data is None else located(config.data)
        own = replace(own, data=place, devices=config.devices or own.devices)
        if not is_found(own.data):
            raise RunError(f"{run.folder}: its images are not at {own.data}. Say where they are now with --data.")
        self.seed, self.asked = own.seed, own.devices
        self.devices = pick_devices(own.devices)
        setup, self.data = setup_of(own, self.space, recipe, watcher.packing)
        self.threads = max(1, torch.get_num_threads() // len(self.devices))
        steps, _ = step_mode(own.steps, run.manifest, self.devices[0], setup.baseline, recipe, watcher.waiting)
        device = describe_device(self.devices[0], self.threads, steps) | recipe.computation(self.devices[0].type)
        reward = Reward(own.w, own.v, float(count(setup.baseline).params))
        facts = manifest(own, self.space, setup, self.data, device, reward)
        runs.check_same(run, facts, what="audited")
        # Limits, times and the run's timeout are of the search; here accuracies are wanted, of trainings that may be long.
        self.setup = replace(setup, steps=steps, limits=(), timeout_s=None, w=0.0)
        self.rows = view.trained().drop_duplicates("arch_hash", keep="last")
        self.networks = plan.picked(list(self.rows["arch_hash"]), config.networks)
        if len(self.networks) < 4:
            raise RunError(
                f"{run.folder}: {len(self.networks)} networks were trained to the end; an audit takes 4. Let the search go on, "
                f"or raise its budget: nas search --resume {shlex.quote(str(run.folder))} --budget N"
            )
        self.arms = plan.arms(
            recipe, config.long, config.tune_proxy, len(self.data.train.labels), setup.baseline.resolved().resolution
        )
        self.wanted = plan.trainings(self.arms, self.networks, config.seeds, self.seed)
        self.raw: dict[str, Stored] = self._stored()
        self.specs = {arch_hash: self._spec(arch_hash) for arch_hash in self.networks}

    def run(self) -> dict[str, Any]:
        """Train what has not been trained, and return what all of it says."""
        left = [item for item in self.wanted if not self._is_there(item)]
        self.watcher.planned(
            self.view.run, self.arms, self.wanted, len(left), plan.minutes(left, self.rows, len(self.devices))
        )
        for arm in self.arms:
            if any(item.arm == arm for item in left):
                self._train(arm)
        long = next(arm for arm in self.arms if arm.name.startswith("long-"))
        terms = {"seed": self.seed + 1, "far": self.seed + FAR}
        found: dict[str, Any] = {
            "networks": [{"arch_hash": name, "arch": self._row(name)["arch"]} for name in self.networks],
            "trainings": {
                key: {"outcome": item["outcome"], "val_accuracy": item.get("val_accuracy")}
                for key, item in self.raw[OWN].items()
                if item["outcome"] == "ok"
            },
            "failed": [
                f"{arm}, {key}: {item['outcome']} {item.get('reason', '')}".strip()
                for arm, stored in self.raw.items()
                for key, item in stored.items()
                if item["outcome"] != "ok"
            ],
            "fidelity": fidelity(self.rows, self.networks, self.raw, long, times=self.config.long, **terms),
        }
        if self.config.tune_proxy:
            found["tuning"] = tuning(self.arms, self.networks, self.raw, long, threshold=self.config.tau, **terms)
            self._write_recipe(found["tuning"]["chosen"])
        return found

    def _train(self, arm: Arm) -> None:
        """Train the networks of one recipe, each with its seeds, but those that have been."""
        mine = [item for item in self.wanted if item.arm == arm]
        stored = self.raw.setdefault(arm.name, {})
        folder = self.home / f"checkpoints-{arm.name}"
        engine = engine_for(
            replace(self.setup, recipe=arm.recipe),
            self.data,
            self.devices,
            asked=self.asked,
            threads=self.threads,
            checkpoints=folder,
            say=self.watcher.note,
            waiting=self.watcher.waiting,
        )

        def save(job: Job) -> None:
            runs.write_json(self.home / RAW, self.raw)
            self.watcher.trained(arm, job.name, job.seed, stored[name(job)])

        def began(job: Job, phase: int) -> None:
            done = sum(self._is_there(item) for item in self.wanted)
            self.watcher.training(arm, job.name, job.seed, phase, done, len(self.wanted))

        try:
            train_all(
                [Job(self.specs[item.arch_hash], 0, item.seed, name=self._label(item.arch_hash)) for item in mine],
                engine,
                arm.recipe.progressive.phases,
                stored,
                folder,
                save=save,
                on_phase=began,
                seeds={item.seed for item in mine},
            )
        except PhaseBug as bug:
            path = self.home / f"bug-{bug.job.spec.arch_hash}"
            runs.write_text(path.with_suffix(".yaml"), yaml.safe_dump(bug.job.spec.document(), sort_keys=False))
            runs.write_text(path.with_suffix(".txt"), bug.trace)
            raise RunError(
                f"{bug.job.name}, {arm.words}, phase {bug.job.phase}: the program failed ({bug.error}). The network is in "
                f"{path}.yaml, the traceback in {path}.txt; please report both."
            ) from bug
        finally:
            engine.close()
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def _is_there(self, item: Training) -> bool:
        return f"{item.arch_hash}-{item.seed}" in self.raw.get(item.arm.name, {})

    def _stored(self) -> dict[str, Stored]:
        """Return the trainings of earlier audits, and those of finalists, which are of the run's own recipe."""
        file = self.home / RAW
        found: dict[str, Stored] = (
            runs.read_json(file, dict, "Delete it, and everything is trained again.") if file.is_file() else {}
        )
        kept = {
            arm: {key: item for key, item in stored.items() if item["outcome"] not in PASSING}
            for arm, stored in found.items()
        }
        finalists = {key: dict(item) for key, item in self.view.trainings.items() if item["outcome"] == "ok"}
        return {**kept, OWN: {**finalists, **kept.get(OWN, {})}}

    def _row(self, arch_hash: str) -> Any:
        return self.rows[self.rows["arch_hash"] == arch_hash].iloc[0]

    def _label(self, arch_hash: str) -> str:
        return f"{arch_hash[:8]} (trial {self._row(arch_hash)['number']})"

    def _spec(self, arch_hash: str) -> ArchSpec:
        """Return a network of the run, decoded again from its row.

        Raises:
            RunError: the row does not make it.
        """
        data: Dataset = self.data
        values = _values(self.space, self._row(arch_hash))
        spec = decode(self.space, stored_choose(values), num_classes=data.num_classes, in_channels=data.in_channels)
        if spec.arch_hash != arch_hash:
            raise RunError(
                f"{self.view.run.path('trials.csv')}: the choices of {self._label(arch_hash)} make another network "
                f"({spec.arch_hash}). Have it written again: nas search --resume {shlex.quote(str(self.view.run.folder))}"
            )
        return spec

    def _write_recipe(self, chosen: str | None) -> None:
        file = self.home / "recipe.yaml"
        if chosen is None:
            file.unlink(missing_ok=True)
            return
        arm = next(arm for arm in self.arms if arm.name == chosen)
        runs.write_text(file, yaml.safe_dump(_plain(arm.recipe.document()), sort_keys=False))


def _values(space: SearchSpace, row: Any) -> dict[str, Value]:
    """Return the choices of a row of `trials.csv`: an ordered one is stored by its index, a category by its text."""
    found: dict[str, Value] = {}
    for name_of, domain in choices(space).items():
        cell = row[f"param:{name_of}"]
        if domain.ordered:
            found[name_of] = domain.values[int(cell)]
        else:
            found[name_of] = next(value for value in domain.values if str(value) == str(cell))
    return found


def _plain(value: Any) -> Any:
    """Return plain data without tuples, which a YAML file of a user has no word for."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _written(run: Run, home: Path, findings: Mapping[str, Any]) -> AuditResult:
    """Write what was found, the report of the audit, and the run's anew."""
    runs.write_json(home / "audit.json", findings)
    lines = [
        f"# Audit of {run.folder.name}",
        "",
        *fidelity_said(findings),
        *tuning_said(findings),
        *against_said(findings),
    ]
    if failed := findings.get("failed"):
        lines += ["### Failed", "", *[f"- {line}" for line in failed], ""]
    runs.write_text(home / "report.md", "\n".join(lines))
    write_report(run.folder)
    return AuditResult(run, home, findings, tuple(lines))
