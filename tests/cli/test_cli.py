from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from nas import catalog
from nas.cli import cli, main
from nas.cost import count
from nas.errors import SearchError
from nas.models import build
from nas.search import SearchResult, session
from nas.space import library

GOLDEN = Path(__file__).parents[1] / "golden" / "options.txt"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command line here and return exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


def options() -> str:
    """Every command with its arguments and options, a line each."""
    lines = []
    commands: dict[str, click.Command] = {"nas": cli} | {
        f"nas {name}": cli.commands[name] for name in sorted(cli.commands)
    }
    for name, command in commands.items():
        for parameter in command.params:
            words = [*parameter.opts] if isinstance(parameter, click.Option) else [parameter.human_readable_name]
            default = parameter.default
            plain = isinstance(default, str | int | float) and not isinstance(default, bool)
            lines.append(f"{name} {', '.join(words)}" + (f" = {default}" if plain else ""))
    return "\n".join(lines) + "\n"


def test_the_options_are_those_of_the_golden_list() -> None:
    """An option earns its place: adding one changes this file, on purpose."""
    assert options() == GOLDEN.read_text()


def test_every_option_is_explained() -> None:
    for name, command in cli.commands.items():
        assert command.help, name
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, f"{name} {parameter.name}"


def test_the_shown_defaults_are_those_of_the_settings() -> None:
    from nas.search.config import SearchConfig

    settings = SearchConfig()
    for parameter in cli.commands["search"].params:
        plain = isinstance(parameter.default, str | int | float) and not isinstance(parameter.default, bool)
        if plain and parameter.name is not None:
            assert parameter.default == getattr(settings, parameter.name), parameter.name
    budget = next(item for item in cli.commands["search"].params if item.name == "budget")
    assert isinstance(budget, click.Option) and f"({settings.budget} unless given)" in (budget.help or "")


def test_the_shown_defaults_of_train_are_those_of_its_settings() -> None:
    from nas.train.config import TrainConfig

    settings = TrainConfig()
    for parameter in cli.commands["train"].params:
        plain = isinstance(parameter.default, str | int | float) and not isinstance(parameter.default, bool)
        if plain and parameter.name is not None:
            assert parameter.default == getattr(settings, parameter.name), parameter.name


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["search", "--help"],
        ["show", "--help"],
        ["report", "-h"],
        ["dashboard", "--help"],
        ["rerank", "--help"],
        ["doctor", "--help"],
        ["export", "--help"],
        ["latency", "--help"],
        ["train", "--help"],
        ["train", "--epochs", "0"],
        ["latency"],
        ["latency", "efficientnet_b0", "--backend", "onnx"],
        ["doctor", "--batch-size", "1"],
        ["show", "efficientnet_b0", "efficientnet_b1"],
        ["show", "--compare", "efficientnet_b0"],
        ["search", "--bugdet", "3"],
        ["serach"],
        ["search", "--budget", "0"],
    ],
    ids=" ".join,
)
def test_help_and_wrong_options_are_answered_without_torch_or_optuna(arguments: list[str]) -> None:
    code = (
        "import sys, atexit\n"
        "from nas.cli import main\n"
        "heavy = {'torch', 'optuna', 'pandas', 'numpy', 'matplotlib'}\n"
        "atexit.register(lambda: print('HEAVY', sorted(heavy & set(sys.modules))))\n"
        f"main({arguments!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr
    wrong = not {"--help", "-h", "--version"} & set(arguments)
    assert done.returncode == (2 if wrong else 0)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "--sampler", "tpee"], ["sampler: 'tpee' is not known", "Did you mean tpe?"]),
        (["search", "--pruner", "medain"], ["pruner: 'medain' is not known", "Did you mean median?"]),
        (["search", "--space", "v2_tinny"], ["no space has this name", "Did you mean v2_tiny?"]),
        (["search", "--space", "v2_tiny", "--recipe", "quikc"], ["recipe: 'quikc'", "Did you mean quick?"]),
        (["search", "--space", "v2_tiny", "--max-step-time", "12"], ["--max-step-time: found '12'", "12ms"]),
        (["search", "--w", "0.5"], ["--w: found 0.5; allowed: -10 to 0"]),
        (["search", "--seed", "-1"], ["--seed: found -1; allowed: 0 or more"]),
        (["show", "efficientnet_b00"], ["no space has this name", "Did you mean efficientnet_b0?"]),
        (["show", "v2_tiny", "--verify"], ["--verify: v2_tiny is a space with open choices; give an architecture"]),
    ],
    ids=lambda item: " ".join(item) if item[0] in ("search", "show") else "",
)
def test_a_wrong_use_is_one_line_with_a_near_match(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    for word in words:
        assert word in err
    assert len(err.strip().splitlines()) == 1 and err.startswith("nas: ")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "near"), [(["search", "--bugdet", "3"], "--budget"), (["search", "--sapce", "v2"], "--space")]
)
def test_an_unknown_option_gets_a_near_match(
    capsys: pytest.CaptureFixture[str], arguments: list[str], near: str
) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "No such option" in err and near in err and "Traceback" not in err


