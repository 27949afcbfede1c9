"""One search, from settings to winner: opens the run, loads the data, runs the loop, measures again, reports."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import torch
import yaml

import nas
from nas import catalog, runs
from nas.data import Dataset
from nas.data import load as load_data
from nas.engine import InlineEngine
from nas.errors import RunError, SearchError, UsageError
from nas.evaluate import Evaluator, describe_device, pick_device
from nas.objective import Reward, tightest, warnings
from nas.report import write_report
from nas.runs import Run
from nas.search import config as configs
from nas.search.config import SearchConfig
from nas.search.finalists import Finalist, best, measure_again
from nas.search.loop import Terms, run_loop
from nas.search.record import BUDGETED, TrialRecord, table
from nas.search.samplers import PRUNERS, SAMPLERS
from nas.search.study import describe, open_study, records, requeue_interrupted, values
from nas.space import SearchSpace, choices, decode, stored_choose
from nas.spec import ArchSpec
from nas.train.recipes import Recipe, from_document, load_recipe


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        run: Its folder. records: Every trial that ended. finalists: The best, measured again, the winner first.
        winner: The winning network. warnings: What the reader should know before trusting it.
    """

    run: Run
    records: tuple[TrialRecord, ...]
    finalists: tuple[Finalist, ...]
    winner: ArchSpec
    warnings: tuple[str, ...]


class Watcher:
    """Whoever wants to see a search go on overrides what interests them; the command line draws its progress so."""

    def packing(self, done: int, total: int) -> None:
        """Images have been decoded."""

    def started(self, run: Run, data: Dataset, facts: Mapping[str, Any], known: int) -> None:
        """The search begins, with `known` networks trained already."""

    def waiting(self) -> None:
        """Another run holds the device."""

    def phase(self, record: TrialRecord, phase: int, phases: int) -> None:
        """A phase of a trial begins."""

    def trial(self, record: TrialRecord) -> None:
        """A trial has ended."""

    def finalist(self, record: TrialRecord, seed: int) -> None:
        """A finalist is trained again."""


def search(config: SearchConfig | None = None, *, watcher: Watcher | None = None, **settings: Any) -> SearchResult:
    """Search a space for a network that is accurate and cheap to train, on this device.

    Args:
        config: The settings; or give them by name: `search(space="v2_tiny", budget=12)`.
        watcher: Sees the search go on.

    Raises:
        NasError: one of its kinds, for anything a user can mend.
    """
    if config is not None and settings:
        raise UsageError(f"search: found config and {', '.join(settings)}; give one or the other.")
    config = config or SearchConfig(**settings)
    (
        SAMPLERS[config.sampler](config.seed),
        PRUNERS[config.pruner],
    )  # what can be wrong is found before any work
    config.limits()
    space = catalog.load_space(config.space)
    recipe = load_recipe(config.recipe or space.recipe)
    return _run(config, space, recipe, None, watcher or Watcher())


def resume(folder: Path, *, budget: int | None = None, watcher: Watcher | None = None) -> SearchResult:
    """Continue a search from its folder, with its own settings; only the budget may be raised.

    Raises:
        RunError: no run there, or its data or device are not what they were.
    """
    run = runs.open_run(folder)
    if run.manifest["kind"] != "search":
        raise UsageError(f"--resume: {folder} is a {run.manifest['kind']} run, not a search.")
    config = configs.from_document(run.manifest["config"])
    if budget is not None:
        config = replace(config, budget=budget)
    space = catalog.load_space(run.path("space.yaml"))
    recipe = from_document(dict(run.manifest["recipe"]), where=str(run.path("manifest.json")))
    return _run(config, space, recipe, run, watcher or Watcher())


def _run(config: SearchConfig, space: SearchSpace, recipe: Recipe, run: Run | None, watcher: Watcher) -> SearchResult:
    device = pick_device(config.device)
    folder = run.folder if run else runs.new_folder(None, "search", f"{space.name}-{device.type}", config.out)
    with runs.owned(folder):
        try:
            return _owned(config, space, recipe, run, folder, device, watcher)
        except optuna.exceptions.StorageInternalError as error:
            cause = str(error.__cause__ or error).splitlines()[0]
            raise RunError(
                f"{folder / 'study.db'}: cannot be written ({cause}). Free space, make the folder writable, or wait until "
                f"another program has let go of it; then continue with: nas search --resume {folder}"
            ) from error


