"""The command line: each command parses, calls one function, prints one table. Heavy imports live inside commands."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any, Literal

import click

from nas import __version__
from nas.cli._given import given_by
from nas.cli._larger import audit, scale, train
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
    help="Images: a folder or archive by class, .parquet, .npz, IDX, module:callable, ... (docs/data.md).",
)
@click.option("--skip-broken", is_flag=True, help="Leave out images that cannot be read, and count them.")
@click.option("--recipe", help="quick, standard or a YAML file; the space's own unless given.")
@click.option(
    "--devices",
    "--device",
    "devices",
    default="auto",
    show_default=True,
    help="auto (a GPU, or the workers that pay on this CPU), cpu, cuda:1; a worker for each of cuda:0,cuda:1 or for cpu:2.",
)
@click.option(
    "--engine",
    default="local",
    show_default=True,
    help="Where: local (this machine), or ray: a cluster; --devices is then of each node (docs/cluster.md).",
)
@click.option(
    "--address", default="auto", show_default=True, help="Of the Ray cluster: auto, HOST:PORT, ray://HOST:10001."
)
@click.option(
    "--gpus-per-trial", default=1.0, show_default=True, help="Share of a GPU for each trial, with --engine ray: 1, 0.5."
)
@click.option(
    "--steps", default="auto", show_default=True, help="How steps are done: auto, eager, graph (CUDA graphs)."
)
@click.option(
    "--objective",
    default="reward",
    show_default=True,
    help="reward (one score), or pareto: the front of accuracy against --costs.",
)
@click.option(
    "--costs",
    default="step_time",
    show_default=True,
    help="With pareto one or two of step_time, params, macs, latency, memory: step_time,params.",
)
@click.option(
    "--sampler",
    default="arch",
    show_default=True,
    help="Who suggests networks: arch (learns from few trainings), tpe, gp, nsga2, evolution, local, random.",
)
@click.option(
    "--pruner",
    default="halving",
    show_default=True,
    help="Who stops a trial at a phase's end: halving, median, none (the only one with pareto).",
)
@click.option("--seed", default=0, show_default=True, help="Of suggestions, weights, order and augmentation.")
@click.option("--w", default=-0.07, show_default=True, help="Exponent of the step time in the reward.")
@click.option("--v", default=-0.05, show_default=True, help="Exponent of the parameters in the reward.")
@click.option("--max-params", help="Limit, such as 5M.")
@click.option("--max-macs", help="Limit on multiply-adds, such as 600M.")
@click.option("--max-step-time", help="Limit on the training step, such as 12ms.")
@click.option("--max-latency", help="Limit on the inference of one image (PyTorch, eager), such as 5ms.")
@click.option("--max-memory", help="Limit on the training step's memory, such as 2GiB (CUDA).")
@click.option(
    "--top-k",
    default=3,
    show_default=True,
    help="Networks measured again before a winner is named; 8 for a front.",
)
@click.option("--trial-timeout", "trial_timeout_s", type=float, help="Seconds that a phase of a trial may take.")
@click.option(
    "--storage", help="Keep the study in PostgreSQL: postgresql://user@host/db; a file in the run unless given."
)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; made under results/ unless given.")
@click.option("--warm-start", type=click.Path(path_type=Path), help="Begin with the results of this run.")
@click.option("--enqueue", multiple=True, help="A network of the space to train first: a name or a YAML file.")
@click.option("--resume", type=click.Path(path_type=Path), help="Continue this run, with its own settings.")
@click.option("--skip-bugs", is_flag=True, help="With --resume: leave out networks that the program failed on.")
@click.pass_context
def search(context: click.Context, /, resume: Path | None, skip_bugs: bool, **settings: Any) -> None:
    """Search a space: train short proxies, measure their step time, name a winner.

    The reward is accuracy x (step time / baseline)^w x (params / baseline)^v, with the step time measured here.
    """
    given = given_by(context, settings)
    if resume is None and skip_bugs:
        raise click.UsageError("--skip-bugs: belongs to --resume RUN.")
    from torch import cuda

    from nas.cli._progress import SearchProgress
    from nas.cli._signals import Ended, signals
    from nas.search import resume as continue_run
    from nas.search import search as start_run
    from nas.train.probe import WORKERS

    progress = SearchProgress()
    try:
        with signals(), progress:
            if resume is not None:
                changes = _changes(resume, given)
                result = continue_run(resume, **changes, skip_bugs=skip_bugs, watcher=progress)
            else:
                if settings["devices"] == "auto" and settings["engine"] == "local" and not cuda.is_available():
                    given["devices"] = WORKERS
                result = start_run(**given, watcher=progress)
    except KeyboardInterrupt as end:
        what, code = (end.name, end.exit_code) if isinstance(end, Ended) else ("Interrupted", 130)
        folder = progress.folder or resume
        kept = f". Nothing measured is lost. Continue with: nas search --resume {folder}" if folder else "."
        click.echo(what + kept, err=True)
        sys.exit(code)
    progress.finished(result)


MAY_CHANGE = ("budget", "devices", "data", "storage", "engine", "address", "gpus_per_trial")


def _changes(run: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Return what a resumed run may change, and refuse settings that differ from its own."""
    from nas.runs import open_search
    from nas.search.config import option

    own = open_search(run).manifest["config"]
    may: dict[str, Any] = {name: given.pop(name) for name in MAY_CHANGE if name in given}
    differs = []
    for name, value in given.items():
        plain = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
        if plain != own.get(name):
            differs.append(f"{option(name)}: found {_shown(plain)}, the run has {_shown(own.get(name))}")
    if differs:
        raise click.UsageError(
            f"{'; '.join(differs)}. A resumed run keeps its own settings; only --budget, --devices and the cluster may be "
            "changed, and --data or --storage where the same images or database have moved. Leave the others out, or start a new "
            "run without --resume."
        )
    return may


