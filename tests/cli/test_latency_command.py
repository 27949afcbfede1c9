from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from tiny import TINY_NETWORK

from nas.cli import _latency, cli, main
from nas.cost import Measurement
from nas.cost.latency import Latency
from nas.search import SearchResult


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["latency", *arguments])
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


@pytest.fixture
def network(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(TINY_NETWORK)
    return str(path)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Latencies that are not measured: 2 ms for each image, twice that for each further network; no compiler."""
    asked: list[dict[str, Any]] = []

    def latencies(networks: Any, device: Any, *, backends: Any, batch_sizes: Any, **more: Any) -> list[Latency]:
        asked.append({"networks": networks, "backends": backends, "batch_sizes": batch_sizes, **more})
        rows = []
        for backend in backends:
            for size in batch_sizes:
                for place, (name, spec) in enumerate(networks.items()):
                    known = (name, spec.arch_hash, backend, "cpu", "float32", 1, size, spec.resolved().resolution)
                    if backend == "compile":
                        rows.append(Latency(*known, problem="no compiler. Install g++."))
                        continue
                    value = 2.0 * size * 2**place
                    rows.append(Latency(*known, Measurement(value, "ms", 0.125, 40, "cpu"), value + 1, 1.5e-6))
        return rows

    monkeypatch.setattr(_latency, "latencies", latencies)
    return asked


def command_of(out: str) -> list[str]:
    """The command of the last line, which must be one that `nas` understands."""
    last = out.strip().splitlines()[-1]
    assert last.startswith("next: nas ")
    words = shlex.split(last.removeprefix("next: "))
    cli.commands[words[1]].make_context(words[1], words[2:])
    return words


def test_a_winner_and_a_network_are_measured_side_by_side(
    capsys: pytest.CaptureFixture[str], finished: SearchResult, network: str, fake: list[dict[str, Any]]
) -> None:
    folder = str(finished.run.folder)
    code, out, _ = run(capsys, folder, network, "--batch-size", "1", "--batch-size", "4", "--device", "cpu")
    assert code == 0
    (asked,) = fake
    assert list(asked["networks"]) == [folder, network]
    assert asked["networks"][folder].arch_hash == finished.winner.arch_hash
    assert (asked["backends"], asked["batch_sizes"], asked["threads"]) == (
        ["eager", "compile", "onnxruntime"],
        [1, 4],
        None,
    )
    rows = [line.split()[1:] for line in out.splitlines() if line.startswith((folder, network))]
    assert rows[0] == ["eager", "cpu", "float32", "1", "16", "2.000", "0.125", "3.000", "40", "500", "1.5e-06", "1.000"]
    assert rows[1][-1] == "2.000" and rows[3][3:6] == ["4", "16", "16.000"] and rows[4][5:] == ["-"] * 7
    assert out.count("compile not measured: no compiler. Install g++.") == 1
    config = finished.run.manifest["config"]
    assert command_of(out) == [
        "nas", "search", "--space", config["space"], "--data", config["data"], "--max-latency", "2ms",
    ]  # fmt: skip


def test_options_change_what_is_measured(
    capsys: pytest.CaptureFixture[str], network: str, fake: list[dict[str, Any]]
) -> None:
    options = ["--resolution", "32", "--num-classes", "7", "--backend", "onnxruntime", "--threads", "2"]
    code, out, _ = run(capsys, network, *options, "--batch-size", "8", "--device", "cpu")
    assert code == 0
    spec = fake[0]["networks"][network]
    assert (spec.resolution, spec.num_classes, fake[0]["backends"], fake[0]["threads"]) == (32, 7, ["onnxruntime"], 2)
    assert "ratio" not in out
    assert command_of(out) == ["nas", "latency", network, "--backend", "eager", "--batch-size", "1"]


def test_json_is_a_line_for_each_measurement(
    capsys: pytest.CaptureFixture[str], network: str, fake: list[dict[str, Any]]
) -> None:
    code, out, _ = run(capsys, network, "--json", "--device", "cpu")
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["backend"] for row in rows] == ["eager", "compile", "onnxruntime"]
    assert (rows[0]["latency_ms"], rows[0]["mad_ms"], rows[0]["p95_ms"], rows[0]["n"]) == (2.0, 0.125, 3.0, 40)
    assert rows[0]["device_name"] and rows[0]["threads"] == 1 and rows[0]["resolution"] == 16
    assert rows[1]["latency_ms"] is None and rows[1]["problem"] == "no compiler. Install g++."


def test_where_nothing_can_be_measured_it_fails_with_the_reason(
    capsys: pytest.CaptureFixture[str], network: str, fake: list[dict[str, Any]]
) -> None:
    code, out, err = run(capsys, network, "--backend", "compile", "--device", "cpu")
    assert code == 1 and "compile not measured: no compiler" in out
    assert err == "nas: nas latency: nothing could be measured: no compiler. Install g++.\n"


def test_a_real_latency(capsys: pytest.CaptureFixture[str], network: str) -> None:
    code, out, err = run(capsys, network, "--backend", "eager", "--device", "cpu", "--json")
    assert code == 0 and "eager: timing at batch 1" in err
    (row,) = map(json.loads, out.splitlines())
    assert 0 < row["latency_ms"] <= row["p95_ms"] < 1000 and row["n"] >= 20


@pytest.mark.parametrize(
    ("names", "code", "words"),
    [
        (["v2_tiny"], 1, "v2_tiny: a search space with 35 open choices"),
        (["efficientnet_b00"], 2, "Did you mean efficientnet_b0?"),
        (["."], 1, ".: not a run folder"),
    ],
)
def test_what_is_no_network_is_refused(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    found, _, err = run(capsys, *names)
    assert found == code and words in err and len(err.strip().splitlines()) == 1


def test_a_run_without_a_winner_says_how_to_finish_it(capsys: pytest.CaptureFixture[str], run_copy: Path) -> None:
    (run_copy / "winner.yaml").unlink()
    code, _, err = run(capsys, str(run_copy))
    assert code == 1 and f"has no winner yet. Finish it: nas search --resume {run_copy}" in err
