"""The report as one page of HTML: well formed, closed to the network, what users name escaped, the figures those of report.md."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup
from test_report import MANIFEST, fabricate, finalist, trial

from nas import runs
from nas.errors import RunError, UsageError
from nas.report import load_run, page, write_comparison, write_report
from nas.report.effects import effects
from nas.report.html import html
from nas.report.networks import baseline, networks
from nas.report.pictures import budgeted, progress_series
from nas.report.prose import prose
from nas.report.read import RunView
from nas.report.svg import COLOURS, Axis, Mark, Row, Series, chart, intervals, pages
from nas.report.text import sections
from nas.search.record import TrialRecord, table

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
EMPTY = {"meta", "link", "br", "img"}
EVIL = "<script>alert(1)</script>\"'&lt;"


class Page(HTMLParser):
    """A page that was read: its elements in order, its text, and whether every element was closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [found for name, found in self.elements if name == tag]


def checked(text: str) -> Page:
    """Read a page, and hold it to what every page keeps."""
    assert text.startswith("<!doctype html>")
    found = Page(text)
    names = [given["id"] for _, given in found.elements if "id" in given]
    assert len(names) == len(set(names))
    for tag, given in found.elements:
        for key in ("src", "href", "action", "xlink:href", "srcset", "style", "onclick", "onload"):
            assert given.get(key, "#").startswith(("#", "data:")), (tag, given)
        if tag == "a":
            assert given["href"][1:] in names
        if tag == "svg" and "aria-hidden" not in given and given.get("class", "").split(" ")[0] in SHOWN:
            assert given["role"] == "img" and len(given["aria-label"]) > 10
        if tag == "img":
            assert given["alt"]
    policy = next(given["content"] for given in found.all("meta") if "http-equiv" in given)
    assert policy.startswith("default-src 'none'; img-src data:;") and "http" not in policy
    assert "@import" not in text and "url(" not in text
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch("h[1-6]", tag)]
    assert not re.search(r"<(h[1-6])[^>]*>\s*</\1>", text), "an empty heading"
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), "a level is left out"
    assert len(found.all("script")) == 1
    return found


SHOWN = {"chart", "intervals", "time"}


def made(view: RunView) -> str:
    found = None if view.costs else effects(view)
    return html(view, sections(view, found), found)


@pytest.fixture(scope="module")
def published() -> Iterator[tuple[RunView, str]]:
    view = load_run(PUBLISHED / "v2_tiny-200")
    yield view, made(view)


def test_a_published_run_as_a_page(published: tuple[RunView, str]) -> None:
    view, text = published
    found = checked(text)
    assert len(text) < 400_000
    for said in ("0.8368", "0.7535 ± 0.0122", "2 fresh seeds", "70.40 ms", "0.68 x the baseline's", "43.5K", "206K"):
        assert said in found.text, said
    assert "50 of the other 103 networks cannot be told from the first" in found.text
    assert f"nas scale --from {view.run.folder} --phi 1,2,3" in found.text
    charts = [given["aria-label"] for given in found.all("svg") if given.get("class") == "chart"]
    assert charts[0].startswith("Accuracy against step time. 104 trained networks")
    assert charts[1].startswith("Best reward so far. After 200 networks the best reward is 0.8533")
    assert len([given for given in found.all("svg") if given.get("class") == "intervals"]) == 3
    titles = re.findall(r'<h2 id="[\w-]+-h">([^<]+)</h2>', text)
    assert titles == [
        "The winner", "Read this first", "Accuracy against cost", "Progress", "Networks, stage by stage",
        "How far to believe this", "Where the budget went", "Stopping early", "Best trials", "How to reproduce",
    ]  # fmt: skip


def test_every_figure_of_the_markdown_is_on_the_page(published: tuple[RunView, str]) -> None:
    view, text = published
    words = set(re.sub(r"<[^>]*>", " ", text).split())
    figures = {word.strip(".,;:()`*") for word in page(view).split() if re.search(r"\d\.\d{2}", word)}
    assert len(figures) > 100
    assert {figure for figure in figures if not any(figure in word for word in words)} == set()


