"""Does any damaged file make the program fall over? Thousands of them, of every kind that it reads.

Whole files of each kind are damaged by a few changes at a time (bytes flipped, cut, doubled, filled; in text also lines moved and
values replaced by awkward ones), and read as the program reads them. Allowed are a result and an error that `nas` explains
(`NasError`). Anything else is counted as a crash, by its kind and place; more than `LIMIT` seconds for one input as a hang.

    python -m benchmarks.fuzz --inputs 2000

Inputs come from hypothesis with a fixed seed, so that a second run sees the same. Writes `fuzz.json` under the results folder of
the device: inputs, how many were refused, seconds, crashes and hangs.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import os
import pickle
import signal
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import optuna
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks._common import conditions, folder, store
from benchmarks._common import settings as settings_of
from nas import catalog, report, runs
from nas.data import load
from nas.devices import pick_device
from nas.engine import checkpoints
from nas.errors import NasError
from nas.evaluate import PhaseResult
from nas.search.begin import read as warm_read
from nas.search.record import TrialRecord
from nas.search.session import reopened
from nas.space import choices, decode, library, middle_choose
from nas.train.full_recipes import load_full_recipe
from nas.train.recipes import load_recipe
from nas.weights import load_weights

LIMIT = 60
"""Seconds for one input; the slowest take a second on a busy machine."""

AWKWARD = (
    "null", "-1", "0", "1e309", ".nan", "99999999999999999999", "[]", "{}", "[[[[]]]]", "[" * 3000, "&a [*a]", "*b", "<<: *c",
    "!!python/object:os.x {}", "!!binary AA=", "'", '"', "\t", "#", "true", "2024-13-45", "1:30:00", "0x", "\u0000", "\u202e",
    "x" * 300,
)  # fmt: skip
"""What is put into text in place of a value."""


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Args:
        name: For people. file: How the damaged file is called. whole: Makes undamaged contents, in a folder of its own.
        read: Reads a damaged file as the program does; its folder is empty but for it, and goes away after.
        is_text: Whether it is damaged as text as well.
    """

    name: str
    file: str
    whole: Callable[[Path], Sequence[bytes]]
    read: Callable[[Path], object]
    is_text: bool = False


@dataclass
class Found:
    """What the inputs of one target came to."""

    inputs: int = 0
    refused: int = 0
    seconds: float = 0.0
    crashes: Counter[str] = field(default_factory=Counter)
    traces: dict[str, str] = field(default_factory=dict)
    hangs: int = 0


class _HungError(Exception):
    """One input took too long."""


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _HungError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


Change = tuple[str, float, int, str]
"""What is done, where as a share of the file, with what number, with what text."""

BYTES = ("flip", "cut", "drop", "double", "fill", "number")
LINES = ("value", "drop line", "double line", "swap lines", "indent", "insert")


def changes(is_text: bool) -> st.SearchStrategy[list[Change]]:
    """Return the strategy that draws the changes of one input."""
    kinds = BYTES + 3 * LINES if is_text else BYTES
    one = st.tuples(
        st.sampled_from(kinds), st.floats(0, 1, exclude_max=True), st.integers(0, 255), st.sampled_from(AWKWARD)
    )
    return st.lists(one, min_size=1, max_size=3)


def damaged(content: bytes, wanted: Sequence[Change]) -> bytes:
    """Return a file with changes."""
    for kind, place, number, text in wanted:
        content = (
            _line_changed(content, kind, place, number, text)
            if kind in LINES
            else _bytes_changed(content, kind, place, number)
        )
    return content


def _bytes_changed(content: bytes, kind: str, place: float, number: int) -> bytes:
    at = int(place * len(content))
    end = at + 1 + number % 16
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ (1 << number % 8)]) + content[at + 1 :] if content else content
    if kind == "cut":
        return content[:at]
    if kind == "drop":
        return content[:at] + content[end:]
    if kind == "double":
        return content[:end] + content[at:]
    if kind == "fill":
        return content[:at] + bytes([number]) * (end - at) + content[end:]
    # A number of four bytes that is very large, as sizes and counts of binary files are.
    return content[:at] + (2**31 - number).to_bytes(4, "little" if number % 2 else "big") + content[at + 4 :]