def _owned(
    config: SearchConfig,
    space: SearchSpace,
    recipe: Recipe,
    run: Run | None,
    folder: Path,
    device: torch.device,
    watcher: Watcher,
) -> SearchResult:
    limits = tightest(space.limits, config.limits())
    largest = max(int(float(mult) * space.max_resolution) for mult in space.resolution_mult.values)
    data = load_data(config.data, resolution=largest, seed=0, progress=watcher.packing)
    classes = {"num_classes": data.num_classes, "in_channels": data.in_channels}
    evaluator = Evaluator(
        data,
        recipe,
        device,
        baseline=catalog.baseline(space, **classes),
        limits=limits,
        w=config.w,
        timeout_s=config.trial_timeout_s,
        waiting=watcher.waiting,
    )
    reward = Reward(config.w, config.v, evaluator.ref_params())
    facts = _facts(config, space, recipe, data, device, evaluator, reward, limits)
    if run is None:
        run = runs.create(folder, "search", facts)
        runs.write_text(run.path("space.yaml"), yaml.safe_dump(_whole(space), sort_keys=False))
    else:
        runs.check_same(run, facts)
        run = runs.update(run, {"config": facts["config"]})  # the budget may have been raised
    study = open_study(folder, f"search-{space.name}", sampler=config.sampler, pruner=config.pruner, seed=config.seed)
    describe(
        study,
        {
            "run": str(folder),
            "space": f"{space.name} ({space.space_hash})",
            "data": f"{data.name} ({data.fingerprint})",
            "device": facts["device"]["name"],
            "recipe": recipe.name,
            "baseline": evaluator.baseline.name,
            "reward": f"val_accuracy * (step_time / baseline)^{reward.w:g} * (num_params / baseline)^{reward.v:g}",
        },
    )
    requeue_interrupted(study)
    known = records(study)
    everything = list(known)
    table_file = run.path("trials.csv")
    if known:  # a run killed between a trial's end and its row lacks the row
        runs.write_text(table_file, table(known).to_csv(index=False))
    watcher.started(run, data, facts, sum(record.kind in BUDGETED for record in known))

    def on_trial(record: TrialRecord) -> None:
        everything.append(record)
        runs.write_text(table_file, table(everything).to_csv(index=False))
        watcher.trial(record)

    engine = InlineEngine(evaluator)
    try:
        found = run_loop(
            study,
            engine,
            Terms(space, data.num_classes, data.in_channels, reward, config.budget, config.patience, config.seed),
            evaluator.num_phases,
            run,
            known,
            on_trial,
            lambda record, phase: watcher.phase(record, phase, recipe.progressive.phases),
        )
    finally:
        engine.close()
    return _ended(config, space, run, evaluator, reward, found, classes, watcher)


def _ended(
    config: SearchConfig,
    space: SearchSpace,
    run: Run,
    evaluator: Evaluator,
    reward: Reward,
    found: list[TrialRecord],
    classes: dict[str, int],
    watcher: Watcher,
) -> SearchResult:
    """Measure the best again, name the winner, write the report."""
    spent = sum(record.kind in BUDGETED for record in found)
    short = (
        f"{config.patience} suggestions in a row brought no new network, so the search ended after {spent} of "
        f"{config.budget}: the space is exhausted, or its rules and limits leave nothing. Widen them, or use another "
        "--sampler."
    )
    top = best(found, reward, config.top_k)
    if not top:
        kinds = ", ".join(sorted({record.kind for record in found}))
        reason = short if spent < config.budget else "Raise the budget or use --pruner none."
        raise SearchError(f"no network was trained to the end (trials: {kinds}). {reason}")
    specs = [(record, spec_of(record, space, **classes)) for record in top]
    seeds = range(config.seed + 1, config.seed + 1 + config.top_k_seeds)
    finalists = measure_again(specs, evaluator, reward, run, seeds, watcher.finalist)
    if finalists[0].outcome != "ok":
        ends = ", ".join(f"{item.record.arch_hash}: {item.outcome}" for item in finalists)
        raise SearchError(
            f"none of the best networks could be trained again ({ends}). Lower the recipe's batch_size or learning_rate, or "
            f"raise --top-k; the search itself is kept in {run.folder}."
        )
    notes = [short] if spent < config.budget else []
    notes += warnings([record.candidate() for record in found if record.kind == "trained"], reward)
    notes += [
        f"{item.record.arch_hash} failed when it was trained again ({item.outcome}); it comes last."
        for item in finalists
        if item.outcome != "ok"
    ]
    winner = next(spec for record, spec in specs if record.arch_hash == finalists[0].record.arch_hash)
    winner = replace(
        winner,
        name=f"{space.name}-winner-{winner.arch_hash[:6]}",
        reference=f"found by nas search, run {run.folder.name}",
    )
    runs.write_text(run.path("winner.yaml"), yaml.safe_dump(winner.document(), sort_keys=False))
    runs.write_json(run.path("warnings.json"), notes)
    write_report(run.folder)
    return SearchResult(run, tuple(found), tuple(finalists), winner, tuple(notes))


def spec_of(record: TrialRecord, space: SearchSpace, *, num_classes: int, in_channels: int) -> ArchSpec:
    """Return the network of a record, decoded again from its choices."""
    choose = stored_choose(values(choices(space), record.params))
    return decode(space, choose, num_classes=num_classes, in_channels=in_channels)


def _facts(
    config: SearchConfig,
    space: SearchSpace,
    recipe: Recipe,
    data: Dataset,
    device: torch.device,
    evaluator: Evaluator,
    reward: Reward,
    limits: tuple[Any, ...],
) -> dict[str, Any]:
    """Return what the manifest says of a run before any network is trained."""
    used = {"train": len(evaluator.data.train_labels), "val": len(evaluator.data.val_labels)}
    return {
        "space": space.name,
        "space_hash": space.space_hash,
        "baseline": {
            "name": evaluator.baseline.name,
            "num_params": reward.ref_params,
            "hash": evaluator.baseline.arch_hash,
        },
        "config": config.document(),
        "recipe": recipe.document(),
        "reward": {"w": reward.w, "v": reward.v},
        "limits": [vars(limit) for limit in limits],
        "sampler": config.sampler,
        "pruner": config.pruner,
        "seed": config.seed,
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "classes": data.num_classes,
            "channels": data.in_channels,
            "stored_size": data.size,
            "train_images": len(data.train.labels),
            "val_images": len(data.val.labels),
            "used_train_images": used["train"],
            "used_val_images": used["val"],
            "train_share": round(used["train"] / len(data.train.labels), 4),
            "notes": list(data.notes),
        },
        "device": describe_device(device),
        "torch": torch.__version__,
        "versions": {
            "phinas": nas.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "optuna", "numpy", "pandas")},
        },
        "command": " ".join(Path(item).name if index == 0 else item for index, item in enumerate(sys.argv)),
    }


def _whole(space: SearchSpace) -> Any:
    """Return the whole space as plain data, `extends` followed, so that the run does not depend on other files."""
    return yaml.safe_load(space.text)
