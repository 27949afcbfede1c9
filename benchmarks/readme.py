"""Write `benchmarks/README.md` from the kept figures: a table for each benchmark and device, and how to run it again.

python -m benchmarks.readme                                    # from results/published/benchmarks/
python -m benchmarks.readme --keep results/benchmarks/DEVICE   # copy new figures there first
python -m benchmarks.readme --check                            # fail if the page is not what the figures say
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks._stats import shown
from nas.runs import write_json

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "results" / "published" / "benchmarks"
PAGE = Path(__file__).resolve().parent / "README.md"

Content = Mapping[str, Any]
Lines = list[str]

HEAD = """# Benchmarks

Each benchmark has all of its arms in one run, in an order drawn anew for each round; ratios are taken round by round. A figure
is the median over the rounds with its 95 % bootstrap interval in brackets; of fewer than six rounds the range instead.
This page is written by `python -m benchmarks.readme` from the files under `results/published/benchmarks/`, which hold every
round, the settings, the versions and the device. Beside them: how well step times are predicted
([block_table.json](../results/published/block_table.json)), what stopping early loses
([stopping.json](../results/published/stopping.json)), what progressive learning saves
([progressive.json](../results/published/progressive.json)). What needs a GPU is in `python -m benchmarks.gpu_check`.
"""

TITLES = {
    "proxy_throughput": "Proxies per hour",
    "fidelity": "Order of networks: proxies against a long training",
    "step_time": "Step times",
    "overhead": "Overhead of the search",
    "scaling_law_cost": "Cost of a scaling law",
    "cpu_path": "What pays on a CPU",
    "samplers": "Samplers: trainings needed",
    "searches": "Whole searches, winners measured again",
    "fronts": "Fronts: trainings needed",
    "surrogates": "Networks of real runs, foreseen",
    "fuzz": "Damaged files",
}
"""Benchmarks in the order of the page, by the beginning of their file's name."""


def table(columns: list[str], rows: list[list[str]]) -> Lines:
    """Return a table in Markdown."""
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return [*head, *(f"| {' | '.join(row)} |" for row in rows), ""]