def _line_changed(content: bytes, kind: str, place: float, number: int, text: str) -> bytes:
    lines = content.decode("utf-8", "replace").split("\n")
    at, other = int(place * len(lines)), number % len(lines)
    if kind == "value":
        for mark in (": ", ",", "- "):
            if mark in lines[at]:
                parts = lines[at].split(mark)
                which = 1 + number % (len(parts) - 1)
                lines[at] = mark.join([*parts[:which], text, *parts[which + 1 :]])
                break
        else:
            lines[at] = text
    elif kind == "drop line":
        del lines[at]
    elif kind == "double line":
        lines.insert(at, lines[at])
    elif kind == "swap lines":
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == "indent":
        lines[at] = " " * (number % 9) + lines[at].lstrip()
    else:
        lines.insert(at, text)
    return "\n".join(lines).encode("utf-8", "replace")


def tried(target: Target, inputs: int, base: Path, number: int = 0) -> Found:
    """Damage and read files of one kind, and return what happened.

    Args:
        base: A folder for the files. number: Seed of the damage.
    """
    found = Found()
    (base / "whole").mkdir(parents=True)
    contents = target.whole(base / "whole")
    for content in contents:  # undamaged, for else a refusal says nothing
        with tempfile.TemporaryDirectory(dir=base) as place:
            (Path(place) / target.file).write_bytes(content)
            target.read(Path(place) / target.file)

    @seed(number)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, len(contents) - 1), changes(target.is_text))
    def one(which: int, wanted: list[Change]) -> None:
        found.inputs += 1
        with tempfile.TemporaryDirectory(dir=base) as place:
            path = Path(place) / target.file
            path.write_bytes(damaged(contents[which], wanted))
            try:
                with _limited():
                    target.read(path)
            except NasError as error:
                if str(error).strip():
                    found.refused += 1
                else:
                    found.crashes["an error without a message"] += 1
            except _HungError:
                found.hangs += 1
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)
                ours = [frame for frame in last if f"{os.sep}nas{os.sep}" in frame.filename] or list(last)
                what = f"{type(error).__name__} in {Path(ours[-1].filename).name}, {ours[-1].name}"
                found.crashes[what] += 1
                found.traces.setdefault(what, traceback.format_exc())

    start = time.perf_counter()
    one()
    found.seconds = time.perf_counter() - start
    return found


def _encoded(kind: str, number: int = 0) -> bytes:
    pixels = np.random.RandomState(number).randint(0, 256, (10, 10, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _images() -> dict[str, bytes]:
    return {f"{name}/{number}.png": _encoded("PNG", number) for name in ("cats", "dogs") for number in range(4)}


def _zip(place: Path) -> list[bytes]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _images().items():
            archive.writestr(name, content)
    return [buffer.getvalue()]


def _tar(place: Path) -> list[bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in _images().items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return [buffer.getvalue(), gzip.compress(buffer.getvalue())]


def _npz(place: Path) -> list[bytes]:
    buffer = io.BytesIO()
    images = np.random.RandomState(0).randint(0, 256, (8, 10, 10, 3), dtype=np.uint8)
    np.savez(buffer, train_images=images, train_labels=np.arange(8) % 2)
    return [buffer.getvalue()]


def _parquet(place: Path) -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": _encoded("PNG", number), "path": f"{number}.png"} for number in range(8)]
    pq.write_table(pa.table({"image": pa.array(rows, kind), "label": pa.array([n % 2 for n in range(8)])}), place / "x")
    return [(place / "x").read_bytes()]


def _idx(place: Path) -> list[bytes]:
    images = np.random.RandomState(0).randint(0, 256, (8, 10, 10), dtype=np.uint8)
    return [b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (8, 10, 10)) + images.tobytes()]


def _read_idx(path: Path) -> object:
    labels = b"\0\0\x08\x01" + (8).to_bytes(4, "big") + bytes(n % 2 for n in range(8))
    (path.parent / "train-labels-idx1-ubyte").write_bytes(labels)
    return load(str(path.parent), resolution=16)


def _pickle(place: Path) -> list[bytes]:
    batch = {
        b"data": np.zeros((8, 3072), dtype=np.uint8),
        b"labels": [n % 2 for n in range(8)],
        b"filenames": [b"x"] * 8,
    }
    return [pickle.dumps(batch, protocol=2)]


def _read_cifar(path: Path) -> object:
    """Read five copies of a damaged batch, as CIFAR-10 has."""
    content = path.read_bytes()
    for number in range(1, 6):
        (path.parent / f"data_batch_{number}").write_bytes(content)
    (path.parent / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"cat", b"dog"]}, protocol=2))
    return load(str(path.parent), resolution=16)


