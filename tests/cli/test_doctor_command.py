from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import write_images

from nas.cli import _doctor, cli, main
from nas.doctor import Check


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    return int(ended.value.code or 0), capsys.readouterr().out


def found(monkeypatch: pytest.MonkeyPatch, *checks: Check) -> None:
    def examine(**_: Any) -> Iterator[Check]:
        yield from checks

    monkeypatch.setattr(_doctor, "examine", examine)


def command_of(out: str) -> list[str]:
    """The command of the last line, which must be one that `nas` understands."""
    last = out.strip().splitlines()[-1]
    assert last.startswith("next ")
    words = shlex.split(last[last.index("nas ") :])
    cli.commands[words[1]].make_context(words[1], words[2:])
    return words


def test_a_problem_is_the_exit_code(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fine = Check("device", "cores", "ok", "2 of 2")
    warned = Check("folders", "results", "warning", "little room", "Free space.")
    found(monkeypatch, fine, warned)
    code, out = run(capsys)
    assert code == 0 and "a search can run; 1 warning" in out and "Free space." in out
    found(monkeypatch, fine, warned, Check("folders", "results", "problem", "no room", "Free it."))
    code, out = run(capsys, "--space", "v2_tiny", "--data", "my photos", "--batch-size", "32")
    assert code == 1 and "1 problem would stop a search, 1 warning" in out
    words = ["nas", "doctor", "--space", "v2_tiny", "--data", "my photos", "--batch-size", "32"]
    assert command_of(out) == words


def test_text_is_never_read_as_markup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, Check("folders", "[name]", "problem", "results/[run]/x[/tmp]: no", "Make [/it] writable."))
    _, out = run(capsys, "--data", "[photos]")
    assert "results/[run]/x[/tmp]: no" in out and "Make [/it] writable." in out and "[name]" in out


def test_the_last_line_is_the_search(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch)
    _, out = run(capsys)
    assert "data" in out and "--data FOLDER" in out
    assert command_of(out) == ["nas", "search", "--budget", "12", "--space", "v2_tiny"]
    _, out = run(capsys, "--space", "v1", "--data", "my photos", "--device", "cpu")
    words = command_of(out)
    assert words[:2] == ["nas", "search"] and words[words.index("--data") + 1] == "my photos"
    assert "--data FOLDER" not in out


def test_a_broken_image_is_left_out_and_a_recipe_is_taken(
    capsys: pytest.CaptureFixture[str], tiny_space_file: Path, tiny_recipe_file: Path, tmp_path: Path
) -> None:
    images = write_images(tmp_path / "images", per_class=12)
    (images / "red" / "bad.png").write_text("no image")
    given = [
        "--data",
        str(images),
        "--space",
        str(tiny_space_file),
        "--recipe",
        str(tiny_recipe_file),
        "--device",
        "cpu",
    ]
    code, out = run(capsys, *given)
    assert code == 1 and "bad.png" in out
    code, out = run(capsys, *given, "--skip-broken")
    assert code == 0 and "recipe tiny_recipe (batch 16)" in out and "bad.png" in out
    words = command_of(out)
    assert words[words.index("--recipe") + 1] == str(tiny_recipe_file) and words[-1] == "--skip-broken"


def test_the_whole_page_on_real_images(
    capsys: pytest.CaptureFixture[str], tiny_space_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out = run(capsys, "--data", "fashion-mnist-subset", "--space", str(tiny_space_file), "--batch-size", "8")
    assert code == 0
    for words in (
        "software",
        "device",
        "folders",
        "space",
        "10, 1400 images each",
        "images/s",
        "bottleneck",
        "verdict",
    ):
        assert words in out, words
    assert "could not be looked at" not in out
    command_of(out)
