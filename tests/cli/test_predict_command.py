from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trained_runs

from nas.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(item) for item in arguments])
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    trained_runs.write_photos(root / "data", "", 8, 0)
    return trained_runs.write_photos(root, "test", 3, 1)


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_runs.make(tmp_path_factory.mktemp("runs") / "run", photos / "data")[0]


def test_rows_go_to_stdout_and_the_accuracy_to_stderr(
    trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "predict", trained, photos / "test", "--top", "2", "--device", "cpu")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and list(rows[0]) == ["path", "class", "probability", "class_2", "probability_2"]
    assert [row["path"] for row in rows] == [str(path) for path in sorted((photos / "test").rglob("*.*"))]
    assert all(float(row["probability"]) >= float(row["probability_2"]) for row in rows)
    right = sum(row["class"] == Path(row["path"]).parent.name for row in rows)
    lines = [line.split() for line in err.splitlines()]
    assert ["all", "of", "them", "9", str(right), f"{right / 9:.4f}"] in [line[:6] for line in lines]
    assert [line[0] for line in lines[1:4]] == [
        "blue",
        "green",
        "red",
    ] and "at 20 x 20 pixels, trained by nas train" in err
    _, alone, _ = run(capsys, "predict", trained, photos / "test" / "red" / "0.png", "--device", "cpu")
    assert alone.splitlines()[0] == "path,class,probability" and len(alone.splitlines()) == 2


def test_a_file_is_whole_or_absent(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.csv"
    code, shown, err = run(capsys, "predict", trained, photos / "test", "--out", out, "--device", "cpu")
    assert (code, err) == (0, "") and len(out.read_text().splitlines()) == 10
    assert "all of them" in shown and shown.splitlines()[-1] == f"predictions of 9 images: {out}"
    before = out.read_text()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"")
    (tmp_path / "broken" / "a.png").write_bytes((photos / "test" / "red" / "0.png").read_bytes())
    code, _, err = run(capsys, "predict", trained, tmp_path / "broken", "--out", out, "--device", "cpu")
    assert code == 1 and "x.png: cannot be decoded (the file is empty)" in err and len(err.splitlines()) == 1
    assert out.read_text() == before and sorted(os.listdir(tmp_path)) == ["broken", "found.csv"]
    code, shown, err = run(
        capsys, "predict", trained, tmp_path / "broken", "--out", out, "--skip-broken", "--device", "cpu"
    )
    assert code == 0 and len(out.read_text().splitlines()) == 2 and "1 of 2 images could not be read" in err
    assert f"left out: {tmp_path}/broken/x.png (the file is empty)" in err
    (tmp_path / "broken" / "a.png").unlink()
    code, _, err = run(capsys, "predict", trained, tmp_path / "broken", "--skip-broken", "--device", "cpu")
    assert code == 1 and "none of the 1 images can be read" in err
    for place, said in ((os.devnull, "is no regular file"), (tmp_path / "no" / "x.csv", "is no folder. Make it")):
        code, _, err = run(capsys, "predict", trained, photos / "test", "--out", place, "--device", "cpu")
        assert code == 1 and said in err


def test_images_of_the_training_are_pointed_out(
    trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, err = run(capsys, "predict", trained, photos / "data", "--device", "cpu")
    assert "lie in the data of the training" in err
    _, _, err = run(capsys, "predict", trained, photos / "test", "--device", "cpu")
    assert "lie in the data of the training" not in err


def test_mistakes_take_one_line(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, code, words in (
        ((trained, tmp_path / "gone"), 1, "gone: no such file or folder"),
        ((photos, photos / "test"), 1, "not a run folder"),
        (("mobilenet_v1", photos / "test"), 2, "is an architecture, and has no weights"),
        (("results/gone", photos / "test"), 2, "results/gone: no such file"),
        ((trained, photos / "test", "--top", "4"), 2, "--top: found 4; the network tells 3 classes apart"),
    ):
        found, out, err = run(capsys, "predict", *arguments, "--device", "cpu")
        assert (found, out) == (code, "") and words in err and len(err.splitlines()) == 1
    found, _, err = run(capsys, "report", trained)
    assert found == 2 and "is a train run, not a search" in err
    found, _, err = run(capsys, "rerank", trained)
    assert found == 2 and "is a train run, not a search" in err


def test_a_training_is_shown_and_compared(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", trained)
    assert code == 0 and "input 3 x 16 x 16, 3 classes" in out
    code, out, _ = run(capsys, "show", "--compare", "mobilenet_v1", trained)
    assert code == 0 and "tiny_network" in out


@pytest.mark.slow
def test_a_reader_that_has_enough_is_no_error(trained: Path, photos: Path) -> None:
    command = f"{sys.executable} -m nas predict {trained} {photos / 'test'} --batch-size 1 --device cpu"
    with subprocess.Popen(command.split(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