def proxy_throughput(content: Content, others: Mapping[str, Content]) -> Lines:
    """Rates of all arms, ratios of ours to each, and what that does to the order of networks."""
    truth = others.get("fidelity", {})
    same = all(
        truth.get("settings", {}).get(key) == content["settings"].get(key) for key in ("space", "data", "recipe")
    )
    # A network's own size is that of its space in the one and may be another in the other.
    known = truth["arms"] if same and content["settings"].get("resolution") == "None" else {}
    rows = []
    for name, arm in content["arms"].items():
        order = known.get("nas" if name.startswith("nas") else "plain", {}).get("tau")
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
        best = "; ".join(
            f"{shown(item)} times {rival.removesuffix(', with stopping')}" for rival, item in stopped.items()
        )
        share = content["settings"]["share"]
        lines += [
            f"With stopping (a share of {share} goes on after the first phase; counted from the parts): {best}.",
            "",
        ]
    lines += [f"`nas` had {content['processes']} processes.", ""]
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
        spread, ceiling = (
            f"{arm[key]:.{digits}f}" if key in arm else "" for key, digits in (("seed_spread", 4), ("ceiling", 2))
        )
        rows.append([name, str(arm["seeds"]), f"{arm['accuracy']:.4f}", spread, ceiling, order, over])
    return [
        f"{len(content['networks'])} networks, images of {content['data']['name']}. Ceiling: tau of one seed with another.",
        "",
        *table(
            ["arm", "seeds", "accuracy", "spread of seeds", "ceiling", "tau to the long training", "over plain"], rows
        ),
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


STEP_TIME_ARMS = {
    "alone": "nas, alone",
    "loaded": "nas, beside a program that computes",
    "worker": "nas, beside a worker that trains",
    "naive_alone": "first steps by the clock, alone",
    "naive_loaded": "first steps by the clock, packed with a training",
}


def step_time(content: Content, others: Mapping[str, Content]) -> Lines:
    """How well step times repeat and order networks, against a long measurement with the device to itself."""
    answer = content["answer"]
    rows = []
    arms = {"the long measurement, its two passes": answer["gold"]["passes_against_each_other"]}
    arms |= {title: answer[name] for name, title in STEP_TIME_ARMS.items()}
    for title, arm in arms.items():
        figure = arm.get("relative", arm["ms"])
        order, apart = figure["tau"], figure["tau_of_pairs_more_than_3_percent_apart"]["tau"]
        within = f"{arm['within_a_measurement']:.1%}" if "within_a_measurement" in arm else ""
        rows.append(
            [title, "over the baseline" if "relative" in arm else "ms",
             f"{order['tau']:.3f} [{order['low']:.3f}, {order['high']:.3f}]", "" if apart is None else f"{apart:.3f}",
             f"{figure['mean_error']:.1%}", f"{figure['between_repetitions']:.1%}", within]
        )  # fmt: skip
    return [
        f"{len(content['networks'])} networks, {content['settings']['repeats']} repetitions. Foreign load during the long "
        f"measurement: {answer['gold']['foreign_load']:.2f} cores.",
        "",
        *table(
            [
                "arm",
                "figure",
                "Kendall tau",
                "of pairs 3 % apart",
                "mean error",
                "between repetitions",
                "MAD / median within",
            ],
            rows,
        ),
    ]


def overhead(content: Content, others: Mapping[str, Content]) -> Lines:
    """What a trial costs beside training and timing."""
    sizes: dict[tuple[str, int], list[Content]] = {}
    for window in content.get("windows", []):
        sizes.setdefault((window["arm"], window["size"]), []).append(window["summary"])
    rows = []
    for (arm, size), found in sorted(sizes.items()):
        share, computed = (max(item[key]["share"] for item in found) for key in ("owner_ms", "computed_ms"))
        late = max(item["owner_ms"]["p99"] for item in found)
        rows.append(
            [arm, f"{size:,}", f"{share:.1%}", f"{computed:.1%}", f"{late / content['trial_seconds'] / 1000:.1%}"]
        )
    lines = table(["arm", "trials before", "share of a 10 s trial", "computed", "99 % of trials below"], rows)
    if "memory" in content:
        trials = sum(len(chunk["owner_ms"]) for chunk in content["soak"])
        grown = content["memory"]["mib_per_1000_trials"]
        lines += [
            f"Memory over {trials:,} trials: {'not enough chunks' if grown is None else f'{grown:+.1f} MiB per 1,000'}.",
            "",
        ]
    for engine, item in content.get("fixed_result", {}).items():
        lines += [f"Fixed cost of one trial more, engine `{engine}`: {shown(item)} s.", ""]
    if "dashboard" in content:
        seen = content["dashboard"]
        whole = max(seen["answers"], key=lambda item: item["mib"])
        lines += [
            f"optuna-dashboard on {seen['trials']:,} trained networks: first answer after "
            f"{seen['until_first_answer_seconds']:.0f} s, the whole study ({whole['mib']:.0f} MiB) in {whole['seconds']:.0f} s.",
            "",
        ]
    return lines


def scaling_law_cost(content: Content, others: Mapping[str, Content]) -> Lines:
    """What alpha, beta and gamma cost to find."""
    rows = [
        [
            name,
            str(len(plan["trainings"])),
            str(sum(plan["trainings"].values())),
            str(plan["off_target"]),
            str(plan["repeated"]),
        ]
        for name, plan in content["plans"].items()
    ]
    ratios = [[name, shown(item, 1)] for name, item in content["result"]["ratios"].items()]
    return [
        *table(["plan", "networks", "trainings", "off the target by over 15 %", "triples that repeat a network"], rows),
        *table(["cost", "ratio"], ratios),
    ]


def samplers(content: Content, others: Mapping[str, Content]) -> Lines:
    """Normalised regret of each sampler by the number of trainings, on each task."""
    lines = [
        "Normalised regret of the network with the best value seen (0: the optimum, 1: a random network) after so many trainings,"
        " mean ± standard error over the seeds; after how many trainings it is that of Optuna's default TPE after 200, with "
        "the 95 % interval; how many suggestions were networks that had been seen, and time of a suggestion over `random`.",
        "",
    ]
    for pending, tasks in content["summary"].items():
        for task, rows in tasks.items():
            budgets = sorted({int(number) for row in rows.values() for number in row["regret"]})
            found = []
            for name, row in sorted(rows.items(), key=lambda item: item[1]["regret"][str(budgets[0])]["mean"]):
                if row["seeds"] == 1:
                    continue  # nothing is known of its scatter
                regret = [row["regret"].get(str(number)) for number in budgets]
                need = row.get("needed", {})
                words = ["over" if need.get(key) is None else str(need[key]) for key in ("networks", "low", "high")]
                times = [item["median"] for item in row.get("seconds_over_random", {}).values()]
                found.append(
                    [f"`{name}`", str(row["seeds"])]
                    + ["" if item is None else f"{item['mean']:.3f} ± {item['error']:.3f}" for item in regret]
                    + [f"{words[0]} [{words[1]}, {words[2]}]" if need else "", f"{row['duplicates_share']:.1%}"]
                    + [", ".join(f"{value:.1f}" for value in times)]
                )
            about = content["tasks"][task]["about"]
            beside = f"; {pending} trials run while one is suggested" if pending != "0" else ""
            columns = ["sampler", "seeds", *map(str, budgets), "needed", "seen before", "time"]
            lines += [f"**{task}** ({about}{beside})", "", *table(columns, found)]
    return lines


def fuzz(content: Content, others: Mapping[str, Content]) -> Lines:
    """What came of files of each kind that were damaged."""
    kinds = content["kinds"]
    rows = [
        [
            name,
            *(f"{item[key]:,}" for key in ("inputs", "refused")),
            f"{sum(item['crashes'].values())}",
            f"{item['hangs']}",
        ]
        for name, item in kinds.items()
    ]
    totals = [sum(item[key] for item in kinds.values()) for key in ("inputs", "refused", "seconds")]
    return [
        f"{totals[0]:,} inputs in {totals[2] / 60:.0f} minutes: read, or refused with a message ({totals[1]:,}). An image that "
        "is damaged is left out and counted.",
        "",
        *table(["kind", "inputs", "refused", "crashes", "hangs"], rows),
    ]


def searches(content: Content, others: Mapping[str, Content]) -> Lines:
    """What the winners of real searches came to when they were trained again."""
    asked, found = content["settings"], []
    for name, row in content["answer"].items():
        runs = [item for key, item in content["rows"].items() if key.split("/")[0] == name]
        lost = [sum(item["trials"].get(kind, 0) for kind in ("duplicate", "forbidden", "infeasible")) for item in runs]
        each, seen = ", ".join(f"{value:.4f}" for value in row["reward"]), statistics.fmean(run["seen"] for run in runs)
        behind = shown(row["behind"], 4) if "behind" in row else ""
        found.append([f"`{name}`", f"{row['mean']:.4f}", each, f"{seen:.4f}", behind, f"{statistics.fmean(lost):.0f}"])
    return [
        "Reward of the winner, trained again with fresh seeds. "
        f"Space {asked['space']}, {asked['data']}, recipe {asked['recipe']}, at most {asked['max_macs']} MACs, "
        f"{asked['budget']} networks a search.",
        "",
        *table(["sampler", "mean", "by seed", "seen in the search", "behind the first", "suggested in vain"], found),
    ]


def fronts(content: Content, others: Mapping[str, Content]) -> Lines:
    """Regret in hypervolume of each sampler by the number of trainings, on each task."""
    lines = [
        "Share of the largest hypervolume that the front lacks, picked by what was seen and judged by true values, after so many "
        "trainings, mean ± standard error over seeds; after how many it is that of Optuna's default TPE at the end.",
        "",
    ]
    for task, by_budget in content["summary"].items():
        for rows in by_budget.values():
            budgets, found = list(next(iter(rows.values()))["picked"]), []
            for name, row in sorted(rows.items(), key=lambda item: item[1]["picked"][budgets[-1]]["mean"]):
                regret = [f"{row['picked'][at]['mean']:.4f} ± {row['picked'][at]['error']:.4f}" for at in budgets]
                need = str(row["needed_picked"]["networks"] or "over")
                found.append([f"`{name}`", str(row["seeds"]), *regret, need, f"{row['duplicates_share']:.1%}"])
            lines += [f"**{task}**, accuracy against {content['tasks'][task]['cost']}", ""]
            lines += table(["sampler", "seeds", *budgets, "needed", "seen before"], found)
    return lines


def surrogates(content: Content, others: Mapping[str, Content]) -> Lines:
    """How models order recorded networks that they have not seen."""
    lines = []
    for run, row in content["runs"].items():
        sizes = list(next(iter(row["tau"].values())))
        found = [
            [
                f"`{name}`",
                *(f"{one[size]['mean']:.2f} ({one[size]['low']:.2f} to {one[size]['high']:.2f})" for size in sizes),
            ]
            for name, one in row["tau"].items()
        ]
        lines += [
            f"`{run}`, {row['networks']} networks: Kendall's tau between what is foreseen and the reward at the end of phase 1,"
            f" by the number of networks seen; mean of {content['settings']['splits']} splits, and 5 to 95 % of them.",
            "",
            *table(["model", *(f"{size} seen" for size in sizes)], found),
        ]
    return lines


WRITERS: dict[str, Callable[[Content, Mapping[str, Content]], Lines]] = {
    "proxy_throughput": proxy_throughput,
    "fidelity": fidelity,
    "step_time": step_time,
    "overhead": overhead,
    "scaling_law_cost": scaling_law_cost,
    "cpu_path": cpu_path,
    "samplers": samplers,
    "searches": searches,
    "fuzz": fuzz,
    "fronts": fronts,
    "surrogates": surrogates,
}


def page(kept: Path) -> str:
    """Return the page that the kept figures make."""
    lines = [HEAD]
    for folder in sorted(path for path in kept.glob("*") if path.is_dir()):
        contents = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
        if not contents:
            continue
        first = next(iter(contents.values()))
        device = first.get("conditions", first)["device"]
        lines += [f"## {device['name']}" + (f", {device['cores']} cores" if device.get("cores") else ""), ""]
        for kind, title in TITLES.items():
            for name in sorted(item for item in contents if item.split("-")[0] == kind):
                content = contents[name]
                head = content.get("conditions", content)
                versions = ", ".join(f"{package} {number}" for package, number in head["versions"].items())
                lines += [
                    f"### {title}{_which(name.partition('-')[2])}",
                    "",
                    *WRITERS[kind](content, contents),
                    f"`{content.get('command', head.get('command'))}`, {head['date'][:10]}; {versions}.",
                    "",
                ]
    return "\n".join(lines).rstrip() + "\n"


def _placeless(value: Any) -> Any:
    """Return figures without places on the machine: of a path in a text the name only."""
    if isinstance(value, dict):
        return {name: _placeless(item) for name, item in value.items() if name not in ("out", "work")}
    if isinstance(value, list):
        return [_placeless(item) for item in value]
    if isinstance(value, str):
        return " ".join(Path(word).name if word.startswith("/") else word for word in value.split(" "))
    return value


def _which(part: str) -> str:
    """Return what tells two files of one benchmark apart: a size in pixels, or images."""
    return f" ({part} px)" if part.isdigit() else f" ({part})" if part else ""


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="figures of a device to keep, by file name")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.keep is not None:
        if not list(options.keep.glob("*.json")):
            sys.exit(f"{options.keep}: holds no figures (*.json); name the folder of a device under it.")
        target = KEPT / options.keep.name
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted(options.keep.glob("*.json")):
            if path.stem.split("-")[0] in TITLES:
                content = json.loads(path.read_text(encoding="utf-8"))
                write_json(target / path.name, _placeless(content))
    written = page(KEPT)
    if options.check:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != written:
            sys.exit(f"{PAGE.name}: not what the figures say; run python -m benchmarks.readme")
        return
    PAGE.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    main()