def _read_images(path: Path) -> object:
    """Read a folder of images of which one is damaged, left out if it cannot be read."""
    for name, content in _images().items():
        (path.parent / name).parent.mkdir(exist_ok=True)
        (path.parent / name).write_bytes(content)
    path.rename(path.parent / "cats" / path.name)
    return load(str(path.parent), resolution=16, skip_broken=True)


def _read_data(path: Path) -> object:
    return load(str(path), resolution=16)


def _spaces(place: Path) -> list[bytes]:
    return [library.find(name).read_bytes() for name in ("v2_tiny", "v2", "efficientnet_b0")]


def _read_space(path: Path) -> object:
    found = catalog.load_space(path)
    list(choices(found))
    return decode(found, middle_choose, num_classes=10, in_channels=3)


def _recipes(place: Path) -> list[bytes]:
    return [
        b"extends: quick\nepochs: 2\nprogressive:\n  phases: 2\n  size: [0.5, 1.0]\n  mixup: [0, 0.2]\nprecision: auto\n"
    ]


def _full_recipes(place: Path) -> list[bytes]:
    return [b"extends: short\nepochs: 3\nprogressive:\n  phases: 2\n  size: [0.5, 1.0]\nlearning_rate: 0.01\n"]


def _state(place: Path) -> list[bytes]:
    checkpoints.save(place, "a", [PhaseResult(0, "ok", 1.5)], {"weight": torch.zeros(3, 4), "step": 5})
    return [checkpoints.path_of(place, "a").read_bytes()]


def _read_state(path: Path) -> object:
    return checkpoints.load(path.parent, path.stem)


def _weights(place: Path) -> list[bytes]:
    from safetensors.torch import save

    return [save(torch.nn.Linear(3, 2).state_dict())]


def _read_weights(path: Path) -> object:
    return load_weights(torch.nn.Linear(3, 2), path)


RUN = Path(__file__).parents[1] / "results" / "published" / "v2_tiny-200"


def _of_run(name: str) -> Callable[[Path], Sequence[bytes]]:
    def whole(place: Path) -> Sequence[bytes]:
        content = (RUN / name).read_bytes()
        return [b"\n".join(content.split(b"\n")[:16]) + b"\n" if name == "trials.csv" else content]

    return whole


def _read_run(path: Path) -> object:
    """Read a run of which one file is damaged, and write its page; and look whether it could be continued."""
    for name in ("manifest.json", "trials.csv", "space.yaml", "finalists.json", "warnings.json", "winner.yaml"):
        if name != path.name:
            (path.parent / name).write_bytes(_of_run(name)(path.parent)[0])
    with contextlib.suppress(NasError):
        reopened(path.parent)
    view = report.load_run(path.parent)
    return report.page(view)


