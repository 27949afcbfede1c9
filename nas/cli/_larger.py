"""The commands after a search: `nas audit`, `nas scale` and `nas train`. Heavy imports live inside them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from nas.cli._given import given_by


class _Numbers(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        """Return a tuple of numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(item) for item in str(value).split(","))
        except ValueError:
            self.fail(f"found {value}; numbers with commas between them are allowed, such as 1,2,3.", param, context)


@click.command(epilog="Example: nas audit results/RUN --tune-proxy")
@click.argument("run", metavar="[RUN]", required=False)
@click.option("--networks", default=8, show_default=True, help="To train once more, and long; half of the better half.")
@click.option("--long", default=5.0, show_default=True, help="Times the recipe's epochs that the long training has.")
@click.option(
    "--seeds", default=3, show_default=True, help="Fresh seeds of the best, the middle and the worst of them."
)
@click.option("--tune-proxy", is_flag=True, help="Try other recipes; write the cheapest that suffices for --recipe.")
@click.option("--tau", default=0.7, show_default=True, help="Kendall's tau with the long training that suffices.")
@click.option("--against", metavar="RUN", help="Compare with another search, such as a random one; nothing is trained.")
@click.option("--devices", "--device", "devices", help="As of nas search; the run's own unless given.")
@click.option("--data", help="Where the images of the RUN lie now.")
@click.pass_context
def audit(context: click.Context, /, **settings: Any) -> None:
    """Find out how far to believe a RUN: noise between seeds, and whether its short trainings order networks as long ones do.

    Trains networks of the run again, under its own conditions; the number and the time are printed first. The latest search
    unless named. The same command continues what was cut off. What is found goes into RUN/audit and RUN/report.md.
    """
    from nas.cli import _audit
    from nas.cli._signals import Ended, signals

    progress = _audit.AuditProgress()
    try:
        with signals():
            _audit.run(given_by(context, settings), progress)
    except KeyboardInterrupt as end:
        what, code = (end.name, end.exit_code) if isinstance(end, Ended) else ("Interrupted", 130)
        kept = (
            f". Nothing measured is lost. Continue with: {_again(context, progress.folder)}" if progress.folder else "."
        )
        click.echo(what + kept, err=True)
        sys.exit(code)


def _again(context: click.Context, folder: Path) -> str:
    """Return the command of an audit, to be given again."""
    given = given_by(context, {name: value for name, value in context.params.items() if name != "run"})
    words = ["nas audit", shlex.quote(str(folder))]
    for name, value in given.items():
        words.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {shlex.quote(str(value))}"))
    return " ".join(words)


@click.command(epilog="Example: nas scale --from results/RUN --phi 1,2,3 --budget-metric step_time")
@click.option(
    "--from",
    "source",
    metavar="RUN|ARCH",
    help="A search (its winner), a shipped name, a YAML file; or a scaling, to go on.",
)
@click.option("--phi", type=_Numbers(), default="1", show_default=True, help="Sizes to build, such as 1,2,3 or 0.5.")
@click.option("--data", help="Images; the run's own, or the built-in ones for an ARCH.")
@click.option("--skip-broken", is_flag=True, help="Leave out images that cannot be read, and count them.")
@click.option("--recipe", help="How candidates are trained; the run's own, or standard for an ARCH.")
@click.option(
    "--devices", "--device", "devices", default="auto", show_default=True, help="As of nas search; auto is one worker."
)
@click.option("--budget", default=12, show_default=True, help="Networks of the grid to train.")
@click.option(
    "--budget-metric",
    default="macs",
    show_default=True,
    type=click.Choice(["macs", "step_time", "params"]),
    help="What is doubled; step_time is measured here.",
)
@click.option("--target", default=2.0, show_default=True, help="The multiple of that cost at phi = 1.")
@click.option("--tolerance", default=0.1, show_default=True, help="Of alpha*beta^2*gamma^2 from the target, in theory.")
@click.option(
    "--within", default=0.15, show_default=True, help="Share by which the cost of a built candidate may differ."
)
@click.option("--grid-step", default=0.05, show_default=True, help="Of alpha, beta and gamma.")
@click.option("--seeds", default=2, show_default=True, help="Trainings of those that cannot be told from the best.")
@click.option("--seed", default=0, show_default=True, help="The first of them.")
@click.option(
    "--coefficients", type=_Numbers(), metavar="A,B,G", help="Build with these, such as 1.2,1.1,1.15; no training."
)
@click.option(
    "--policy",
    default="v1",
    show_default=True,
    type=click.Choice(["v1", "v2"]),
    help="v2: later stages get more layers.",
)
@click.option(
    "--depth-rounding", default="ceil", show_default=True, type=click.Choice(["ceil", "round"]), help="Of layers."
)
@click.option("--resolution-multiple", default=8, show_default=True, help="Scaled resolutions are multiples of this.")
@click.option("--max-resolution", type=int, help="Largest resolution; 480 with v2, none with v1 unless given.")
@click.option("--keep-stem", is_flag=True, help="Do not widen the stem.")
@click.option("--keep-head", is_flag=True, help="Do not widen the head.")
@click.option("--keep-first-last", is_flag=True, help="Do not deepen the first and the last stage.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; RUN/scale, or one under results/ for an ARCH.")
@click.option("--reproduce", metavar="FAMILY", help="Print a published family from its table (efficientnet), and end.")
@click.pass_context
def scale(context: click.Context, /, reproduce: str | None, **settings: Any) -> None:
    """Find how to scale a network up: a grid search for alpha, beta, gamma, then networks at each phi.

    Candidates cost the same as they are built, not in theory, and are trained by the recipe of the search; depth, width and
    resolution alone are among them. The latest search unless --from names another. The same command continues what was cut off.
    """
    from nas.cli import _scale
    from nas.cli._signals import Ended, signals

    if reproduce is not None:
        _scale.reproduce(reproduce)
        return
    progress = _scale.ScaleProgress()
    try:
        with signals():
            _scale.run(given_by(context, settings), progress)
    except KeyboardInterrupt as end:
        what, code = (end.name, end.exit_code) if isinstance(end, Ended) else ("Interrupted", 130)
        phi = ",".join(f"{item:g}" for item in settings["phi"])
        kept = f". Nothing measured is lost. Continue with: nas scale --from {progress.folder} --phi {phi}"
        click.echo(what + (kept if progress.folder else "."), err=True)
        sys.exit(code)


