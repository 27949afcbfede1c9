"""One search, from settings to winner: opens the run, loads the data, runs the loop, measures again, reports."""

from __future__ import annotations

import multiprocessing
import os
import shlex
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import yaml

from nas import catalog, runs
from nas.cost import count
from nas.data import Dataset, is_found, located
from nas.data import load as load_data
from nas.engine import WORKER, Engine, PhaseBug, Place, checkpoints, place_of
from nas.errors import DeviceError, RunError, SearchError, UsageError
from nas.evaluate import Setup, check_limits
from nas.objective import Reward, few_images, guessing, tightest, warnings
from nas.owner import owned
from nas.report import write_report
from nas.report.front import named
from nas.runs import Run
from nas.search import begin, front
from nas.search import config as configs
from nas.search.config import SearchConfig
from nas.search.facts import manifest
from nas.search.finalists import best, finalists_before, measure_again
from nas.search.loop import Terms, run_loop, saved_bug
from nas.search.machine import on_this_cpu, too_many
from nas.search.permitted import known_of
from nas.search.record import LiveTable, TrialRecord, table
from nas.search.samplers import PRUNERS, maker
from nas.search.study import check_study, close_study, describe, open_study, records, unusable, values
from nas.search.watcher import SearchResult, Watcher
from nas.space import SearchSpace, choices, decode, stored_choose
from nas.spec import ArchSpec
from nas.train.preflight import check_asked
from nas.train.recipes import Recipe, from_document, load_recipe


def search(config: SearchConfig | None = None, *, watcher: Watcher | None = None, **settings: Any) -> SearchResult:
    """Search a space for a network that is accurate and cheap to train, on this device.

    Args:
        config: The settings; or give them by name: `search(space="v2_tiny", budget=12)`.
        watcher: Sees the search go on.

    Raises:
        NasError: one of its kinds, for anything a user can mend.
    """
    if multiprocessing.current_process().name.startswith(WORKER):
        raise UsageError(
            'search: found in a worker process of a search; put the call below `if __name__ == "__main__":`, for every '
            "worker imports the script."
        )
    if config is not None and settings:
        raise UsageError(f"search: found config and {', '.join(settings)}; give one or the other.")
    config = config or configs.from_settings(settings, "search")
    _ = maker(config.sampler, config.cost_names())(config.seed, None), PRUNERS[config.pruner]  # found before any work
    config.limits()
    check_asked(config.steps)
    space = catalog.load_space(config.space)
    begin.check_enqueue(space, config.enqueue)
    if config.warm_start is not None:
        reopened(config.warm_start)
    watcher = watcher or Watcher()
    recipe = load_recipe(config.recipe or space.recipe)
    config, recipe = on_this_cpu(config, recipe, watcher.note, watcher.waiting)
    config = replace(config, data=located(config.data))  # the run may be continued from another folder
    return _run(config, space, recipe, None, watcher)


def resume(
    folder: Path,
    *,
    budget: int | None = None,
    devices: str | None = None,
    data: str | os.PathLike[str] | None = None,
    storage: str | None = None,
    engine: str | None = None,
    address: str | None = None,
    gpus_per_trial: float | None = None,
    skip_bugs: bool = False,
    watcher: Watcher | None = None,
) -> SearchResult:
    """Continue a search from its folder, with its own settings.

    Args:
        budget: A higher one. devices: Others of the same kind, or another number of them.
        data: Where the same images are now, if they have moved. storage: The same of its database, or with the password.
        engine, address, gpus_per_trial: Another place with devices of that kind.
        skip_bugs: List the networks that the program failed on as failed, in place of trying them again.

    Raises:
        RunError: no run there, or its data or device are not what they were.
    """
    run, space, recipe = reopened(folder)
    config = configs.from_document(run.manifest["config"])
    config = replace(
        config,
        budget=budget or config.budget,
        devices=devices or config.devices,
        **begin.moved(config, engine, address, gpus_per_trial),
        data=config.data if data is None else located(os.fspath(data)),
        storage=storage or config.storage,
    )
    if data is None and not is_found(config.data):
        raise RunError(
            f"{folder}: its images are not at {config.data}, where they were. Put them back, or say where they are now: "
            f"nas search --resume {shlex.quote(str(folder))} --data PATH"
        )
    skipped = (
        frozenset(path.stem.removeprefix("bug-") for path in folder.glob("bug-*.yaml")) if skip_bugs else frozenset()
    )
    return _run(config, space, recipe, run, watcher or Watcher(), skipped)


