"""What each fault costs a search: done for real, N times, to searches of stub-trained networks on the command line.

Written for each fault: how often it was tried, records and finished phases that were lost, networks that were counted twice,
whether the budget was exact, phases that were run twice (at most those in flight), and what the search said. A fault that cannot
be made on this machine is listed with the reason. `--only` does some of them anew, and keeps the rows of the others that the file
has. See docs/faults.md.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks._common import conditions, folder, settings, store, stored
from benchmarks._faults import FAULTS, Impossible

BEGIN, END = "<!-- faults:begin -->", "<!-- faults:end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=2, help="Times that each fault is tried.")
    parser.add_argument("--only", default="", help="Faults whose names hold this.")
    parser.add_argument("--seed", type=int, default=0, help="Of the instants.")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="Folder of the results.")
    parser.add_argument(
        "--page", type=Path, help="Write the table of the result that is there into docs/faults.md, and end."
    )
    options = parser.parse_args()
    if options.page is not None:
        page = Path("docs/faults.md")
        page.write_text(written(page.read_text(encoding="utf-8"), stored(options.page)), encoding="utf-8")
        return
    device = torch.device("cpu")
    path = folder(device, options.out) / "faults.json"
    found = {row["fault"]: row for row in stored(path).get("faults", ()) if options.only not in row["fault"]}
    for name in (name for name in FAULTS if options.only in name):
        found[name] = tried(name, options.times, options.seed)
        print(line(found[name]), flush=True)
        rows = [found[name] for name in FAULTS if name in found]
        store(path, {**conditions(device), "settings": settings(options), "faults": rows})
    print(path)


def written(page: str, content: dict[str, Any]) -> str:
    """Return docs/faults.md with the table of a result file between its marks."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table(content)}\n{END}{rest.split(END)[1]}"


def tried(name: str, times: int, seed: int) -> dict[str, Any]:
    """Do a fault so many times, and return its row of the table."""
    outcomes, seconds = [], []
    for number in range(times):
        work = Path(tempfile.mkdtemp(prefix="nas-fault-"))
        began = time.monotonic()
        try:
            outcomes.append(FAULTS[name](work / "work", random.Random(f"{seed} {number} {name}")))
        except Impossible as reason:
            return {"fault": name, "tried": 0, "reason": str(reason)}
        finally:
            shutil.rmtree(work, ignore_errors=True)
        seconds.append(round(time.monotonic() - began, 1))
    return {
        "fault": name,
        "tried": times,
        "lost": sum(item.lost for item in outcomes),
        "counted_twice": sum(item.twice for item in outcomes),
        "budget_exact": all(item.spent == item.budget for item in outcomes),
        "phases_run_twice": sum(item.repeated for item in outcomes),
        "phases_in_flight": sum(item.allowed for item in outcomes),
        "right": sum(item.right for item in outcomes),
        "message": outcomes[0].message,
        "seconds": seconds,
        "runs": [asdict(item) for item in outcomes],
    }


def table(content: dict[str, Any]) -> str:
    """Return the table of docs/faults.md."""
    lines = [
        "| fault | tried | lost | twice | budget | phases run twice | what was said |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in content["faults"]:
        if not row["tried"]:
            lines.append(f"| {row['fault']} | not tried: {row['reason']} | | | | | |")
            continue
        said = " ".join(row["message"].replace("|", "\\|").split())
        cells = [row["tried"], row["lost"], row["counted_twice"], "exact" if row["budget_exact"] else "not exact"]
        cells += [row["phases_run_twice"], f"`{said}`" if said else ""]
        lines.append(f"| {row['fault']} | {' | '.join(map(str, cells))} |")
    head = content["date"][:10], ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    return "\n".join([*lines, "", f"`{content['command']}`, {head[0]}; {content['device']['name']}; {head[1]}."])


def line(row: dict[str, Any]) -> str:
    """Return a row of the table as a line of text."""
    if not row["tried"]:
        return f"{row['fault']:40} not tried: {row['reason']}"
    return (
        f"{row['fault']:40} tried {row['tried']}  lost {row['lost']}  twice {row['counted_twice']}  right {row['right']}  "
        f"{row['message'][:90]}"
    )


if __name__ == "__main__":
    main()