def _shown(value: Any) -> str:
    return "none" if value in (None, []) else " ".join(value) if isinstance(value, list) else str(value)


@cli.command()
@click.argument("bug", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def debug(bug: Path) -> None:
    """See the program fail again on the network of a BUG file (RUN/bug-*.yaml), with the traceback."""
    from nas.search.replay import replay

    click.echo(replay(bug, say=click.echo))


@cli.command()
@click.argument("names", nargs=-1)
@click.option("--compare", is_flag=True, help="Print several architectures side by side, relative to the first.")
@click.option("--resolution", type=click.IntRange(8), help="Count at this input size, in pixels.")
@click.option("--num-classes", type=click.IntRange(1), help="Count with a classifier of this many classes.")
@click.option("--verify", is_flag=True, help="Build the network and count it again with fvcore.")
@click.option("--time", "timed", is_flag=True, help="Measure the training step here, by the full protocol.")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(1), help="Batch of --time.")
@click.option("--device", default="auto", show_default=True, help="Device of --time.")
def show(names: tuple[str, ...], compare: bool, **settings: Any) -> None:
    """Print a space (what it holds) or an architecture (a table of its stages). Without a NAME, list what is shipped.

    A NAME is a shipped one, a YAML file or a run folder (its winner). For example:
    nas show --compare efficientnetv2_s results/run1 --resolution 128 --time
    """
    if compare and len(names) < 2:
        raise click.UsageError("--compare: name at least two architectures.")
    if len(names) > 1 and not compare:
        raise click.UsageError(f"found {len(names)} names. Give one, or --compare them.")
    from nas.cli import _show

    if compare:
        _show.compare(names, **settings)
    elif names:
        _show.show(names[0], **settings)
    else:
        _show.shipped()


@cli.command(epilog="Example: nas latency results/RUN efficientnetv2_b0 --batch-size 8")
@click.argument("networks", metavar="RUN|ARCH...", nargs=-1, required=True)
@click.option(
    "--batch-size",
    "batch_sizes",
    multiple=True,
    default=(1,),
    show_default=True,
    type=click.IntRange(1),
    help="Images in an inference; again for more.",
)
@click.option("--resolution", type=click.IntRange(8), help="Pixels, in place of each network's own.")
@click.option("--num-classes", type=click.IntRange(1), help="With a classifier of this many classes.")
@click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1; onnxruntime runs on the CPU."
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(["eager", "compile", "onnxruntime"]),
    help="What runs the network; again for more. All three unless given.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads; PyTorch's own number unless given.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each measurement, and no table.")
def latency(networks: tuple[str, ...], **settings: Any) -> None:
    """Measure the inference of networks here: the winner of a RUN, shipped networks, YAML files.

    Several networks are measured in turns, so that their ratios hold. Whatever is timed computes what eager PyTorch does.
    """
    from nas.cli import _latency

    _latency.show(networks, **settings)


@cli.command(epilog="Example: nas report results/RUN results/OTHER")
@click.argument("folders", metavar="[RUN]...", nargs=-1, type=click.Path(path_type=Path))
def report(folders: tuple[Path, ...]) -> None:
    """Write the report of a RUN again (report.html, report.md and its pictures); the latest search unless named.

    Of several runs a page that compares them is written into the folder of the first, compare.html, and nothing else.
    """
    from nas import runs
    from nas.report import write_comparison, write_report

    if len(folders) > 1:
        click.echo(write_comparison(folders))
    else:
        click.echo(write_report(folders[0] if folders else runs.latest()).with_name("report.html"))