def test_an_unknown_command_is_a_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "serach")
    assert code == 2 and "No such command 'serach'" in err


@pytest.mark.parametrize("command", [["search", "--resume"], ["report"], ["dashboard"]], ids=" ".join)
def test_an_error_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str]) -> None:
    code, out, err = run(capsys, *command, str(tmp_path / "absent"))
    assert code == 1
    assert err.startswith("nas: ") and "no such folder" in err and len(err.strip().splitlines()) == 1
    assert "Traceback" not in out + err


@pytest.mark.parametrize("place", [0, 1, 3])
def test_debug_shows_the_traceback_wherever_it_stands(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, place: int
) -> None:
    arguments = ["search", "--resume", str(tmp_path / "absent")]
    arguments.insert(place, "--debug")
    code, _, err = run(capsys, *arguments)
    assert code == 1
    assert "Traceback" in err and "RunError" in err
    assert err.strip().splitlines()[-1].startswith("nas: ")


def test_a_search_that_cannot_go_on_exits_with_1(
    capsys: pytest.CaptureFixture[str], finished: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise SearchError("200 suggestions in a row brought no new network")

    monkeypatch.setattr(session, "run_loop", fails)
    config = finished.run.manifest["config"]
    arguments = ["--space", config["space"], "--data", config["data"], "--recipe", config["recipe"], "--device", "cpu"]
    code, _, err = run(capsys, "search", *arguments, "--out", str(tmp_path / "run"))
    assert (code, err) == (1, "nas: 200 suggestions in a row brought no new network\n")


def test_ctrl_c_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], finished: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "run_loop", stopped)
    config = finished.run.manifest["config"]
    arguments = ["--space", config["space"], "--data", config["data"], "--recipe", config["recipe"], "--device", "cpu"]
    code, _, err = run(capsys, "search", *arguments, "--out", str(tmp_path / "run"))
    assert code == 130
    assert f"Continue with: nas search --resume {tmp_path / 'run'}" in err and "Traceback" not in err


def test_a_terminated_search_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(session, "run_loop", terminated)
    code, _, err = run(capsys, "search", "--resume", str(run_copy))
    assert code == 143
    assert err == f"Terminated. Nothing measured is lost. Continue with: nas search --resume {run_copy}\n"


def test_a_resumed_run_keeps_its_own_settings(capsys: pytest.CaptureFixture[str], run_copy: Path) -> None:
    code, _, err = run(capsys, "search", "--resume", str(run_copy), "--space", "v2", "--budget", "9", "--seed", "1")
    assert code == 2
    assert (
        "--space: found v2, the run has " in err
        and "; --seed: found 1, the run has 3. A resumed run keeps its own" in err
    )


def test_a_resumed_run_ends_with_its_winner_and_the_next_command(
    capsys: pytest.CaptureFixture[str], finished: SearchResult, run_copy: Path
) -> None:
    code, out, _ = run(capsys, "search", "--resume", str(run_copy))
    assert code == 0
    best = max(record.reward or 0 for record in finished.records if record.kind == "trained")
    assert f"continuing: 3 networks trained already, the best with reward {best:.4f}" in out
    assert finished.winner.arch_hash in out
    larger, train, export = out.strip().splitlines()[-3:]
    assert train.strip().startswith(f"nas train {run_copy}")
    assert larger.startswith(f"next     nas scale --from {run_copy} --phi 1,2,3")
    assert export.strip() == f"nas export {run_copy}"


def test_the_printed_next_command_works(
    capsys: pytest.CaptureFixture[str], finished: SearchResult, run_copy: Path
) -> None:
    code, out, _ = run(capsys, "export", str(run_copy))
    assert code == 0
    assert (run_copy / "export" / "winner.py").is_file() and "accuracy" in out
    code, out, _ = run(capsys, "show", str(run_copy / "winner.yaml"), "--verify")
    assert code == 0
    assert f"hash {finished.winner.arch_hash}" in out and "equal" in out
    code, folder, _ = run(capsys, "show", str(run_copy), "--verify")
    assert code == 0 and folder == out


def test_the_report_is_written_again(
    capsys: pytest.CaptureFixture[str], finished: SearchResult, run_copy: Path
) -> None:
    (run_copy / "report.md").unlink()
    code, out, _ = run(capsys, "report", str(run_copy))
    assert (code, out) == (0, f"{run_copy / 'report.html'}\n")
    for name in ("report.html", "report.md"):
        assert finished.winner.arch_hash in (run_copy / name).read_text()


def test_runs_are_compared(capsys: pytest.CaptureFixture[str], finished: SearchResult, run_copy: Path) -> None:
    before = (run_copy / "report.md").stat().st_mtime_ns
    code, out, _ = run(capsys, "report", str(run_copy), str(finished.run.folder))
    assert (code, out) == (0, f"{run_copy / 'compare.html'}\n")
    assert "In nothing." in (run_copy / "compare.html").read_text()
    assert (run_copy / "report.md").stat().st_mtime_ns == before


