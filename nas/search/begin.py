"""What a search begins with besides the sampler's own ideas: results of another run, and networks to train first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.trial import TrialState, create_trial

from nas import catalog, runs
from nas.errors import NasError, RunError, SpaceError
from nas.objective import Reward, score_of, slacks
from nas.search.config import SearchConfig
from nas.search.record import TrialRecord
from nas.search.study import distributions, records, search_study, study_of, values, without_log
from nas.space import Limit, SearchSpace, choices, decode, encode, stored_choose
from nas.space.units import COST_UNITS
from nas.spec import ArchSpec, Value


@dataclass(frozen=True)
class Source:
    """What another run holds: its networks trained to the end or in part, and the space that they were drawn from."""

    folder: Path
    space: SearchSpace
    records: tuple[TrialRecord, ...]
    classes: Mapping[str, int]


def read(folder: Path, facts: Mapping[str, Any]) -> Source:
    """Read the trained networks of another run, and leave it as it is.

    Args:
        facts: This run's manifest.

    Raises:
        RunError: no run there, or it was made under other conditions.
    """
    other = runs.open_search(folder)
    runs.check_same(other, facts, runs.SAME_RESULTS, "used for a warm start")
    database = other.path("study.db")
    elsewhere = other.manifest["config"].get("storage") is not None
    if not elsewhere and not database.is_file():
        raise RunError(
            f"{database}: is not there, and results are taken from it. Give the folder of a run as it was searched."
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        found = records(study_of(other)) if elsewhere else _records(database)
    except NasError:
        raise
    except Exception as error:  # SQLAlchemy raises many kinds; each means that the file is no usable database
        raise RunError(
            f"{database}: cannot be read as a study ({str(error).splitlines()[0]}). If that run was killed, continue it "
            f"first, in a copy of its folder if this one cannot be written: nas search --resume {folder}"
        ) from error
    batches = [content["config"].get("latency_batch_size", 1) for content in (other.manifest, facts)]
    if batches[0] != batches[1]:  # those latencies are of another batch, and cannot be held against this run's limit
        found = [replace(record, latency_ms=None, latency_mad_ms=None, latency_n=None) for record in found]
    return Source(
        folder,
        catalog.load_space(other.path("space.yaml")),
        tuple(record for record in found if record.kind in ("trained", "pruned")),
        {"num_classes": facts["data"]["classes"], "in_channels": facts["data"]["channels"]},
    )


def _records(database: Path) -> list[TrialRecord]:
    """Return the records of another run's study, and write nothing.

    A study that was read while its run ended may still say that it has a log. SQLite would make one in order to read it, which
    fails in a folder that cannot be written. Where no log lies there, it is told that nothing changes meanwhile.
    Source: https://www.sqlite.org/wal.html, section 5.
    """
    url = f"sqlite:///file:{quote(str(database.resolve()))}?mode=ro&uri=true"
    try:
        return records(search_study(url))
    except Exception:
        if not without_log(database):
            raise
        return records(search_study(f"{url}&immutable=1"))


def warm_start(
    study: optuna.Study,
    source: Source,
    space: SearchSpace,
    reward: Reward,
    limits: Sequence[Limit],
    costs: Sequence[str] = (),
) -> str:
    """Take the trained networks of another run over into a study, once, and return a sentence about it.

    They answer duplicates and teach the sampler, and cost no budget. Networks that this space does not hold, that break a
    limit of this run, or of which a limited cost was not measured, are left behind. Scores are computed anew from the raw
    values, with this run's exponents.

    Args:
        costs: That this run trades accuracy against. Networks that were stopped early are then left behind too: an accuracy of
            an earlier phase does not belong on a front.
    """
    known = {record.origin for record in records(study)}
    taken = unmeasured = 0
    wanting: set[str] = set()
    for record in source.records:
        origin = record.origin or f"{source.folder} trial {record.number}"
        params, known_costs = _translated(record, source, space), _costs(record)
        if costs and record.kind != "trained":
            continue
        if params is None or any(slack > 0 for slack in slacks(known_costs, limits).values()):
            continue
        if absent := {limit.cost for limit in limits} - set(known_costs):
            unmeasured += 1
            wanting |= absent
            continue
        taken += 1
        if origin not in known:  # a run that was killed here goes on where it stood
            study.add_trial(_trial(replace(record, origin=origin, foreseen_ms=None), params, space, reward, costs))
    left = len(source.records) - taken - unmeasured
    where = "outside this space or its limits" + (", or were stopped early" if costs else "")
    beyond = f"; {left} lie {where}" if left else ""
    if unmeasured:
        beyond += f"; of {unmeasured} it did not measure what is limited here ({', '.join(sorted(wanting))})"
    return f"{taken} of {len(source.records)} trained networks of {source.folder} are taken over{beyond}. They cost no budget."


def _translated(record: TrialRecord, source: Source, ours: SearchSpace) -> dict[str, Value] | None:
    """Return the choices of our space that make a record's network, as the sampler sees them; None where there are none."""
    if ours.space_hash == source.space.space_hash:
        return dict(record.params)
    spec = decode(source.space, stored_choose(values(choices(source.space), record.params)), **source.classes)
    try:
        return _params(ours, spec)
    except SpaceError:
        return None