def test_networks_are_drawn_as_they_were_trained(published: tuple[RunView, str]) -> None:
    view, text = published
    drawn = networks(view)
    assert [item.name for item in drawn] == [
        "winner: 004a3189", "baseline: efficientnetv2_b0", "finalist: 90befc5c", "finalist: 3dca3fb1",
    ]  # fmt: skip
    assert drawn[0].spec.arch_hash == view.winner.arch_hash
    assert "6: 4 x mbconv, 48 ch, 3 x 3, expand 1, stride 2." in text
    labels = re.findall(r'<svg viewBox="0 0 360 \d+" role="img" aria-label="([^"]+)"', text)
    assert len(labels) == 4 and labels[1].startswith("baseline: efficientnetv2_b0. stem: conv, 8 ch, 3 x 3. stage 1:")


def test_a_network_that_is_decoded_otherwise_now_is_not_drawn(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(PUBLISHED / "v2_tiny-200", tmp_path / "run"))
    space = folder / "space.yaml"
    space.write_text(space.read_text().replace("resolution: 32", "resolution: 64"))
    view = load_run(folder)
    assert networks(view) == [] and baseline(view) is None
    space.unlink()
    assert networks(load_run(folder)) == [] and "Networks, stage by stage" not in made(load_run(folder))


def test_scaling_and_training_are_shown_where_they_lie_in_the_run() -> None:
    found = checked(made(load_run(PUBLISHED / "v2_tiny-family")))
    assert "Scaling of v2_tiny-winner-1a2e15" in found.text and "0.8795 ± 0.0073" in found.text
    assert [given["alt"] for given in found.all("img")] == ["Scaling: scale", "Training: curves"]
    assert all(given["src"].startswith("data:image/png;base64,iVBOR") for given in found.all("img"))


def evil_run(folder: Path) -> Path:
    trials = [trial(number, accuracy=0.7 + 0.01 * number) for number in range(4)]
    trials[0] = TrialRecord(**vars(trials[0]) | {"arch": EVIL, "step_time_note": EVIL})
    final = finalist(trials[3], 0.7) | {"record": vars(trials[3]) | {"arch": EVIL}}
    fabricate(folder, trials, [final], [f"![x](http://e.org/a.png) [y](http://e.org) <http://e.org> {EVIL}"])
    manifest = folder / "manifest.json"
    facts: dict[str, Any] = json.loads(manifest.read_text())
    facts |= {"space": EVIL, "command": EVIL, "baseline": facts["baseline"] | {"name": EVIL}}
    facts["data"] |= {"name": EVIL, "notes": [EVIL, "![x](effects.png)"]}
    facts["device"] |= {"name": EVIL}
    manifest.write_text(json.dumps(facts))
    (folder / "train").mkdir()
    lines = [f"# Training of {EVIL}", "", "## Accuracy by class", "", "| class |", "| --- |", f"| {EVIL} |"]
    (folder / "train" / "report.md").write_text("\n".join([*lines, "", "![Curves](../../secret.png)"]))
    return folder


def test_what_users_name_is_text(tmp_path: Path) -> None:
    name = 'a "<b>" run'
    folder = evil_run(tmp_path / name)
    text = made(load_run(folder))
    found = checked(text)
    assert "<script>alert" not in text and "<b>&#34; run" not in text and '"<b>"' not in text
    assert found.text.count("<script>alert(1)</script>") >= 8 and f"nas export '{folder}'" in found.text
    assert not found.all("img") and len(found.all("script")) == 1
    other = fabricate(tmp_path / "<i>other", [trial(0)], [], [])
    text = write_comparison([folder, other]).read_text()
    assert "<script>alert" not in text and "<i>" not in checked(text).text.replace("<i>other", "")


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ([trial(0)], "1 network trained to the end: too few to say how far to believe the first."),
        ([TrialRecord(0, "infeasible", "dead", "net", num_params=9e9, reason="too large")], "0 networks trained"),
        ([trial(number, "pruned", 0.4) for number in range(3)], "0 networks trained"),
        ([trial(number) for number in range(5)], "None of the other networks can be told from the first"),
    ],
)
def test_a_run_that_goes_on_has_a_page(tmp_path: Path, trials: list[TrialRecord], said: str) -> None:
    folder = fabricate(tmp_path / "run", trials, [], [])
    write_report(folder)
    text = (folder / "report.html").read_text()
    found = checked(text)
    assert "The search has not ended; there is no winner yet." in found.text and said in found.text
    assert f"nas search --resume {folder}" in found.text and "nas export" not in found.text
    assert ("The best reward so far" in found.text) == any(item.kind == "trained" for item in trials)


