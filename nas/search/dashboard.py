"""Open optuna-dashboard on a run, with our picture saved into the study."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import optuna
from optuna.storages import BaseStorage

from nas.errors import RunError, UsageError
from nas.owner import owned
from nas.runs import open_run, open_search
from nas.search import database
from nas.search.record import TrialRecord
from nas.search.study import close_study, records, storage_url, study_of, unusable

NOT_INSTALLED = "nas dashboard: optuna-dashboard is not installed. Run: pip install 'phinas[dashboard]'"


def serve(source: str | Path, *, host: str, port: int, say: Callable[[str], object]) -> None:
    """Serve the dashboard of a run, or of all studies of a PostgreSQL database, until it is interrupted.

    Args:
        source: The run's folder, or the URL of the database.

    Raises:
        RunError: no run there, or the port is taken. UsageError: a training, or optuna-dashboard is not installed.
    """
    if "://" in str(source):
        shown = database.redacted(str(source))
        try:
            kept = database.readable(database.checked(str(source)))
        except Exception as error:  # SQLAlchemy raises many kinds
            raise unusable(error, Path(), str(source), "read", "then give the same command again.") from error
        _serve(kept, shown, host, port, say)
        return
    folder = Path(source)
    run = open_run(folder)
    if run.manifest.get("kind") == "scale":  # its study lies with that of its search, where there is one
        folder = (folder / run.manifest["study"]).resolve()
        run = open_run(folder)
    if run.manifest.get("kind") == "scale":
        if not run.path("study.db").is_file():
            raise RunError(f"{folder}: has no study, for nothing was trained (--coefficients). Name another run.")
        study = optuna.load_study(study_name=None, storage=optuna.storages.get_storage(storage_url(folder)))
    else:
        study = save_plot(open_search(folder).folder)
    try:
        _serve(study._storage, f"{folder} ({study.study_name})", host, port, say)
    finally:
        # A run that ended meanwhile could not make its study one plain file; one that goes on does so when it ends.
        with suppress(RunError), owned(folder):
            close_study(study, folder, say)


def _serve(storage: BaseStorage, shown: str, host: str, port: int, say: Callable[[str], object]) -> None:
    try:
        from optuna_dashboard import run_server
    except ImportError:
        raise UsageError(NOT_INSTALLED) from None
    say(f"dashboard of {shown}: http://{host}:{port}  (Ctrl-C ends it)")
    if not _loopback(host):
        say(f"note: --host {host} is not this machine alone: who reaches it can read and change the study, unasked.")
    try:
        run_server(storage, host=host, port=port)
    except OSError as error:
        raise RunError(f"{host}:{port}: cannot listen there ({error.strerror}). Try another --port.") from None


def save_plot(folder: Path) -> optuna.Study:
    """Save the plot of accuracy against step time into the study of a run, and return the study.

    Raises:
        RunError: no run there. UsageError: optuna-dashboard is not installed.
    """
    run = open_run(folder)
    try:
        import plotly.graph_objects as go
        from optuna_dashboard import save_plotly_graph_object
    except ImportError:
        raise UsageError(NOT_INSTALLED) from None
    study = study_of(run)
    found = [record for record in records(study) if record.val_accuracy is not None and record.step_time_ms]
    figure = go.Figure()
    for kind in ("trained", "pruned"):
        shown = [record for record in found if record.kind == kind]
        figure.add_trace(
            go.Scatter(
                x=[_ratio(record) for record in shown],
                y=[record.val_accuracy for record in shown],
                text=[f"trial {record.number}: {record.arch}" for record in shown],
                mode="markers",
                name=kind,
            )
        )
    figure.update_layout(
        title="accuracy against training step time",
        xaxis={"title": f"step time / {run.manifest['baseline']['name']}", "type": "log"},
        yaxis={"title": "val_accuracy"},
    )
    save_plotly_graph_object(study, figure, graph_object_id="accuracy-step-time")
    return study


def _ratio(record: TrialRecord) -> float:
    return (record.step_time_ms or 0.0) / (record.ref_step_time_ms or 1.0)


def _loopback(host: str) -> bool:
    """Whether only this machine reaches an address; of a name other than localhost that is not assumed."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