def reopened(folder: Path) -> tuple[Run, SearchSpace, Recipe]:
    """Return a search that was begun, with its own space and recipe.

    Raises:
        RunError: no run there. UsageError: not a search.
    """
    run = runs.open_search(folder)
    space = catalog.load_space(run.path("space.yaml"))
    return run, space, from_document(dict(run.manifest["recipe"]), where=str(run.path("manifest.json")))


def setup_of(
    config: SearchConfig, space: SearchSpace, recipe: Recipe, packing: Callable[[int, int], None]
) -> tuple[Setup, Dataset]:
    """Load the data of a search, and return it with what its evaluators are made from.

    Raises:
        DataError: images that cannot be used.
    """
    largest = space.largest_input
    data = load_data(config.data, resolution=largest, seed=0, progress=packing, skip_broken=config.skip_broken)
    setup = Setup(
        source=config.data,
        data_resolution=largest,
        skip_broken=config.skip_broken,
        fingerprint=data.fingerprint,
        recipe=recipe,
        baseline=catalog.baseline(space, num_classes=data.num_classes, in_channels=data.in_channels),
        limits=tightest(space.limits, config.limits()),
        w=config.w,
        timeout_s=config.trial_timeout_s,
        latency_batch_size=config.latency_batch_size,
    )
    return setup, data


def _run(
    config: SearchConfig,
    space: SearchSpace,
    recipe: Recipe,
    run: Run | None,
    watcher: Watcher,
    skipped: frozenset[str] = frozenset(),
) -> SearchResult:
    place = place_of(
        config.engine,
        config.devices,
        address=config.address,
        gpus_per_trial=config.gpus_per_trial,
        before=None if run is None else run.manifest,
        say=watcher.note,
    )
    with closing(place):
        folder = (
            run.folder if run else runs.new_folder(None, "search", f"{space.name}-{place.devices[0].type}", config.out)
        )
        return _held(config, space, recipe, run, folder, place, watcher, skipped)


def _held(
    config: SearchConfig,
    space: SearchSpace,
    recipe: Recipe,
    run: Run | None,
    folder: Path,
    place: Place,
    watcher: Watcher,
    skipped: frozenset[str],
) -> SearchResult:
    """Search with the folder held, and say of what can be mended how the search goes on."""
    with owned(folder):
        try:
            check_study(run, config.storage)
            return _owned(config, space, recipe, run, folder, place, watcher, skipped)
        except DeviceError as error:
            if not (folder / "manifest.json").exists():
                raise
            raise DeviceError(f"{error} Continue with: nas search --resume {shlex.quote(str(folder))}") from error
        except optuna.exceptions.StorageInternalError as error:
            raise unusable(error, folder, config.storage) from error