@click.command(epilog="Example: nas train results/RUN --data photos/ --recipe standard")
@click.argument("source", metavar="[RUN|ARCH]", required=False)
@click.option("--phi", type=float, help="The network that nas scale made of the RUN for this phi.")
@click.option("--data", help="Images; the run's own, or the built-in ones for an ARCH (docs/data.md).")
@click.option("--skip-broken", is_flag=True, help="Leave out images that cannot be read, and count them.")
@click.option(
    "--recipe",
    default="standard",
    show_default=True,
    help="standard, short (a CPU), transfer (from --weights), efficientnet, timm, v2_s_paper, ... or a YAML file.",
)
@click.option("--epochs", type=click.IntRange(1), help="In place of the recipe's; its schedule keeps its shape.")
@click.option("--batch-size", type=click.IntRange(2), help="In place of the recipe's; of all devices together.")
@click.option(
    "--micro-batch", type=click.IntRange(2), help="Images that a device computes at a time; also with --resume."
)
@click.option("--learning-rate", type=float, help="Peak, in place of the recipe's; not scaled with the batch.")
@click.option("--resolution", type=click.IntRange(8), help="Pixels of the last phase; the network's own unless given.")
@click.option("--weights", type=click.Path(path_type=Path), help="Begin with these: .safetensors, .pt or .pth.")
@click.option("--compile/--no-compile", help="Compile the step with torch.compile (minutes first, faster then).")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1; several with torchrun.")
@click.option("--seed", default=0, show_default=True, help="Of weights, order, augmentation and dropout.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; made under results/ unless given.")
@click.option("--resume", type=click.Path(path_type=Path), help="Continue this training, with its own settings.")
@click.pass_context
def train(
    context: click.Context, /, source: str | None, phi: float | None, resume: Path | None, **settings: Any
) -> None:
    """Train a network to be used: the winner of a RUN, one scaled from it (--phi), or an ARCH (a name or a YAML file).

    The latest search unless named. Images, regularisation and size grow over the phases of the recipe; every epoch is scored
    on the validation images, and the best weights are kept. Several GPUs: torchrun --nproc-per-node 2 -m nas train ...
    """
    given = given_by(context, settings)
    from nas.cli import _train
    from nas.cli._signals import Ended, signals
    from nas.train.session import continued

    progress = _train.progress()
    try:
        with signals(), progress:
            result = _train.run(source, phi, resume, given, progress)
    except KeyboardInterrupt as end:
        what, code = (end.name, end.exit_code) if isinstance(end, Ended) else ("Interrupted", 130)
        folder = progress.folder or resume
        kept = f". The epochs that ended are kept. Continue with: {continued(folder)}" if folder else "."
        if not isinstance(progress, _train.Silent):
            click.echo(what + kept, err=True)
        sys.exit(code)
    progress.finished(result)
