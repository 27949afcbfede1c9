"""What a search for a front leaves besides its winner: a file for each network measured again, and what to know of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import yaml

from nas.front import front
from nas.objective import indistinct
from nas.report.front import members
from nas.runs import Run, write_text
from nas.search.finalists import Finalist
from nas.search.record import TrialRecord
from nas.spec import ArchSpec

FOLDER = "front"


def write_members(
    run: Run, specs: Sequence[tuple[TrialRecord, ArchSpec]], finalists: Sequence[Finalist], costs: Sequence[str]
) -> None:
    """Write each network measured again as `front/trial-N.yaml`; those of a front that a higher budget has changed go.

    Networks that failed when they were measured again have no file.
    """
    folder, networks = run.path(FOLDER), {record.arch_hash: spec for record, spec in specs}
    folder.mkdir(exist_ok=True)
    found = members([asdict(item) for item in finalists], costs)
    for item in found:
        spec = replace(
            networks[item.arch_hash],
            name=f"{run.manifest['space']}-front-{item.arch_hash[:6]}",
            reference=f"found by nas search, run {run.folder.name}, trial {item.number}",
        )
        write_text(folder / f"{item.name}.yaml", yaml.safe_dump(spec.document(), sort_keys=False))
    for path in folder.glob("trial-*.yaml"):
        if path.stem not in {item.name for item in found}:
            path.unlink()


def doubts(records: Sequence[TrialRecord], costs: Sequence[str], most: int) -> list[str]:
    """Say what a front does not hold, or cannot show.

    Args:
        records: Of all trials. most: Networks that were measured again.
    """
    trained = list({record.arch_hash: record for record in records if record.kind == "trained"}.values())
    whole = len(front([record.point(costs) for record in trained]))
    found = indistinct([record.candidate() for record in trained])
    if whole > most:
        found.append(
            f"The front of the search has {whole} networks; {most} of them, spread evenly over their costs, were measured again. "
            f"For all of them start a search with --top-k {whole} and --warm-start of this run."
        )
    return found
