from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nas import owner, runs
from nas.errors import RunError

FACTS: dict[str, Any] = {
    "space_hash": "abc",
    "recipe": {"name": "quick", "betas": (0.9, 0.99)},
    "data": {"fingerprint": "f00d"},
    "device": {"type": "cpu", "threads": 1},
    "reward": {"w": -0.07, "v": -0.05},
    "limits": [],
    "seed": 0,
    "sampler": "tpe",
    "pruner": "median",
}


def made_run(root: Path | None, kind: str, label: str, facts: dict[str, Any], out: Path | None = None) -> runs.Run:
    return runs.create(runs.new_folder(root, kind, label, out), kind, facts)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_run_is_named_by_time_kind_and_label(tmp_path: Path) -> None:
    run = made_run(tmp_path, "search", "My space/cpu", FACTS)
    assert re.fullmatch(r"\d{8}-\d{6}-search-my-space-cpu", run.folder.name)
    manifest = json.loads(run.path("manifest.json").read_text())
    assert manifest["manifest_version"] == runs.MANIFEST_VERSION
    assert (manifest["kind"], manifest["seed"], manifest["data"]) == ("search", 0, FACTS["data"])
    assert {"created", "host", "git"} <= set(manifest)
    assert names(run.folder) == ["manifest.json"]


def test_runs_of_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    made = {made_run(tmp_path, "search", "a", FACTS).folder for _ in range(3)}
    assert len(made) == 3


def test_an_opened_run_is_the_one_that_was_made(tmp_path: Path) -> None:
    made = made_run(None, "search", "a", FACTS, out=tmp_path / "mine")
    opened = runs.open_run(tmp_path / "mine")
    assert opened.folder == made.folder
    assert opened.manifest == json.loads(json.dumps(made.manifest))


def test_a_folder_with_a_run_is_not_taken_again(tmp_path: Path) -> None:
    made_run(None, "search", "a", FACTS, out=tmp_path)
    with pytest.raises(RunError, match=r"holds a run already\. Continue it with --resume"):
        made_run(None, "search", "a", FACTS, out=tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RunError, match=r"file/run: cannot be made or written \(Not a directory\).*--out"):
        made_run(None, "search", "a", FACTS, out=blocked / "run")
    with pytest.raises(RunError, match="cannot be made"):
        made_run(blocked, "search", "a", FACTS)


def test_a_file_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("old")
    with pytest.raises(RunError, match=r"cannot be written \(Not a directory\)"):
        runs.write_text(blocked / "trials.csv", "new")
    assert blocked.read_text() == "old"


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    path = tmp_path / "trials.csv"
    runs.write_text(path, "old\n")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(RunError, match=r"trials\.csv: cannot be written \(No space left on device\)\. Free space"):
        runs.write_text(path, "new\n")
    assert path.read_text() == "old\n"
    assert names(tmp_path) == ["trials.csv"]


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "manifest.json"
    runs.write_json(path, {"a": 1})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}


def test_bytes_are_written_whole_too(tmp_path: Path) -> None:
    runs.write_bytes(tmp_path / "a.png", b"\x00\xff")
    assert (tmp_path / "a.png").read_bytes() == b"\x00\xff"
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o644
    with pytest.raises(RunError, match="cannot be written"):
        runs.write_bytes(tmp_path / "absent" / "a.png", b"")


def test_who_is_refused_leaves_the_owners_lock_and_folder_alone(tmp_path: Path) -> None:
    """Also before the run has a manifest, while its owner reads the data."""
    folder = tmp_path / "run"
    folder.mkdir()
    with owner.owned(folder):
        with pytest.raises(RunError, match=rf"process {os.getpid()} on .* is working on this run"), owner.owned(folder):
            pass
        assert (folder / ".lock").exists()
        with pytest.raises(RunError, match="is working on this run"), owner.owned(folder):
            pass
    assert not folder.exists(), "its owner did not begin"


def test_a_new_owner_deletes_what_a_killed_one_left_half_written(tmp_path: Path) -> None:
    made_run(None, "search", "a", FACTS, out=tmp_path)
    (tmp_path / "checkpoints").mkdir()
    left = [tmp_path / ".trials.csv-x1.tmp", tmp_path / "checkpoints" / ".a.pt-x2.tmp"]
    for path in left:
        path.write_text("half")
    with owner.owned(tmp_path):
        assert not any(path.exists() for path in left)


