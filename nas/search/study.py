"""The Optuna study of a run: made, opened, read back as records. The process that owns the run is its only writer."""

from __future__ import annotations

import os
import shlex
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from nas.errors import NasError, RunError, UsageError
from nas.front import shown
from nas.runs import Run, open_run
from nas.search import database
from nas.search.record import TrialRecord, from_trial
from nas.search.samplers import PRUNERS, maker
from nas.search.samplers.known import Known
from nas.space import Domain
from nas.spec import Value

DATABASE = "study.db"


def storage_url(folder: Path) -> str:
    """Return the storage of a run: an SQLite file that the dashboard can read while the run goes on."""
    return f"sqlite:///{(folder / DATABASE).resolve()}"


FORMAT = 1
"""Of what a study of ours holds, and an attribute of it. It rises when an older program could not go on with the study."""

SCALING = "scale"
"""How the names of studies begin that a scaling adds to a run's database."""


def search_study(storage: str) -> optuna.Study:
    """Return the study of a search from its database, which may hold those of scalings besides.

    Raises:
        Exception: whatever SQLAlchemy raises on a file that is no database. KeyError: no such study in it.
    """
    kept = optuna.storages.get_storage(storage)  # one, so that no forgotten other one keeps the database open
    names = optuna.get_all_study_names(kept)
    own = [name for name in names if not name.startswith(SCALING)]
    if not own:
        raise KeyError("it holds no study of a search")
    return optuna.load_study(study_name=own[0], storage=kept)


def study_of(run: Run) -> optuna.Study:
    """Return the study of a search, to be read while it goes on or afterwards.

    Raises:
        RunError: it has none yet, or its database cannot be used.
    """
    url, name = run.manifest.get("config", {}).get("storage"), run.manifest.get("study")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url is None and not run.path(DATABASE).is_file():
        raise RunError(f"{run.folder}: has no study yet. Start it: nas search --resume {run.folder}")
    if url is None:
        return search_study(storage_url(run.folder))
    try:
        return optuna.load_study(study_name=name, storage=database.readable(database.checked(url)))
    except KeyError:
        raise RunError(
            f"{url}: has no study {name}. Start it: nas search --resume {run.folder}, or put the database back from a copy."
        ) from None
    except Exception as error:  # SQLAlchemy raises many kinds
        raise unusable(error, run.folder, url, "read") from error


def check_study(run: Run | None, storage: str | None) -> None:
    """Refuse, before any work, a database that cannot be used, and to continue without the records that were made.

    Args:
        run: That is continued; None where one begins. storage: URL of the database; None is the file in the run's folder.

    Raises:
        RunError: the database or the records are not there. UsageError: a run in a file is to go on in a database.
    """
    name = None if run is None else run.manifest.get("study")
    if run is not None and storage is not None and run.manifest["config"].get("storage") is None:
        raise UsageError(
            f"--storage: found {database.redacted(storage)}, but the study of {run.folder} is the file {DATABASE} in it. Leave "
            "the option out, or take the results over into a new run with --warm-start."
        )
    if storage is None:
        where, there = DATABASE if run is None else str(run.path(DATABASE)), run is None or run.path(DATABASE).exists()
    else:
        where = f"study {name} in {database.redacted(storage)}"
        try:
            kept = database.readable(storage)
            there = name in optuna.get_all_study_names(kept)
            kept.engine.dispose()
        except Exception as error:  # SQLAlchemy raises many kinds
            folder, go_on = (Path(), "then give the same command again.") if run is None else (run.folder, None)
            raise unusable(error, folder, storage, "reached", go_on) from error
    if run is not None and run.path("trials.csv").exists() and not there:
        raise RunError(
            f"{where}: is not there, but trials.csv is: the records of the run cannot be continued without it "
            "(published runs have none). Put it back, or start a new run."
        )


def unusable(
    error: Exception, folder: Path, storage: str | None, what: str = "written", go_on: str | None = None
) -> NasError:
    """Return what a user is to do about a study that cannot be used.

    Args:
        folder: Of the run. storage: URL of the database; None is the file in the folder.
        what: What cannot be done. go_on: The end of the sentence, in place of how a search is continued.
    """
    if isinstance(error, NasError):
        return error
    cause = database.redacted(str(error.__cause__ or error).splitlines()[0])
    where = str(folder / DATABASE) if storage is None else database.redacted(storage)
    go_on = go_on or f"then continue with: nas search --resume {shlex.quote(str(folder))}"
    if "no longer compatible" in cause:  # Optuna's own sentence says what to do
        url = storage_url(folder) if storage is None else where
        return RunError(
            f"{where}: {cause.strip().replace('$STORAGE_URL', shlex.quote(url))} Keep a copy of it; {go_on}"
        )
    todo = "Free space, make the folder writable, or wait until another program has let go of it"
    if "malformed" in cause or "not a database" in cause:
        todo = "The file is damaged: put it back from a copy (trials.csv has what it held)"
    return RunError(
        f"{where}: cannot be {what} ({cause}). {todo if storage is None else database.remedy(cause)}; {go_on}"
    )


