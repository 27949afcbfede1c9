"""One scaling, from a winner to a family: the grid, its trainings, the choice, and the networks at each phi."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas import catalog, runs
from nas.data import BUILTIN, is_found, located
from nas.devices import pick_devices
from nas.errors import RunError, UsageError
from nas.owner import owned
from nas.scale.config import ScaleConfig, from_settings
from nas.scale.result import ScaleResult, Watcher
from nas.scale.work import Scaling
from nas.train.recipes import from_document, load_recipe


def derive(config: ScaleConfig | None = None, *, watcher: Watcher | None = None, **settings: Any) -> ScaleResult:
    """Find the coefficients by which a network is best scaled here, and build it at each phi.

    A scaling that was cut off is continued by the same call; nothing that was measured is measured again.
    Source: Tan & Le 2019 (EfficientNet), arXiv:1905.11946, section 3.3.

    Args:
        config: The settings; or give them by name: `derive(source="results/run1", phi=(1, 2, 3))`.
        watcher: Sees the scaling go on.

    Raises:
        NasError: one of its kinds, for anything a user can mend.
    """
    if config is not None and settings:
        raise UsageError(f"derive: found config and {', '.join(settings)}; give one or the other.")
    config = config or from_settings(settings, "derive")
    source = config.source if config.source is not None else str(runs.latest())
    if kind_of(source) == "scale":
        raise UsageError(f"{source}: is a scaling already. Continue it with nas.scale.resume.")
    return _begun(config, source, watcher or Watcher())


def resume(
    folder: str | os.PathLike[str],
    *,
    phi: Sequence[float] | None = None,
    budget: int | None = None,
    seeds: int | None = None,
    devices: str | None = None,
    data: str | os.PathLike[str] | None = None,
    watcher: Watcher | None = None,
) -> ScaleResult:
    """Continue a scaling from its folder, with its own settings; nothing that was measured is measured again.

    Args:
        phi: Sizes to build as well. budget, seeds: Larger ones. devices: Others of the same kind.
        data: Where the same images are now, if they have moved.

    Raises:
        RunError: no scaling there, or its images or device are not what they were.
    """
    run = runs.open_run(folder)
    if run.manifest.get("kind") != "scale":
        raise UsageError(f"{folder}: is a {run.manifest.get('kind')} run, not a scaling. Name the folder of a scaling.")
    own = from_settings(dict(run.manifest["config"]), f"{run.path('manifest.json')}: config")
    source = str(run.folder.parent) if run.manifest["study"] == ".." else str(own.source)
    config = replace(
        own,
        source=source,
        phi=tuple(phi) if phi else own.phi,
        budget=budget or own.budget,
        seeds=seeds or own.seeds,
        devices=devices or own.devices,
        data=own.data if data is None else os.fspath(data),
        out=run.folder,
    )
    return _begun(config, source, watcher or Watcher())


def kind_of(source: str) -> Any:
    """Return the kind of a run folder; None where there is none."""
    return runs.open_run(source).manifest.get("kind") if (Path(source) / "manifest.json").is_file() else None


def _begun(config: ScaleConfig, source: str, watcher: Watcher) -> ScaleResult:
    devices = pick_devices(config.devices)
    kind = kind_of(source)
    search = runs.open_search(source) if Path(source).is_dir() and kind != "train" else None
    if search is not None and not search.path("winner.yaml").is_file():
        raise RunError(
            f"{search.folder}: has no winner yet. Continue the search: nas search --resume {shlex.quote(str(search.folder))}"
        )
    named = catalog.load_arch(source if search is None else search.path("winner.yaml"))
    own = runs.open_run(source).manifest["config"] if kind in ("search", "train") else None
    place = config.data or (BUILTIN if own is None else own["data"])
    if not is_found(place):
        raise RunError(f"{source}: its images are not at {place}. Say where they are with --data.")
    if config.recipe is None and search is not None:
        recipe = from_document(dict(search.manifest["recipe"]), where=str(search.path("manifest.json")))
    else:
        recipe = load_recipe(config.recipe or "standard")
    config = replace(
        config,
        source=os.path.abspath(source) if os.path.exists(source) else source,  # it may be continued from another folder
        data=located(place),
        skip_broken=config.skip_broken or bool(own and own["skip_broken"]),
    )
    folder = config.out
    if folder is None and search is not None:
        folder = search.folder / "scale"
    if folder is None or not (folder / "manifest.json").is_file():
        folder = runs.new_folder(None, "scale", f"{named.name}-{devices[0].type}", folder)
    with owned(folder):
        return Scaling(config, named, recipe, search, folder, devices, watcher).run()