@cli.command()
@click.argument("source", required=False)
@click.option(
    "--format", "formats", multiple=True, help="torch (unless given), timm, onnx, safetensors; again for more, or all."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder; RUN/export or results/export-ARCH unless given.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier export.")
@click.option(
    "--trial", help="Another network of the RUN that was measured again, as of its front: its number or hash."
)
@click.option("--weights", type=click.Path(path_type=Path), help="Weights of an ARCH: .safetensors, .pt or .pth.")
@click.option("--random-weights", is_flag=True, help="Export an ARCH without trained weights.")
@click.option("--data", help="Where the images of the RUN lie now, or the images that the ARCH is meant for.")
def export(source: str | None, **settings: Any) -> None:
    """Hand over the network of a RUN (search or training), or an ARCH with its weights, in formats that do not need nas.

    Each is loaded again in a fresh process and compared with its source, image for image. The latest search unless named.
    """
    from nas.cli import _export
    from nas.cli._signals import Ended, signals

    try:
        with signals():
            _export.run(source, **settings)
    except Ended as end:
        click.echo(f"{end.name}. Nothing was written.", err=True)
        sys.exit(end.exit_code)


@cli.command(epilog="Example: nas predict results/RUN photos/test --out predictions.csv")
@click.argument("source", metavar="RUN|EXPORT|ARCH")
@click.argument("images", metavar="IMAGE|FOLDER...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="CSV file; printed unless given.")
@click.option("--top", default=1, show_default=True, type=click.IntRange(1), help="Classes to name for an image.")
@click.option("--batch-size", type=click.IntRange(1), help="Images in a batch; up to 250, by their size, unless given.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--weights", type=click.Path(path_type=Path), help="Weights of an ARCH: .safetensors, .pt or .pth.")
@click.option(
    "--data", help="The images of the training, where they have moved or the weights do not say what they were."
)
@click.option("--skip-broken", is_flag=True, help="Leave out images that cannot be read, and list them.")
def predict(source: str, images: tuple[Path, ...], **settings: Any) -> None:
    """Name the class of images with a trained network: of a training's or search's RUN, an EXPORT, or an ARCH with weights.

    Folders are searched with the folders in them, zip and tar archives too. Images are prepared as in the training. Where they
    lie in folders named as classes, the accuracy is printed: that is how a test split is scored.
    """
    from nas.cli import _predict
    from nas.cli._signals import Ended, signals

    try:
        with signals():
            _predict.run(source, images, **settings)
    except Ended as end:
        click.echo(f"{end.name}." + (" Nothing was written." if settings["out"] else ""), err=True)
        sys.exit(end.exit_code)


@cli.command()
@click.argument("run", required=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, help="Port to listen on.")
def dashboard(run: str | None, host: str, port: int) -> None:
    """Open optuna-dashboard on a RUN, or on a database (postgresql://user@host/db); the latest search unless named.

    Works while the run goes on.
    """
    from nas import runs
    from nas.search.dashboard import serve

    serve(run or runs.latest(), host=host, port=port, say=click.echo)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--w", type=float, help="Exponent of the step time; the run's own unless given.")
@click.option("--v", type=float, help="Exponent of the parameters; the run's own unless given.")
@click.option("--max-params", help="Leave out larger networks: a limit such as 5M.")
@click.option("--max-macs", help="Leave out networks with more multiply-adds, such as 600M.")
@click.option("--max-step-time", help="Leave out networks whose measured training step is longer, such as 12ms.")
@click.option("--max-latency", help="Leave out networks whose measured inference is longer, such as 5ms.")
@click.option("--max-memory", help="Leave out networks whose step takes more memory, such as 2GiB (CUDA).")
@click.option("--top", default=10, show_default=True, type=click.IntRange(1), help="Networks to print.")
@click.option("--calibrate", is_flag=True, help="Suggest exponents from how accuracy rises with cost in this run.")
@click.option("--csv", type=click.Path(path_type=Path, dir_okay=False), help="Write the whole new order to this file.")
def rerank(
    run: Path | None,
    w: float | None,
    v: float | None,
    top: int,
    calibrate: bool,
    csv: Path | None,
    **limits: str | None,
) -> None:
    """Rank the networks of a RUN again, with other exponents or limits; the latest search unless named.

    Nothing is trained: the raw values of every trial are stored. Works while the run goes on.
    """
    from nas.cli import _rerank

    _rerank.show(run, w=w, v=v, top=top, calibration=calibrate, csv=csv, limits=limits)


@cli.command()
@click.option("--data", help="Look at these images too, and time the input pipeline against training on them.")
@click.option("--skip-broken", is_flag=True, help="Leave out images that cannot be read, as a search with it would.")
@click.option("--space", default="v2", show_default=True, help="The space that is to be searched.")
@click.option("--recipe", help="The recipe of the search: a name or a YAML file; the space's own unless given.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--batch-size", type=click.IntRange(2), help="Batch of the timing; the recipe's unless given.")
def doctor(data: str | None, **settings: Any) -> None:
    """Check what a search needs: software, device, folders and, with --data, images and the speed of the input.

    Exits with 1 if something would stop `nas search`.
    """
    from nas.cli import _doctor

    if not _doctor.show(data=data, **settings):
        sys.exit(1)


cli.add_command(audit)
cli.add_command(scale)
cli.add_command(train)


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