def open_study(
    folder: Path,
    name: str,
    *,
    sampler: str,
    pruner: str,
    seed: int,
    known: Known | None = None,
    costs: Sequence[str] = (),
    storage: str | None = None,
) -> optuna.Study:
    """Make or load the study of a run, with a sampler that does not repeat itself.

    A seeded sampler that is made anew would suggest its first networks again; its seed therefore moves with the number
    of trials that the study has.

    Args:
        known: What the sampler may know of the space; None in a study that is only read.
        costs: That accuracy is traded against, each an objective of the study; without any it has one, the reward.
        storage: URL of a PostgreSQL database, in place of the file in the folder.

    Raises:
        UnknownNameError: no such sampler or pruner. UsageError: a sampler that takes one objective only.
        RunError: the database cannot be opened, another process owns the study, or a newer version wrote it.
    """
    make, prune = maker(sampler, costs), PRUNERS[pruner]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    # A trial that is continued says again what it has said before; the study keeps the first word.
    warnings.filterwarnings("ignore", message="The (constraint|reported) value is ignored")
    try:
        study = optuna.create_study(
            storage=_storage(folder) if storage is None else database.owned(storage, name),
            study_name=name,
            directions=[StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * len(costs)],
            load_if_exists=True,
            pruner=prune(),
        )
        if costs and study.metric_names is None:
            study.set_metric_names(["val_accuracy", *map(shown, costs)])
        _check_format(study, folder)
        trials = len(study.get_trials(deepcopy=False))
    except Exception as error:  # SQLAlchemy raises many kinds; each means that this is no usable database
        raise unusable(error, folder, storage, "opened as a study") from error
    study.sampler = make(seed + trials, known)
    return study


def _check_format(study: optuna.Study, folder: Path) -> None:
    """Mark a new or an older study with the format that it has from now on; refuse one that a newer version wrote."""
    found = study.user_attrs.get("format")
    if found is None:  # studies before the attribute hold the same
        study.set_user_attr("format", FORMAT)
    elif found != FORMAT:
        raise RunError(
            f"{folder}: its study was written by a newer version (format {found}; this program reads {FORMAT}). Continue it "
            "with the version that wrote it: versions.phinas in manifest.json names it."
        )


class _Unhurried(sqlite3.Connection):
    """The owner's connection to its study: a write-ahead log, and no wait for the disk at each of its many transactions.

    Optuna stores every choice and every attribute in a transaction of its own, some 70 in a trial, and by default SQLite waits
    for the disk several times in each. What is in the log survives a kill -9 all the same; `settle` is called where it is to
    survive a power cut too. Readers (the dashboard) do not stop the writer, nor it them.
    Source: https://www.sqlite.org/wal.html, sections 1 and 3.1; https://www.sqlite.org/pragma.html#pragma_synchronous.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        (mode,) = self.execute("PRAGMA journal_mode = WAL").fetchone()
        if (
            mode == "wal"
        ):  # where the file system cannot, the mode stays what it was: slow, and sound only with its waits
            self.execute("PRAGMA synchronous = NORMAL")


def _storage(folder: Path) -> optuna.storages.RDBStorage:
    """Return the storage of a run for the process that writes it."""
    return optuna.storages.RDBStorage(storage_url(folder), {"connect_args": {"factory": _Unhurried}})


def in_file(study: optuna.Study) -> bool:
    """Whether a study is an SQLite file, which waits for the disk only when it is told to."""
    backend = getattr(study._storage, "_backend", None)
    return isinstance(backend, optuna.storages.RDBStorage) and backend.engine.dialect.name == "sqlite"


def settle(path: Path) -> None:
    """Wait until all that has been written to a study is on the disk, so that a power cut does not undo it.

    What has been written lies in the log, or was waited for when it left the log for the database. A checkpoint of the log would
    not do: while somebody reads, it goes on without the rest, and without waiting.
    Source: https://www.sqlite.org/wal.html, sections 2.1 and 3.1.

    Raises:
        StorageInternalError: the disk is full, or cannot be written, as of any other write to the study.
    """
    try:
        # The database itself is never opened here: to close it would drop the locks that SQLite has on it in this process.
        handle = os.open(_log(path), os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and path.exists():
            return  # a study without a log waits for the disk by itself
        raise optuna.exceptions.StorageInternalError(str(error)) from error


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def without_log(path: Path) -> bool:
    """Whether a study's file holds all of it: no write-ahead log lies beside it, or an empty one."""
    log = _log(path)
    return not log.exists() or not log.stat().st_size