def _owned(
    config: SearchConfig,
    space: SearchSpace,
    recipe: Recipe,
    run: Run | None,
    folder: Path,
    place: Place,
    watcher: Watcher,
    skipped: frozenset[str],
) -> SearchResult:
    setup, data = setup_of(config, space, recipe, watcher.packing)
    check_limits(setup.limits, place.devices[0])
    reward = Reward(config.w, config.v, float(count(setup.baseline).params))
    before = None if run is None else run.manifest
    steps, doubt = place.steps(config.steps, before, setup.baseline, recipe, watcher.waiting)
    setup = replace(setup, steps=steps)
    device = place.describe(steps) | recipe.computation(place.devices[0].type)
    facts = manifest(config, space, setup, data, device, reward)
    facts["remarks"] = [doubt] if doubt else []
    source = None if run is not None or config.warm_start is None else begin.read(config.warm_start, facts)
    if run is None:
        # The whole space, `extends` followed, so that the run does not depend on other files.
        runs.write_text(folder / "space.yaml", yaml.safe_dump(yaml.safe_load(space.text), sort_keys=False))
        run = runs.create(folder, "search", facts)  # a run has begun when it has a manifest
    else:
        runs.check_same(run, facts)
        # The budget, the devices, the place of the images or of the database may be others.
        run = runs.update(run, {"config": facts["config"]})
    watcher.opened(run)
    costs = config.cost_names()
    classes = {"num_classes": data.num_classes, "in_channels": data.in_channels}
    study = open_study(
        folder,
        run.manifest.get("study", f"search-{space.name}"),
        sampler=config.sampler,
        pruner=config.pruner,
        seed=config.seed,
        known=known_of(space, setup.limits, **classes, skipped=skipped),
        costs=costs,
        storage=config.storage,
    )
    describe(
        study,
        {
            "run": str(folder),
            "space": f"{space.name} ({space.space_hash})",
            "data": f"{data.name} ({data.fingerprint})",
            "device": facts["device"]["name"],
            "recipe": recipe.name,
            "baseline": setup.baseline.name,
            "reward": f"val_accuracy * (step_time / baseline)^{reward.w:g} * (num_params / baseline)^{reward.v:g}",
            **({"objective": f"val_accuracy against {named(costs)}"} if costs else {}),
        },
    )
    if config.warm_start and "warm_start" not in study.user_attrs:
        said = begin.warm_start(
            study, source or begin.read(config.warm_start, facts), space, reward, setup.limits, costs
        )
        describe(study, {"warm_start": said})
    if config.enqueue and "enqueue" not in study.user_attrs:
        describe(study, {"enqueue": begin.enqueue(study, space, config.enqueue)})
    known = records(study)
    table_file = run.path("trials.csv")
    if known:  # a run killed between a trial's end and its row lacks the row
        runs.write_text(table_file, table(known).to_csv(index=False))
    live = LiveTable(table_file, known)
    watcher.started(run, data, facts, tuple(known))
    for remark in (*too_many(config.devices, place.devices), *run.manifest.get("remarks", ())):
        watcher.note(remark)
    for name in ("warm_start", "enqueue"):
        if name in study.user_attrs:
            watcher.note(study.user_attrs[name])

    def on_trial(record: TrialRecord) -> None:
        live.add(record)
        watcher.trial(record)

    num_phases = recipe.progressive.phases
    terms = Terms(
        space=space,
        **classes,
        reward=reward,
        num_phases=num_phases,
        budget=config.budget,
        patience=config.patience,
        seed=config.seed,
        top_k=config.top_k,
        skipped=skipped,
        limits=setup.limits,
        costs=costs,
    )
    folder_of = run.path(checkpoints.FOLDER)
    engine = place.engine(setup, data, checkpoints=folder_of, say=watcher.note, waiting=watcher.waiting)
    try:
        found = run_loop(
            study, engine, terms, run, known, on_trial, lambda record, phase: watcher.phase(record, phase, num_phases)
        )
        runs.write_text(table_file, table(sorted(found, key=lambda record: record.number)).to_csv(index=False))
        return _ended(config, space, run, engine, terms, found, classes, begin.unheard(study, found), watcher)
    finally:
        engine.close()
        close_study(study, folder, watcher.note)


def _ended(
    config: SearchConfig,
    space: SearchSpace,
    run: Run,
    engine: Engine,
    terms: Terms,
    found: list[TrialRecord],
    classes: dict[str, int],
    unheard: list[str],
    watcher: Watcher,
) -> SearchResult:
    """Measure the best again, name the winner, write the report."""
    spent, reward = sum(record.costs_budget for record in found), terms.reward
    short = (
        f"{config.patience} suggestions in a row brought no new network, so the search ended after {spent} of "
        f"{config.budget}: the space is exhausted, or its rules and limits leave nothing. Widen them, or use another "
        "--sampler."
    )
    top = best(found, reward, config.top_k, terms.skipped, terms.costs)
    if not top:
        kinds = ", ".join(sorted({record.kind for record in found}))
        reason = short if spent < config.budget else "Raise the budget or use --pruner none."
        raise SearchError(f"no network was trained to the end (trials: {kinds}). {reason}")
    seeds = range(config.seed + 1, config.seed + 1 + config.top_k_seeds)
    top += [record for record in finalists_before(found, run, seeds) if record not in top]
    specs = [(record, spec_of(record, space, **classes)) for record in top]
    try:
        finalists = measure_again(specs, engine, terms.num_phases, reward, run, seeds, watcher.finalist, terms.costs)
    except PhaseBug as bug:
        raise saved_bug(run, bug, "a finalist") from bug
    if finalists[0].outcome != "ok":
        ends = ", ".join(f"{item.record.arch_hash}: {item.outcome}" for item in finalists)
        raise SearchError(
            f"none of the best networks could be trained again ({ends}). Lower the recipe's batch_size or learning_rate, or "
            f"raise --top-k; the search itself is kept in {run.folder}."
        )
    notes = [*run.manifest.get("remarks", ()), *([short] if spent < config.budget else []), *unheard]
    notes += few_images(run.manifest["data"]["used_val_images"], run.manifest["data"]["val_images"])
    sure = max(finalists, key=lambda item: item.accuracy) if terms.costs else finalists[0]
    notes += guessing(sure.accuracy, sure.accuracy_error, classes["num_classes"])
    if terms.costs:
        notes += front.doubts(found, terms.costs, config.top_k)
        front.write_members(run, specs, finalists, terms.costs)
    else:
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