@pytest.mark.parametrize("costs", [("step_time_ms",), ("step_time_ms", "num_params"), ("latency_ms",)])
@pytest.mark.parametrize("ended", [True, False])
def test_a_run_that_looked_for_a_front(tmp_path: Path, costs: tuple[str, ...], ended: bool) -> None:
    timed = {"latency_ms": 4.0, "latency_mad_ms": 0.2, "latency_n": 9}
    trials = [trial(number, accuracy=0.6 + 0.05 * number, **timed) for number in range(5)]
    again = {"latency_ms": [4.0, 4.1], "latency_mad_ms": [0.1, 0.1]}
    finalists = [finalist(item, (item.val_accuracy or 0) - 0.02) | again for item in trials[2:]] if ended else []
    folder = fabricate(tmp_path / "run", trials, finalists, [])
    manifest = folder / "manifest.json"
    facts = json.loads(manifest.read_text()) | {"costs": costs}
    manifest.write_text(json.dumps(facts | {"config": facts["config"] | {"latency_batch_size": 1}}))
    write_report(folder)
    found = checked((folder / "report.html").read_text())
    charts = [given["aria-label"] for given in found.all("svg") if given.get("class") == "chart"]
    assert [name.startswith("Accuracy against") for name in charts] == [True] * len(costs) + [False]
    assert charts[-1].startswith("Hypervolume of the front so far")
    if ended:
        assert "The knee of the front" in found.text and "measured again" in found.text
        assert "a front of noisy values is made of the lucky" in found.text
    else:
        assert "its front has not been measured again yet" in found.text


def test_only_what_cost_budget_is_progress(tmp_path: Path) -> None:
    trials = [
        trial(0, accuracy=0.70),
        trial(1, "duplicate", 0.9),
        trial(2, "pruned", 0.95),
        trial(3, accuracy=0.99, origin="other trial 3"),
        trial(4, accuracy=0.80),
        trial(5, accuracy=0.75),
    ]
    own = budgeted(load_run(fabricate(tmp_path / "run", trials, [], [])))
    assert list(own["number"]) == [0, 2, 4, 5] and list(own["spent"]) == [1, 2, 3, 4]
    each, best = progress_series(own)
    assert [(mark.x, mark.y) for mark in each.marks] == [(1, 0.70), (3, 0.80), (4, 0.75)]
    assert [(mark.x, mark.y) for mark in best.marks] == [(1, 0.70), (3, 0.80), (4, 0.80)]


def test_a_chart_puts_its_marks_where_they_belong() -> None:
    series = [
        Series(
            "seen", (Mark(1, 0.5, ("one", "two")), Mark(10, 0.7), Mark(100, 0.9, y_error=0.05)), "c1", "dot", "steps"
        ),
        Series("aside", (Mark(10, 0.1), Mark(10, 0.6)), "faint", aside=True),
        Series("none", (), "c2"),
    ]
    text = chart("A", "b <c>", Axis("x", log=True), Axis("y"), series, upright=(10, "<base>"))
    places = [(float(x), float(y)) for x, y in re.findall(r'data-x="([\d.]+)" data-y="([\d.]+)"', text)]
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = places
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and x3 == x1, "equal ratios are equal steps"
    assert y0 > y3 > y1 > y2 and y0 - y1 == pytest.approx(2 * (y0 - y3), abs=0.2)
    assert f"M{x0} {y0}H{x1}V{y1}H{x2}V{y2}" in text and "one\ntwo" in text
    assert "aside, 1 outside" in text and "none" not in text.replace('"none"', "") and "&lt;base&gt;" in text
    assert chart("A", "b", Axis("x"), Axis("y"), [Series("none", (), "c2")]) == ""
    assert "nan" not in chart("A", "b", Axis("x", log=True), Axis("y"), [Series("one", (Mark(2, 3),), "c1")])
    assert "nan" not in intervals("A", "b", [Row("none", 0.0, 0.0, False)], "{:g}".format)