def close_study(study: optuna.Study, folder: Path, say: Callable[[str], object]) -> None:
    """Leave the study of a run as one plain file, which can be copied, and read where nobody may write.

    Args:
        say: Told in a sentence if that is not possible, for somebody reads it or the disk is full. What the study holds is then
            moved from the log into the file all the same, as far as it can be.
    """
    study._storage.remove_session()
    backend = getattr(study._storage, "_backend", None)
    if isinstance(backend, optuna.storages.RDBStorage):
        backend.engine.dispose()
    if not in_file(study):
        return
    path = folder / DATABASE
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=0)) as connection:
            try:
                connection.execute("PRAGMA journal_mode = DELETE")
            except sqlite3.Error:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                raise
    except sqlite3.Error as error:
        say(
            f"{path}: stays with {path.name}-wal and -shm, which belong to it: another program, such as a dashboard, "
            f"reads it, or it cannot be written ({error}). The end of `nas dashboard` makes it one file; until then copy it "
            f"with: sqlite3 {DATABASE} '.backup copy.db'"
        )


def describe(study: optuna.Study, facts: Mapping[str, str]) -> None:
    """Store what the dashboard shows of a whole study; what is there already is left alone."""
    known = study.user_attrs
    for name, text in facts.items():
        if known.get(name) != text:
            study.set_user_attr(name, text)


def distributions(choices: Mapping[str, Domain]) -> dict[str, BaseDistribution]:
    """Return what the sampler sees of each choice: an ordered domain as its indices, another as categories."""
    return {
        name: IntDistribution(0, len(domain.values) - 1) if domain.ordered else CategoricalDistribution(domain.values)
        for name, domain in choices.items()
    }


def values(choices: Mapping[str, Domain], params: Mapping[str, Value]) -> dict[str, Value]:
    """Turn a trial's parameters back into values: an index of an ordered domain into the value at it."""
    return {
        name: domain.values[int(params[name])] if domain.ordered else params[name] for name, domain in choices.items()
    }


def records(study: optuna.Study) -> list[TrialRecord]:
    """Return the records of all trials that have ended, by number."""
    found = (from_trial(trial) for trial in study.get_trials(deepcopy=False))
    return [record for record in found if record is not None]


def running(study: optuna.Study, choices: Iterable[str]) -> list[optuna.Trial]:
    """Return the trials that were in flight when the run ended last, to be continued under their own numbers.

    A trial that was cut off while its choices were being made has measured nothing: it is closed as failed, which samplers
    pass over, and queued again if its choices were a user's.

    Args:
        choices: Names of all choices of the space.
    """
    found = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if set(trial.params) == set(choices):
            found.append(optuna.Trial(study, trial._trial_id))
            continue
        wanted = trial.system_attrs.get("fixed_params")
        if wanted:
            study.enqueue_trial(wanted, user_attrs=trial.user_attrs)
        study.tell(trial.number, state=TrialState.FAIL)
    return found


@dataclass(frozen=True)
class Row:
    """A finished evaluation that a study is to show.

    Args:
        key: Tells it apart from others; a study holds each key once.
        params: Numbers by name, with the range of each.
        value: What is maximized; None where it has none (it failed).
        steps: The value after each phase. attributes: What the dashboard shows beside it.
    """

    key: str
    params: Mapping[str, tuple[float, float, float]]
    value: float | None
    steps: Sequence[float]
    attributes: Mapping[str, str | float | int]


def mirror(folder: Path, name: str, rows: Sequence[Row], facts: Mapping[str, str]) -> None:
    """Write finished evaluations into a study of a run's database, each once, for the dashboard; the study is made if needed.

    Where the run's own study is in a PostgreSQL database, so is this one, under a name that says of which run it is.

    Raises:
        RunError: the database cannot be opened or written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    manifest = open_run(folder).manifest
    storage = manifest.get("config", {}).get("storage")
    try:
        kept: Any = storage_url(folder)
        if storage is not None:
            kept, name = database.readable(database.checked(storage)), f"{name} of {manifest['study']}"
        study = optuna.create_study(storage=kept, study_name=name, direction="maximize", load_if_exists=True)
        describe(study, facts)
        there = {trial.user_attrs.get("key") for trial in study.get_trials(deepcopy=False)}
        for row in rows:
            if row.key in there:
                continue
            study.add_trial(
                create_trial(
                    state=TrialState.PRUNED if row.value is None else TrialState.COMPLETE,
                    value=row.value,
                    params={key: value for key, (value, _, _) in row.params.items()},
                    distributions={key: FloatDistribution(low, high) for key, (_, low, high) in row.params.items()},
                    user_attrs={"key": row.key, **row.attributes},
                    intermediate_values=dict(enumerate(row.steps, 1)),
                )
            )
    except Exception as error:  # SQLAlchemy raises many kinds; each means that this is no usable database
        raise unusable(error, folder, storage, go_on="then give the same command again.") from error
