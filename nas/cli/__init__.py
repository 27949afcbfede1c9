"""The command line: each command parses, calls one function, prints one table. Heavy imports live inside commands."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any, Literal

import click

from nas import __version__
from nas.errors import NasError

EPILOG = "Documentation: docs/ of the repository. Start with: nas search --space v2_tiny --budget 12"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG)
@click.version_option(__version__, prog_name="nas")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Find a network that is accurate and cheap to train on your images and your device."""


@cli.command()
@click.option("--space", default="v2", show_default=True, help="A shipped space (see `nas show`) or a YAML file.")
@click.option(
    "--budget", type=click.IntRange(1), help="Networks to train (50 unless given). With --resume: a new budget."
)
@click.option(
    "--data",
    default="fashion-mnist-subset",
    show_default=True,
    help="Folder of images by class, .parquet, or built-in.",
)
@click.option("--recipe", help="quick, standard or a YAML file; the space's own unless given.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--sampler", default="tpe", show_default=True, help="Who suggests networks: tpe, gp, nsga2, random.")
@click.option("--pruner", default="median", show_default=True, help="Who stops a trial at a phase's end: median, none.")
@click.option("--seed", default=0, show_default=True, help="Of suggestions, weights, order and augmentation.")
@click.option("--w", default=-0.07, show_default=True, help="Exponent of the step time in the reward.")
@click.option("--v", default=-0.05, show_default=True, help="Exponent of the parameters in the reward.")
@click.option("--max-params", help="Limit, such as 5M.")
@click.option("--max-macs", help="Limit on multiply-adds, such as 600M.")
@click.option("--max-step-time", help="Limit on the training step, such as 12ms.")
@click.option("--max-memory", help="Limit on the training step's memory, such as 2GiB (CUDA).")
@click.option("--top-k", default=3, show_default=True, help="Networks measured again before a winner is named.")
@click.option("--trial-timeout", "trial_timeout_s", type=float, help="Seconds that a phase of a trial may take.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; made under results/ unless given.")
@click.option("--resume", type=click.Path(path_type=Path), help="Continue this run, with its own settings.")
@click.pass_context
def search(context: click.Context, /, resume: Path | None, **settings: Any) -> None:
    """Search a space: train short proxies, measure their step time, name a winner.

    The reward is accuracy x (step time / baseline)^w x (params / baseline)^v, with the step time measured here.
    """
    given = {
        name: value
        for name, value in settings.items()
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT and value is not None
    }
    if resume is not None and set(given) - {"budget"}:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given if name != "budget")
        raise click.UsageError(f"{options}: a resumed run keeps its own settings; only --budget may be changed.")
    from nas.cli._progress import SearchProgress
    from nas.search import resume as continue_run
    from nas.search import search as start_run

    progress = SearchProgress()
    try:
        with progress:
            if resume is not None:
                result = continue_run(resume, budget=settings["budget"], watcher=progress)
            else:
                result = start_run(**given, watcher=progress)
    except KeyboardInterrupt:
        if progress.folder is not None:
            click.echo(
                f"Interrupted. Nothing measured is lost. Continue with: nas search --resume {progress.folder}", err=True
            )
        sys.exit(130)
    progress.finished(result)


@cli.command()
@click.argument("name", required=False)
@click.option("--resolution", type=click.IntRange(8), help="Count at this input size, in pixels.")
@click.option("--num-classes", type=click.IntRange(1), help="Count with a classifier of this many classes.")
@click.option("--verify", is_flag=True, help="Build the network and count it again with fvcore.")
@click.option("--time", "timed", is_flag=True, help="Measure the training step here, by the full protocol.")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(1), help="Batch of --time.")
@click.option("--device", default="auto", show_default=True, help="Device of --time.")
def show(
    name: str | None, resolution: int | None, num_classes: int | None, verify: bool, timed: bool, **timing: Any
) -> None:
    """Print a space (what it holds) or an architecture (a table of its stages). Without a NAME, list what is shipped."""
    from nas.cli import _show

    if name is None:
        _show.shipped()
    else:
        _show.show(name, resolution=resolution, num_classes=num_classes, verify=verify, timed=timed, **timing)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path), required=False)
def report(run: Path | None) -> None:
    """Write the report of a RUN again (report.md, pareto.png); the latest search unless named."""
    from nas import runs
    from nas.report import write_report

    click.echo(write_report(run or runs.latest()))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, help="Port to listen on.")
def dashboard(run: Path | None, host: str, port: int) -> None:
    """Open optuna-dashboard on a RUN; the latest search unless named. Works while the run goes on."""
    from nas import runs
    from nas.search.dashboard import serve

    serve(run or runs.latest(), host=host, port=port, say=click.echo)


def main(arguments: list[str] | None = None) -> int | Literal[True]:
    """Run the command line and exit: 0, 1 for an error, 2 for a wrong use, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    if debug:  # wherever it stands: it belongs to all commands
        arguments = [item for item in arguments if item != "--debug"]
    try:
        cli.main(args=arguments, prog_name="nas", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except NasError as error:
        if debug:
            traceback.print_exc()
        click.echo(f"nas: {error}" if "\n" not in str(error) else str(error), err=True)
        sys.exit(error.exit_code)
    sys.exit(0)