def test_a_folder_with_other_files_is_no_place_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("mine")
    with pytest.raises(RunError, match=r"is not empty \(it holds space\.yaml\) and no run; .* with --out"):
        runs.new_folder(None, "search", "x", tmp_path)
    (tmp_path / ".lock").touch()  # of a run that was killed before it had a manifest
    assert runs.new_folder(None, "search", "x", tmp_path) == tmp_path


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="absent: no such folder"):
        runs.open_run(tmp_path / "absent")
    with pytest.raises(RunError, match=r"not a run folder \(it has no manifest\.json\)"):
        runs.open_run(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", "3", "\udcff"])
def test_a_manifest_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=r"manifest\.json: cannot be read"):
        runs.open_run(tmp_path)


@pytest.mark.parametrize("version", [None, 0, 99, "1"])
def test_a_manifest_of_another_version(tmp_path: Path, version: object) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"manifest_version": version}))
    with pytest.raises(RunError, match=rf"another version \(manifest_version {version}; this program reads 1\)"):
        runs.open_run(tmp_path)


def test_the_same_conditions_may_continue(tmp_path: Path) -> None:
    made_run(None, "search", "a", FACTS | {"command": "x"}, out=tmp_path)
    runs.check_same(runs.open_run(tmp_path), FACTS | {"command": "y"})


@pytest.mark.parametrize("key", runs.MUST_MATCH)
def test_each_changed_condition_is_named(tmp_path: Path, key: str) -> None:
    run = made_run(None, "search", "a", FACTS, out=tmp_path)
    with pytest.raises(RunError, match=rf'cannot be continued.* {key}: the run has .*, now "other"\. Start a new run'):
        first, _, rest = key.partition(".")
        runs.check_same(
            runs.open_run(run.folder), FACTS | {first: {**FACTS.get(first, {}), rest: "other"} if rest else "other"}
        )


def test_all_changes_are_named_at_once(tmp_path: Path) -> None:
    made_run(None, "search", "a", FACTS, out=tmp_path)
    with pytest.raises(RunError, match=r"data.fingerprint: .*; seed: the run has 0, now 1"):
        runs.check_same(runs.open_run(tmp_path), FACTS | {"data": 1, "seed": 1})


def test_the_latest_run_is_the_newest_of_its_kind_and_never_a_published_one(tmp_path: Path) -> None:
    made = {
        "first": "search",
        "named-by-hand": "search",
        "grid": "scale",
        "published": "search",
        "published/last": "search",
    }
    for day, (name, kind) in enumerate(made.items(), 1):
        run = made_run(None, kind, "x", FACTS, out=tmp_path / name)
        runs.write_json(run.path("manifest.json"), {**run.manifest, "created": f"2026-01-{day:02d}T00:00:00+00:00"})
    assert runs.latest(tmp_path).name == "named-by-hand"
    assert runs.latest(tmp_path, "scale").name == "grid"


def test_no_latest_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no search run"):
        runs.latest(tmp_path)
    with pytest.raises(RunError, match="holds no search run"):
        runs.latest(tmp_path / "absent")


def test_a_folder_without_git_has_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert runs.git_revision() is None


def test_a_run_has_one_owner_at_a_time(tmp_path: Path) -> None:
    run = made_run(None, "search", "a", FACTS, out=tmp_path / "run")
    code = (
        "import pathlib, sys; from nas import owner\n"
        f"with owner.owned(pathlib.Path({str(run.folder)!r})):\n    print('mine', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"mine\n"
        with (
            pytest.raises(RunError, match=rf"process {other.pid} on .* is working on this run"),
            owner.owned(run.folder),
        ):
            pass
        other.kill()  # as hard as it comes: the lock goes with the process
    with owner.owned(run.folder):
        pass


def test_a_run_that_never_began_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = runs.new_folder(tmp_path, "search", "a")
    with pytest.raises(ValueError), owner.owned(folder):
        raise ValueError
    assert names(tmp_path) == []


def test_a_raised_budget_is_remembered(tmp_path: Path) -> None:
    run = made_run(None, "search", "a", FACTS | {"config": {"budget": 2}}, out=tmp_path)
    runs.update(run, {"config": {"budget": 3}})
    assert runs.open_run(tmp_path).manifest["config"] == {"budget": 3}