def test_pictures_that_are_not_there_are_left_out() -> None:
    lines = ["# One", "![a](a.png)", "text ![b](b.png)", "![c](c.png)", "| a | b |", "| - | - |", "| 1 | `--x` |"]
    text = prose(lines, {"a.png": Markup("<hr>")}, deeper=1)
    assert text.startswith("<h2>One</h2>\n<hr><p>text ![b](b.png)</p>\n") and "c.png" not in text
    assert '<th scope="col">a</th>' in text and 'role="region" aria-label="table by a"' in text
    assert '<code><span class="option">--x</span></code>' in text


def compared(folder: Path, changes: dict[str, Any] | None = None, **more: Any) -> Path:
    trials = [trial(number, accuracy=0.7 + 0.01 * number) for number in range(3)]
    fabricate(folder, trials, [finalist(trials[2], 0.71)], [])
    facts = json.loads((folder / "manifest.json").read_text())
    for key, value in (changes or {}).items():
        facts[key] = facts[key] | value if isinstance(value, dict) else value
    (folder / "manifest.json").write_text(json.dumps(facts))
    return folder


def test_runs_beside_each_other(tmp_path: Path) -> None:
    first = compared(tmp_path / "first")
    second = compared(tmp_path / "second", {"sampler": "random", "config": {"sampler": "random"}})
    path = write_comparison([first, second])
    assert path == first / "compare.html"
    found = checked(path.read_text())
    assert "Comparison of first and second" in found.text and "do not compare" not in found.text
    assert f"nas audit {first} --against {second}" in found.text
    settings = path.read_text().split("What differs")[1]
    assert re.findall(r"<tr>\s*<td><code>([^<]+)</code>", settings) == ["config.sampler"]
    names = [given["aria-label"] for given in found.all("svg") if given.get("class") == "chart"]
    assert [name.partition(".")[0] for name in names] == ["Fronts", "Best reward so far"]
    assert "In nothing." in write_comparison([first, compared(tmp_path / "third")]).read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"fingerprint": "beef"}}, "The images differ: accuracies do not compare."),
        ({"recipe": {"epochs": 3.0}}, "The recipes differ"),
        ({"device": {"name": "another"}}, "The devices differ: step times do not compare"),
        ({"versions": {"torch": "9"}}, "The versions of torch differ"),
        ({"baseline": {"hash": "0"}}, "The baselines differ"),
        ({"reward": {"w": -0.1}}, "The exponents of the reward differ"),
        ({"costs": ["step_time_ms"]}, "The objectives differ"),
    ],
)
def test_runs_that_do_not_compare_are_said_to(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = write_comparison([compared(tmp_path / "first"), compared(tmp_path / "second", changes)])
    found = checked(path.read_text())
    assert said in found.text and found.text.count("differ:") == 1 and "--against" not in found.text


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    first = compared(tmp_path / "first")
    with pytest.raises(UsageError, match="found one run twice"):
        write_comparison([first, tmp_path / "first" / ".." / "first"])
    with pytest.raises(RunError, match="no such folder"):
        write_comparison([first, tmp_path / "absent"])
    assert not (first / "compare.html").exists()
    going = runs.create(runs.new_folder(None, "search", "x", tmp_path / "going"), "search", MANIFEST)
    runs.write_text(going.path("trials.csv"), table([trial(0, "pruned", 0.4)]).to_csv(index=False))
    assert "not ended yet" in checked(write_comparison([first, going.folder]).read_text()).text


LEAST = {"text": 7, "fine": 4.5, "link": 4.5, "faint": 3, **{f"c{number}": 3 for number in range(1, COLOURS + 1)}}


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_and_marks_stand_out_in_light_in_dark_and_on_paper() -> None:
    """WCAG 2.2: 4.5 to 1 for text (1.4.3), 3 to 1 for what a picture is read by (1.4.11)."""
    style = pages.get_template("style.css").render()
    themes = [
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]
    assert len(themes) == 3 and all(set(theme) == set(themes[0]) for theme in themes)
    for theme in themes:
        for ground in ("page", "card", "mark"):
            for name, least in LEAST.items():
                first, second = sorted((luminance(theme[name]), luminance(theme[ground])))
                assert (second + 0.05) / (first + 0.05) >= least, (name, ground)