def _study(place: Path) -> Sequence[bytes]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name="search", storage=f"sqlite:///{place}/study.db", direction="maximize")
    for number in range(5):
        trial = study.ask({"s1.kernel_size": optuna.distributions.IntDistribution(0, 1)})
        record = TrialRecord(
            trial.number, "trained", f"{number:016x}", "a network", reward=0.5, val_accuracy=0.5, num_params=1e5
        )
        for name, value in record.attributes().items():
            trial.set_user_attr(name, value)
        trial.report(0.5, 1)
        study.tell(trial, 0.5)
    study._storage.remove_session()
    return [(place / "study.db").read_bytes()]


def _read_study(path: Path) -> object:
    """Read another run's networks for a warm start."""
    for name in ("manifest.json", "space.yaml"):
        (path.parent / name).write_bytes(_of_run(name)(path.parent)[0])
    return warm_read(path.parent, runs.open_run(path.parent).manifest)


TARGETS = (
    Target("space", "space.yaml", _spaces, _read_space, is_text=True),
    Target("recipe", "recipe.yaml", _recipes, load_recipe, is_text=True),
    Target("training recipe", "recipe.yaml", _full_recipes, load_full_recipe, is_text=True),
    Target("manifest of a run", "manifest.json", _of_run("manifest.json"), _read_run, is_text=True),
    Target("trials of a run", "trials.csv", _of_run("trials.csv"), _read_run, is_text=True),
    Target("finalists of a run", "finalists.json", _of_run("finalists.json"), _read_run, is_text=True),
    Target("space of a run", "space.yaml", _of_run("space.yaml"), _read_run, is_text=True),
    Target("winner of a run", "winner.yaml", _of_run("winner.yaml"), catalog.load_arch, is_text=True),
    Target("study", "study.db", _study, _read_study),
    Target("checkpoint", "a.pt", _state, _read_state),
    Target("weights", "weights.safetensors", _weights, _read_weights),
    Target("zip", "photos.zip", _zip, _read_data),
    Target("tar", "photos.tar", _tar, _read_data),
    Target("npz", "photos.npz", _npz, _read_data),
    Target("parquet", "photos.parquet", _parquet, _read_data),
    Target("IDX", "train-images-idx3-ubyte", _idx, _read_idx),
    Target("CIFAR batch", "data_batch_1", _pickle, _read_cifar),
    Target("PNG", "broken.png", lambda place: [_encoded("PNG")], _read_images),
    Target("JPEG", "broken.jpg", lambda place: [_encoded("JPEG")], _read_images),
    Target("GIF and WebP", "broken.webp", lambda place: [_encoded("WEBP"), _encoded("GIF")], _read_images),
)  # fmt: skip


def main() -> None:
    """Read the damaged files, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000, help="of each kind")
    parser.add_argument("--only", nargs="*", choices=[target.name for target in TARGETS], help="these kinds alone")
    parser.add_argument("--traces", action="store_true", help="print a traceback of each crash")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args()
    device = pick_device("cpu")
    content: dict[str, Any] = {**conditions(device), "settings": settings_of(options), "kinds": {}}
    with tempfile.TemporaryDirectory() as base:
        os.environ["NAS_CACHE"] = str(Path(base) / "cache")
        for number, target in enumerate(TARGETS):
            if options.only and target.name not in options.only:
                continue
            found = tried(target, options.inputs, Path(base) / str(number), options.seed)
            content["kinds"][target.name] = {**vars(found), "crashes": dict(found.crashes)}
            del content["kinds"][target.name]["traces"]  # they name places of this machine
            crashes = sum(found.crashes.values())
            print(
                f"{target.name:20} {found.inputs:6} inputs, {found.refused:6} refused, {found.seconds:6.1f} s, "
                f"{crashes} crashes, {found.hangs} hangs",
                flush=True,
            )
            for what, times in found.crashes.most_common():
                print(f"    {times} x {what}\n{found.traces.get(what, '') if options.traces else ''}", flush=True)
    store(folder(device, options.out) / "fuzz.json", content)


if __name__ == "__main__":
    main()
