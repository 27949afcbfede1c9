"""A scaling at work: the grid, its trainings, the choice, and the networks at each phi."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from nas import runs
from nas.data import load as load_data
from nas.data import native_size
from nas.devices import describe_device
from nas.engine import PhaseBug, checkpoints, engine_for
from nas.errors import RunError, UsageError
from nas.evaluate import Setup
from nas.objective import guessing
from nas.runs import Run
from nas.scale.compound import Coefficients
from nas.scale.config import ScaleConfig
from nas.scale.evidence import Evidence
from nas.scale.family import member, network, too_large, write
from nas.scale.fit import Seen, decide, step_time_model, time_ratio
from nas.scale.grid import BASE, SINGLE, Choice, Grid, Level, Point, choose, grid, largest_resolution, published_point
from nas.scale.measure import Measurements
from nas.scale.result import Member, ScaleResult, Trained, Watcher
from nas.search.facts import software, used_images
from nas.search.study import SCALING, mirror
from nas.spec import ArchSpec, summary
from nas.train.loop import phase_steps
from nas.train.preflight import step_mode
from nas.train.recipes import Recipe
from nas.train.schedule import phases

SCREENED = 4
"""Where the step time decides, at most this many times the budget are timed to find those that cost the target."""

REACH = 1.25
"""The grid ends at this multiple of what one dimension alone would need in theory."""

SAME = ("base.hash", "grid", "data.fingerprint", "recipe", "device", "torch", "seed")
"""What a continued scaling must share with its start, by its keys in the manifest."""


class Scaling:
    """A scaling at work: what its steps share."""

    def __init__(
        self,
        config: ScaleConfig,
        named: ArchSpec,
        recipe: Recipe,
        search: Run | None,
        folder: Path,
        devices: tuple[torch.device, ...],
        watcher: Watcher,
    ) -> None:
        self.config, self.recipe, self.search, self.watcher = config, recipe, search, watcher
        self.rules = config.rules()
        largest = largest_resolution(
            named, self.rules, target=config.target, step=config.grid_step, reach=self._reach_of_gamma()
        )
        assert config.data is not None
        self.data = load_data(config.data, resolution=largest, progress=watcher.packing, skip_broken=config.skip_broken)
        self.base = replace(named, num_classes=self.data.num_classes, in_channels=self.data.in_channels)
        self.native = native_size(config.data)
        self.threads = max(1, torch.get_num_threads() // len(devices))
        self.devices = devices
        before = runs.open_run(folder).manifest if (folder / "manifest.json").is_file() else None
        asked = "auto" if search is None else search.manifest["config"].get("steps", "auto")
        steps, self.doubt = step_mode(asked, before, devices[0], self.base, recipe, watcher.waiting)
        self.setup = Setup(
            source=config.data,
            data_resolution=largest,
            skip_broken=config.skip_broken,
            fingerprint=self.data.fingerprint,
            recipe=recipe,
            baseline=self.base,
            limits=(),
            w=-0.07,
            timeout_s=None,
            steps=steps,
        )
        self.run_folder = self._opened(folder)

    def _reach_of_gamma(self) -> float:
        """Return how far the grid of resolutions goes; images are packed for the largest."""
        return 1 / math.sqrt(self.config.target) if self.config.budget_metric == "params" else REACH

    def _opened(self, folder: Path) -> Run:
        """Make the run, or open the one that is continued."""
        config, data = self.config, self.data
        facts: dict[str, Any] = {
            "base": {
                "name": self.base.name,
                "hash": self.base.arch_hash,
                "summary": summary(self.base),
                "source": config.source,
            },
            "study": ".." if self._in_search(folder) else ".",
            "config": config.document(),
            "grid": {
                **{
                    key: getattr(config, key) for key in ("budget_metric", "target", "tolerance", "within", "grid_step")
                },
                "rules": self.rules.document(),
                "coefficients": config.coefficients,
            },
            "recipe": self.recipe.document(),
            "seed": config.seed,
            "data": used_images(data, self.recipe),
            "device": describe_device(self.devices[0], self.threads, self.setup.steps)
            | self.setup.recipe.computation(self.devices[0].type),
            "remarks": [self.doubt] if self.doubt else [],
            **software(),
        }
        if not (folder / "manifest.json").is_file():
            runs.write_text(folder / "base.yaml", yaml.safe_dump(self.base.document(), sort_keys=False))
            return runs.create(folder, "scale", facts)
        run = runs.open_run(folder)
        if run.manifest.get("kind") != "scale":
            raise RunError(
                f"{folder}: is a {run.manifest.get('kind')} run, not a scaling. Name another folder with --out."
            )
        try:
            runs.check_same(run, facts, SAME)
        except RunError as error:
            raise RunError(f"{error} A scaling with other settings has a folder of its own: --out {folder}-2") from None
        return runs.update(run, {"config": facts["config"]})

    def _in_search(self, folder: Path) -> bool:
        return self.search is not None and folder.resolve().parent == self.search.folder.resolve()

    def run(self) -> ScaleResult:
        """Run every step."""
        self.watcher.opened(self.run_folder)
        said = [*self.run_folder.manifest.get("remarks", ()), *self._native()]
        self.watcher.began(self.run_folder, self.base, self.data, said)
        engine = engine_for(
            self.setup,
            self.data,
            self.devices,
            asked=self.config.devices,
            threads=self.threads,
            checkpoints=self.run_folder.path(checkpoints.FOLDER),
            say=self.watcher.note,
            waiting=self.watcher.waiting,
        )
        seeds = range(self.config.seed, self.config.seed + self.config.seeds)
        try:
            self.measured = Measurements(self.run_folder, engine, self.recipe.progressive.phases, seeds, self.watcher)
            self.evidence = Evidence(self.base, self.measured, self._images())
            return self._found()
        except PhaseBug as bug:
            path = self.run_folder.path(f"bug-{bug.job.spec.arch_hash}")
            runs.write_text(path.with_suffix(".yaml"), yaml.safe_dump(bug.job.spec.document(), sort_keys=False))
            runs.write_text(path.with_suffix(".txt"), bug.trace)
            raise RunError(
                f"{bug.job.name}, phase {bug.job.phase}: the program failed ({bug.error}). The network is in {path}.yaml, the "
                f"traceback in {path}.txt; please report both."
            ) from bug
        finally:
            engine.close()

    def _found(self) -> ScaleResult:
        config = self.config
        if config.coefficients is not None:
            chosen = Coefficients(*config.coefficients)
            members = self._family(chosen)
            return ScaleResult(
                run=self.run_folder,
                base=self.base,
                coefficients=chosen,
                members=members,
                warnings=self._warned(None, members),
            )
        metric = config.budget_metric
        found = grid(
            self.base,
            self.rules,
            target=config.target,
            tolerance=config.tolerance,
            step=config.grid_step,
            gamma_too=metric != "params",
            reach=REACH,
        )
        ratios, choice = self._choice(found)
        if not choice.points:
            raise UsageError(
                f"--within: found {config.within:g}; no network of the grid costs {config.target:g} times the base "
                f"({metric}). Give a larger one, or a smaller --grid-step."
            )
        points = {point.level: point for point in choice.points}
        self.watcher.planned(found, choice, ratios, self._minutes(choice))
        self._train([(BASE, 0), *((level, 0) for level in points)], points)
        while wanted := self._again(points):
            self._train(wanted, points)
        results = self.evidence.results(points)
        failed = self.evidence.failed(points)
        possible = [level for level in points if level in results]
        # A baseline that rounding leaves off the target costs something else than the others, and cannot win against them.
        fit = [level for level in possible if abs(ratios[level] / config.target - 1) <= config.within]
        if not fit:
            reasons = "; ".join(sorted({reason for _, reason in failed})) or "none of them costs the target"
            raise RunError(
                f"{self.run_folder.folder}: no candidate could be trained to the end ({reasons}). Lower the recipe's batch_size "
                "or learning_rate in a new recipe, or give a larger --within."
            )
        deviation = self.evidence.deviation(points)
        decision = decide(results, fit, deviation)
        trained = tuple(
            self._trained(level, None if level == BASE else points[level], results[level])
            for level in (BASE, *possible)
            if level in results
        )
        chosen = points[decision.chosen].coefficients
        members = self._family(chosen)
        warnings = (
            *guessing(results[decision.best].mean, results[decision.best].error, self.data.num_classes),
            *self.evidence.gain(results, decision, deviation, self.config.target),
            *self._warned(points[decision.chosen], members),
        )
        return ScaleResult(
            run=self.run_folder,
            base=self.base,
            coefficients=chosen,
            decision=decision,
            deviation=deviation,
            trained=trained,
            grid=found,
            choice=choice,
            ratios=ratios,
            failed=failed,
            members=members,
            warnings=warnings,
        )

    def _choice(self, found: Grid) -> tuple[dict[Level, float], Choice]:
        """Return the costs in the metric of the constraint, as far as they are known, and the points that are to be trained.

        Step times are measured where they decide: the candidates that a model takes for the target are timed, the model is
        fitted anew, and so on, until all that are chosen have been timed.
        """
        config = self.config
        by_level = {point.level: point for point in found.points}
        published = published_point(found)
        first = [level for level, point in by_level.items() if self.measured.trained(point.spec)]
        first += [published.level] if published is not None and published.kind == "compound" else []

        def chosen(ratios: Mapping[Level, float]) -> Choice:
            return choose(
                found, lambda point: ratios[point.level], within=config.within, budget=config.budget, first=first
            )

        if config.budget_metric != "step_time":
            ratios = {level: getattr(point, config.budget_metric) for level, point in by_level.items()}
            return ratios, chosen(ratios)
        self.watcher.note(
            f"Step times decide: networks are timed to find those of {config.target:g} times the base's, at most "
            f"{SCREENED * config.budget} of them, some seconds each."
        )
        while True:
            timed = {level: self.measured.screening(point.spec) for level, point in by_level.items()}
            measured = {level: time_ratio(item) for level, item in timed.items() if item is not None}
            sound = {level: ratio for level, ratio in measured.items() if ratio < math.inf}
            if len(measured) < SCREENED * config.budget:
                ratios = {**step_time_model(sound, by_level), **measured}
            else:  # enough has been timed to choose from that
                ratios = {**dict.fromkeys(by_level, math.inf), **measured}
            choice = chosen(ratios)
            unmeasured = [point for point in choice.points if point.level not in measured]
            if not unmeasured:
                reasons = {
                    level: reason if level in measured else "not timed: others promised to be nearer to the target"
                    for level, reason in choice.reasons.items()
                }
                return measured, Choice(choice.points, reasons)
            self.measured.screen([(str(point.coefficients), point.spec) for point in unmeasured])

    def _images(self) -> int:
        """Return how many validation images accuracies are counted on."""
        return min(len(self.data.val.labels), self.recipe.val_images)

    def _minutes(self, choice: Choice) -> float:
        """Return an estimate of the time of the first round, in minutes, from the step time of the base."""
        self.measured.time([("the base", self.base)])
        timed = self.measured.timing(self.base)
        if timed["outcome"] != "ok":
            return math.nan
        own = self.base.resolved().resolution
        images = min(len(self.data.train.labels), self.recipe.train_images)
        steps = sum(
            phase_steps(images, self.recipe, phase) * (phase.resolution / own) ** 2
            for phase in phases(self.recipe.progressive, own, self.recipe.epochs)
        )
        forward = self._images() / self.recipe.batch_size / 3
        each = (steps + forward * self.recipe.progressive.phases) * timed["step_time_ms"] / 1000
        left = [point for point in choice.points if not self.measured.trained(point.spec)]
        slots = len(self.devices)
        return float(each * (1 + sum(point.macs for point in left)) + 15.0 * (1 + len(left))) / 60 / slots

    def _train(self, wanted: Sequence[tuple[Level, int]], points: Mapping[Level, Point]) -> None:
        """Train networks, each with the seed of its number, and show each in the study."""
        self.measured.train(
            [
                ("base", self.base, number)
                if level == BASE
                else (str(points[level].coefficients), points[level].spec, number)
                for level, number in wanted
            ],
            ended=lambda: self._show(points),
        )
        self._show(points)

    def _again(self, points: Mapping[Level, Point]) -> list[tuple[Level, int]]:
        """Return the trainings with further seeds that are due: of the tied, the baselines and the base."""
        results = self.evidence.results(points)
        possible = [level for level in points if level in results]
        if not possible:
            return []
        tied = decide(results, possible, self.evidence.deviation(points)).tied
        due = [BASE, *(level for level in possible if points[level].kind in SINGLE), *tied]
        for number in range(1, self.config.seeds):
            wanted = [
                (level, number)
                for level in dict.fromkeys(due)
                if level in results
                and not self.measured.trained(self.base if level == BASE else points[level].spec, number)
            ]
            if wanted:
                return wanted
        return []

    def _trained(self, level: Level, point: Point | None, found: Seen) -> Trained:
        if point is None:
            return Trained(level, "base", self.base, Coefficients(1, 1, 1), 1.0, 1.0, found)
        return Trained(level, point.kind, point.spec, point.coefficients, point.macs, point.params, found)

    def _show(self, points: Mapping[Level, Point]) -> None:
        """Write the trainings into the study, where the dashboard sees them."""
        folder = self.run_folder.folder
        study = (folder / self.run_folder.manifest["study"]).resolve()
        rows = self.evidence.rows(points, most=self.config.target * REACH)
        mirror(study, f"{SCALING}: {folder.name}", rows, {"scaling": str(folder), "base": self.base.name})

    def _family(self, chosen: Coefficients) -> tuple[Member, ...]:
        """Build, count and time the network at each phi, and write its file.

        Those that were asked for earlier are made again: the choice may be another one by now.
        """
        before = [float(path.stem.removeprefix("phi-")) for path in self.run_folder.folder.glob("phi-*.yaml")]
        phis = sorted({*self.config.phi, *before})
        specs = {phi: network(self.base, chosen, phi, self.rules) for phi in phis}
        files = {phi: write(spec, phi, self.run_folder.folder) for phi, spec in specs.items()}
        small = {phi: spec for phi, spec in specs.items() if not too_large(spec, self.devices[0])}
        self.measured.time([("the base", self.base), *((f"phi {phi:g}", spec) for phi, spec in small.items())])
        return tuple(
            member(
                self.base,
                spec,
                phi,
                chosen,
                self.rules,
                file=files[phi],
                timed=self.measured.timing(spec) if phi in small else {"outcome": too_large(spec, self.devices[0])},
                base_timed=self.measured.timing(self.base),
                native=self.native,
            )
            for phi, spec in specs.items()
        )

    def _native(self) -> list[str]:
        """Say where networks of the grid are to see more pixels than the images have."""
        largest = self.setup.data_resolution
        if self.config.coefficients is not None or self.native is None or self.native >= largest:
            return []
        return [
            f"The images have {self.native} pixels (median), and networks of the grid see up to {largest}: enlarged images hold "
            "nothing new, so that a higher resolution can only win by its larger maps. Do not take gamma for a law of your "
            "images."
        ]

    def _warned(self, chosen: Point | None, members: Sequence[Member]) -> tuple[str, ...]:
        found = [*self.run_folder.manifest.get("remarks", ()), *self._native()]
        if chosen is not None and self.config.seeds == 1:
            found.append(
                "One seed each: how far an accuracy scatters over seeds is not known, and the errors are too small. "
                "Give --seeds 2."
            )
        if chosen is not None and chosen.kind in SINGLE:
            found.append(
                f"The choice scales {chosen.kind} alone. That is what was measured; a longer recipe or more validation images "
                "could tell more networks apart."
            )
        return tuple(found + [f"phi {member.phi:g}: {note}." for member in members for note in member.notes])