def test_without_a_name_show_lists_what_is_shipped(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show")
    assert code == 0
    for name in library.names():
        assert re.search(rf"^{re.escape(name.removeprefix('reference/'))} ", out, re.M), name
    assert re.search(r"^mobilenet_v3_small +224 +2\.54M +56\.5M +Howard et al\. 2019", out, re.M)


def test_networks_are_shown_side_by_side(capsys: pytest.CaptureFixture[str], run_copy: Path) -> None:
    names = ["efficientnet_b0", "mobilenet_v3_small", "resnet18", str(run_copy)]
    code, out, _ = run(capsys, "show", "--compare", *names, "--resolution", "64", "--num-classes", "10", "--verify")
    assert code == 0
    header, *rows = out.splitlines()
    assert header.split() == ["pixels", "layers", "params", "MACs", "size", "MB"]
    for name, row in zip(names[:3], rows, strict=False):
        spec = catalog.load_arch(name, resolution=64, num_classes=10)
        params, macs = count(spec)
        first = count(catalog.load_arch("efficientnet_b0", resolution=64, num_classes=10))
        assert row.split()[:4] == [name, "64", str(sum(s.num_layers for s in spec.resolved().stages)), f"{params:,}"]
        assert f"{macs:,}" in row
        assert name == names[0] or (f"{params / first.params:.2f}× " in row and f"{macs / first.macs:.2f}× " in row)
        held = sum(t.numel() * t.element_size() for t in build(spec, seed=0).state_dict().values())
        assert row.endswith(f" {held / 1e6:.1f}")
    assert out.count("MACs (conv + linear): equal") == 4


@pytest.mark.slow
def test_networks_are_timed_side_by_side_in_two_processes(capsys: pytest.CaptureFixture[str], run_copy: Path) -> None:
    winner = str(run_copy / "winner.yaml")
    code, out, err = run(capsys, "show", "--compare", winner, winner, "--time", "--batch-size", "4", "--device", "cpu")
    assert code == 0, err
    header, first, second, *_ = out.splitlines()
    assert header.split()[-2:] == ["step_time_ms", "1"] or "step_time_ms 2" in header
    assert len(re.findall(r"\d+\.\d\d ± \d+\.\d\d \(n \d+\)", first)) == 2
    ratios = [float(word.removesuffix("×")) for word in second.split() if word.endswith("×")]
    assert ratios[:2] == [1, 1]  # parameters and multiply-adds of one network
    assert all(0.5 < ratio < 2 for ratio in ratios[2:]) and len(ratios) == 4  # one network in both columns


def test_a_space_is_counted_at_any_size_and_number_of_classes(capsys: pytest.CaptureFixture[str]) -> None:
    small = catalog.adapted(catalog.load_space("v2_tiny"), resolution=64, num_classes=7)
    assert (small.resolution.values, small.num_classes) == ((64,), 7)
    assert small.baseline is not None and (small.baseline.resolution, small.baseline.num_classes) == (64, 7)
    code, out, _ = run(capsys, "show", "v2_tiny", "--resolution", "64", "--num-classes", "7")
    assert code == 0
    assert re.search(r"^resolution 64 ", out, re.M) and "counted with         7 classes" in out
    _, default, _ = run(capsys, "show", "v2_tiny")
    assert re.search(r"^params .*$", out, re.M)[0] != re.search(r"^params .*$", default, re.M)[0]  # type: ignore[index]


def test_a_space_is_shown_with_what_it_holds(capsys: pytest.CaptureFixture[str], tiny_space_file: Path) -> None:
    code, out, _ = run(capsys, "show", str(tiny_space_file))
    assert code == 0
    for words in ("stem", "s1", "s2", "head", "fused_mbconv mbconv", "1 2 3", "forbidden:", "distinct networks"):
        assert words in out, words


def test_a_network_is_shown_with_its_exact_counts(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", "efficientnet_b0")
    assert code == 0
    assert "5,288,548" in out
    assert catalog.load_arch("efficientnet_b0").arch_hash in out
    code, out, _ = run(capsys, "show", "efficientnet_b0", "--num-classes", "10", "--resolution", "32")
    assert code == 0 and "3 x 32 x 32, 10 classes" in out and "5,288,548" not in out


def test_a_broken_space_is_told_with_all_its_problems(
    capsys: pytest.CaptureFixture[str], tiny_space_file: Path
) -> None:
    text = tiny_space_file.read_text()
    tiny_space_file.write_text(
        text.replace("kernel_size: [3, 5], expand_ratio: [1, 2],", "kernal_size: 3,").replace("drop_path", "drop_pth")
    )
    code, _, err = run(capsys, "show", str(tiny_space_file))
    assert code == 1
    assert "Did you mean kernel_size?" in err and "drop_pth" in err and "Traceback" not in err


def test_python_m_nas_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nas", "--version"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.startswith("nas, version ")) == (0, True)
