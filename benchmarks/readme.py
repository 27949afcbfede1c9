"""Write `benchmarks/README.md` from the kept figures: a table for each benchmark and device, and how to run it again.

python -m benchmarks.readme                                    # from results/published/benchmarks/
python -m benchmarks.readme --keep results/benchmarks/DEVICE   # copy new figures there first
python -m benchmarks.readme --check                            # fail if the page is not what the figures say
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks._stats import shown

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "results" / "published" / "benchmarks"
PAGE = Path(__file__).resolve().parent / "README.md"

Content = Mapping[str, Any]
Lines = list[str]

HEAD = """# Benchmarks

Each benchmark has all of its arms in one run, in an order drawn anew for each round; ratios are taken round by round. A figure
is the median over the rounds with its 95 % bootstrap interval. This page is written by `python -m benchmarks.readme` from the
files under `results/published/benchmarks/`, which hold every round, the settings, the versions and the device.
"""

TITLES = {
    "proxy_throughput": "Proxies per hour",
    "fidelity": "Order of networks: proxies against a long training",
    "step_time": "Step times",
    "overhead": "Overhead of the search",
    "scaling_law_cost": "Cost of a scaling law",
    "block_table": "Step time from a block table",
    "stopping": "Stopping early",
    "cpu_path": "What pays on a CPU",
}
"""Benchmarks in the order of the page, by the beginning of their file's name."""


def table(columns: list[str], rows: list[list[str]]) -> Lines:
    """Return a table in Markdown."""
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return [*head, *(f"| {' | '.join(row)} |" for row in rows), ""]


def proxy_throughput(content: Content, others: Mapping[str, Content]) -> Lines:
    """Rates of all arms, ratios of ours to each, and what that does to the order of networks."""
    fidelity = others.get("fidelity", {}).get("arms", {})
    known = (
        {"nas": "nas", "nas_one": "nas"} | dict.fromkeys(content["arms"], "plain") | {"nas": "nas", "nas_one": "nas"}
    )
    rows = []
    for name, arm in content["arms"].items():
        order = fidelity.get(known[name], {}).get("tau")
        ratio = next(
            (
                shown(item)
                for rival, item in content["nas_over"].items()
                if item["arm"] == name and "stopping" not in rival
            ),
            "",
        )
        rows.append(
            [name, shown(arm["proxies_per_hour"], 0), ratio, "not measured" if order is None else f"{order:.2f}"]
        )
    lines = table(["arm", "proxies an hour", "nas is quicker by", "Kendall tau to the long training"], rows)
    stopped = {rival: item for rival, item in content["nas_over"].items() if "stopping" in rival}
    if stopped:
        best = ", ".join(f"{shown(item)} times {rival.split(', with')[0]}" for rival, item in stopped.items())
        share = content["settings"]["share"]
        lines += [
            f"With stopping (a share of {share} goes on after the first phase; counted from the parts): {best}.",
            "",
        ]
    lines += [f"Left out: {name}: {why}." for name, why in content.get("absent", {}).items()]
    return lines


def fidelity(content: Content, others: Mapping[str, Content]) -> Lines:
    """Kendall's tau of each arm with the long training."""
    rows = []
    for name, arm in content["arms"].items():
        order, over = "", ""
        if "tau" in arm:
            low, high = arm["tau_interval"]
            order = f"{arm['tau']:.2f} [{low:.2f}, {high:.2f}]"
            low, high = arm["tau_over_plain_interval"]
            over = "" if name == "plain" else f"{arm['tau_over_plain']:+.2f} [{low:+.2f}, {high:+.2f}]"
        rows.append([name, f"{arm['accuracy']:.4f}", f"{arm['seed_spread']:.4f}", f"{arm['ceiling']:.2f}", order, over])
    networks, seeds = len(content["networks"]), content["settings"]["seeds"]
    return [
        f"{networks} networks, {seeds} seeds, images of {content['data']['name']}. Ceiling: tau of one seed with another.",
        "",
        *table(["arm", "accuracy", "spread of seeds", "ceiling", "tau to the long training", "over plain"], rows),
    ]


def cpu_path(content: Content, others: Mapping[str, Content]) -> Lines:
    """Time per image of each way over the usual one."""
    rows = [
        [f"{size} px", name, shown(row["time_per_image_over_usual"]), shown(row["computed_per_image_over_usual"]),
         f"{row['page_faults_per_step']['median']:,.0f}"]
        for size, ways in content["sizes"].items()
        for name, row in ways.items()
        if name != "usual"
    ]  # fmt: skip
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in content["probe"]["rates"].items())
    return [
        *table(["images", "way", "time over the usual", "computed over the usual", "page faults a step"], rows),
        f"The probe on this machine, images per second: {rates}.",
        "",
    ]


WRITERS: dict[str, Callable[[Content, Mapping[str, Content]], Lines]] = {
    "proxy_throughput": proxy_throughput,
    "fidelity": fidelity,
    "cpu_path": cpu_path,
}


def page(kept: Path) -> str:
    """Return the page that the kept figures make."""
    lines = [HEAD]
    for folder in sorted(path for path in kept.iterdir() if path.is_dir()):
        contents = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
        first = next(iter(contents.values()))
        lines += [f"## {_device(first['device'])}", ""]
        for kind, title in TITLES.items():
            for name in sorted(item for item in contents if item.split("-")[0] == kind):
                content = contents[name]
                versions = ", ".join(f"{package} {number}" for package, number in content["versions"].items())
                lines += [
                    f"### {title}{' (' + name.partition('-')[2] + ' px)' if '-' in name else ''}",
                    "",
                    *WRITERS[kind](content, contents),
                    f"`{content['command']}`, {content['date'][:10]}; {versions}.",
                    "",
                ]
    return "\n".join(lines).rstrip() + "\n"


def _device(facts: Mapping[str, Any]) -> str:
    cores = f", {facts['cores']} cores" if facts.get("cores") else ""
    return f"{facts['name']}{cores}"


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="figures of a device to keep, by file name")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.keep is not None:
        target = KEPT / options.keep.name
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted(options.keep.glob("*.json")):
            if path.stem.split("-")[0] in TITLES:
                shutil.copyfile(path, target / path.name)
    written = page(KEPT)
    if options.check:
        if PAGE.read_text(encoding="utf-8") != written:
            sys.exit(f"{PAGE.name}: not what the figures say; run python -m benchmarks.readme")
        return
    PAGE.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    main()
