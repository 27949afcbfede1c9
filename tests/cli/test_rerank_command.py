from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest

from nas.cli import cli, main
from nas.search import SearchResult

PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "v2_tiny-200"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["rerank", *arguments])
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


def command_of(out: str) -> list[str]:
    """The command of the last line, which must be one that `nas` understands."""
    last = out.strip().splitlines()[-1]
    assert last.startswith("next ")
    words = shlex.split(last[last.index("nas ") :])
    cli.commands[words[1]].make_context(words[1], words[2:])
    return words


def test_a_run_is_ranked_by_its_own_exponents(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, str(PUBLISHED), "--top", "3")
    assert code == 0
    for words in (
        "w = -0.07 (step time), v = -0.05 (parameters), the run's own",
        "104 trained to the end; 96 stopped early have no rank",
        "   1    1  0.8533  0.7705 ± 0.0094      99.48 ms   0.63   50.6K   1.65M    159",
        "3dca3fb183827c99  32px fused_e1_k3_c4x1",
        "Kendall tau 1.000",
        "3dca3fb183827c99, as before",
        "the first two cannot be told apart",
        "is 004a31897d9a9813: rank 2 here",
        "cost outweighs accuracy here",
    ):
        assert words in out, words
    assert command_of(out) == ["nas", "rerank", str(PUBLISHED), "--top", "3", "--calibrate"]


def test_other_exponents_and_limits(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "order.csv"
    limits = ["--max-params", "1M", "--max-step-time", "120ms"]
    code, out, _ = run(capsys, str(PUBLISHED), "--w", "-0.01", "--v", "0", *limits, "--csv", str(file))
    assert code == 0
    order = pd.read_csv(file, dtype={"arch_hash": str})
    assert f"{len(order)} of 104 trained to the end are within --max-params 1M --max-step-time 120ms" in out
    assert "the run's own are w = -0.07, v = -0.05" in out
    assert order["step_time_ms"].max() <= 120 and list(order["rank"]) == list(range(1, len(order) + 1))
    assert order["reward"].is_monotonic_decreasing and order["arch_hash"].iloc[0] in out
    assert "the baseline's own step took" in out, "an absolute limit on a machine whose speed drifts"
    words = command_of(out)
    assert words[:2] == ["nas", "search"] and words[-4:] == ["--max-params", "1M", "--max-step-time", "120ms"]
    assert words[words.index("--w") + 1] == "-0.01"


def test_a_run_without_a_slope_gets_no_exponents(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, str(PUBLISHED), "--calibrate", "--top", "1")
    assert code == 0
    for words in (
        "suggested    none: accuracy cannot be seen to rise",
        "which holds 0",
        "a longer recipe",
        "--pruner none",
    ):
        assert words in out, words
    assert "--w" not in command_of(out)


def test_a_run_with_a_slope_gets_exponents_that_can_be_looked_at(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(PUBLISHED, tmp_path / "a run"))
    trials = pd.read_csv(folder / "trials.csv", dtype={"arch_hash": str})
    ratio = trials["step_time_ms"] / trials["ref_step_time_ms"]
    trials["val_accuracy"] = 0.7 * ratio**0.04
    trials.to_csv(folder / "trials.csv", index=False)
    code, out, _ = run(capsys, str(folder), "--calibrate", "--top", "1")
    assert code == 0
    assert "w = -0.04" in out and "+2.8 %" in out
    words = command_of(out)
    assert words[:3] == ["nas", "rerank", str(folder)] and "--w" in words and "--v" in words
    code, again, _ = run(capsys, *words[2:])
    assert code == 0 and f"w = {words[words.index('--w') + 1]}" in again


def test_a_search_that_goes_on_can_be_ranked(
    capsys: pytest.CaptureFixture[str], run_copy: Path, finished: SearchResult
) -> None:
    for name in ("finalists.json", "winner.yaml", "warnings.json"):
        (run_copy / name).unlink()
    code, out, _ = run(capsys, str(run_copy), "--w", "0")
    assert code == 0 and "the search has not ended" in out
    best = max((r for r in finished.records if r.kind == "trained"), key=lambda r: r.val_accuracy or 0)
    assert f"{best.val_accuracy:.4f}" in out
    command_of(out)


def test_the_next_command_keeps_what_was_given(capsys: pytest.CaptureFixture[str], run_copy: Path) -> None:
    _, out, _ = run(capsys, str(run_copy))
    assert command_of(out) == ["nas", "search", "--resume", str(run_copy), "--budget", "60"], "too few to calibrate"
    _, out, _ = run(capsys, str(run_copy), "--w", "-0.2")
    words = command_of(out)
    config = json.loads((run_copy / "manifest.json").read_text())["config"]
    for name in ("space", "data", "recipe", "devices"):
        assert words[words.index(f"--{name}") + 1] == config[name]
    assert words[words.index("--w") + 1] == "-0.2"


def test_the_latest_search_is_ranked_unless_one_is_named(
    capsys: pytest.CaptureFixture[str], run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    run_copy.rename(tmp_path / "results" / "[a] run")
    code, out, _ = run(capsys)
    assert code == 0 and "run          results/[a] run" in out
    command_of(out)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--w", "0.5"], 2, "--w: found 0.5; allowed: -10 to 0"),
        (["--v", "nan"], 2, "--v: found nan; allowed: -10 to 0"),
        (["--max-step-time", "12"], 2, "--max-step-time: found '12'"),
        (["--max-params", "1k"], 2, "none of the 104 trained networks is within: --max-params (the least is 38.1K)"),
        (
            ["--max-memory", "2GiB"],
            2,
            "--max-memory: 104 of 104 trained networks have no peak_memory_mib (a run on cpu",
        ),
        (["--csv", "absent/order.csv"], 2, "--csv: absent/order.csv: cannot be written"),
    ],
    ids=lambda item: item[0] if isinstance(item, list) else "",
)
def test_a_wrong_use_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    ended, out, err = run(capsys, str(PUBLISHED), *arguments)
    assert (ended, out) == (code, "")
    assert err.startswith("nas: ") and words in err and len(err.strip().splitlines()) == 1


def test_too_few_networks_for_a_slope(capsys: pytest.CaptureFixture[str], run_copy: Path) -> None:
    code, out, err = run(capsys, str(run_copy), "--calibrate")
    assert (code, out) == (1, "") and "at least 30 are needed for a slope" in err


def test_a_folder_that_holds_no_search(capsys: pytest.CaptureFixture[str], run_copy: Path, tmp_path: Path) -> None:
    assert run(capsys, str(tmp_path / "absent"))[0] == 1
    manifest = run_copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"kind": "search"', '"kind": "scale"'))
    code, _, err = run(capsys, str(run_copy))
    assert code == 2 and "is a scale run, not a search" in err