def _params(space: SearchSpace, spec: ArchSpec) -> dict[str, Value]:
    """Return the choices that make a network, as the sampler sees them."""
    found = encode(space, spec)
    return {
        name: domain.values.index(found[name]) if domain.ordered else found[name]
        for name, domain in choices(space).items()
    }


def _costs(record: TrialRecord) -> dict[str, float]:
    known = {name: getattr(record, name) for name in COST_UNITS}
    return {name: value for name, value in known.items() if value is not None}


def _trial(
    record: TrialRecord, params: dict[str, Value], space: SearchSpace, reward: Reward, costs: Sequence[str]
) -> optuna.trial.FrozenTrial:
    """Return a finished trial of this run with another run's raw values."""
    last = record.candidate()
    rounded = [replace(last, val_accuracy=float(accuracy)) for accuracy in record.phase_accuracy.split()]
    scores = [score_of(item, reward) for item in (*rounded[:-1], last)]
    trained = record.kind == "trained"
    return create_trial(
        state=TrialState.COMPLETE if trained else TrialState.PRUNED,
        values=None if not trained else record.point(costs) if costs else [scores[-1]],
        params=params,
        distributions=distributions(choices(space)),
        user_attrs=replace(record, reward=scores[-1]).attributes() | {"feasible": "yes"},
        intermediate_values={} if costs else dict(enumerate(scores, 1)),
    )


def moved(
    config: SearchConfig, engine: str | None, address: str | None, gpus_per_trial: float | None
) -> dict[str, Any]:
    """Return the settings that say where a continued run goes on; what belongs to a cluster ends with it."""
    if engine == "local":
        return {"engine": engine, "address": address or "auto", "gpus_per_trial": gpus_per_trial or 1.0}
    given = {"engine": engine, "address": address, "gpus_per_trial": gpus_per_trial}
    return {name: getattr(config, name) if value is None else value for name, value in given.items()}


def check_enqueue(space: SearchSpace, names: Sequence[str]) -> None:
    """Refuse networks that a space does not hold, before any work.

    Raises:
        SpaceError: not in the space, or no network. UnknownNameError: no such file or name.
    """
    for name in names:
        _params(space, catalog.load_arch(name))


def enqueue(study: optuna.Study, space: SearchSpace, names: Sequence[str]) -> str:
    """Queue networks to be trained before the sampler is asked, once, and return a sentence about it."""
    queued = {trial.user_attrs.get("enqueued") for trial in study.get_trials(deepcopy=False)}
    for name in names:
        if name not in queued:
            study.enqueue_trial(_params(space, catalog.load_arch(name)), user_attrs={"enqueued": name})
    return f"Trained first: {', '.join(names)}."


def unheard(study: optuna.Study, found: Sequence[TrialRecord]) -> list[str]:
    """Say of each queued network that has no result why."""
    by_number = {record.number: record for record in found}
    said = []
    for trial in study.get_trials(deepcopy=False):
        name, record = trial.user_attrs.get("enqueued"), by_number.get(trial.number)
        if name is None or trial.state == TrialState.FAIL:  # such a trial was queued again
            continue
        if record is None:
            said.append(
                f"{name}, given with --enqueue, was not reached within the budget. Raise it: --resume RUN --budget N."
            )
            continue
        first = by_number.get(-1 if record.duplicate_of is None else record.duplicate_of, record)
        if first.kind != "trained":
            said.append(f"{name}, given with --enqueue, was not trained to the end: {first.kind} ({first.reason}).")
    return said
