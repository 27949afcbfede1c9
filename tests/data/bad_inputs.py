"""Inputs that cannot be used, each made on the fly, and what their message must say. `test_bad_inputs.py` tries them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from data_samples import picture, write_classes
from PIL import Image

from nas.data import decode

Make = Callable[[Path, pytest.MonkeyPatch], object]


@dataclass(frozen=True)
class Case:
    """One bad input.

    `make` writes it below an empty folder, which is the current one, and returns the value for `--data` if that is
    not `photos` there. The message must hold all `says`. `foreign`: the reason in brackets is a library's own, and
    differs between versions.
    """

    source: str
    name: str
    make: Make
    says: tuple[str, ...]
    foreign: bool = False
    skip_broken: bool = False


CASES: list[Case] = []


def case(
    source: str, name: str, *says: str, foreign: bool = False, skip_broken: bool = False
) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        CASES.append(Case(source, name, make, says, foreign, skip_broken))
        return make

    return add


def two_classes(folder: Path, count: int = 4, suffix: str = ".png") -> Path:
    return write_classes(folder / "photos", {"cat": count, "dog": count}, suffix=suffix)


def with_file(folder: Path, name: str, content: bytes) -> None:
    two_classes(folder)
    (folder / "photos" / "cat" / name).write_bytes(content)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b"x"), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@case("any", "a path that does not exist", "no such file or folder", "understood are", "a folder of images")
def nowhere(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return "photoz"


@case("any", "a file of another kind", "not something that holds images", "understood are")
def text_file(folder: Path, patch: pytest.MonkeyPatch) -> object:
    (folder / "notes.txt").write_text("hello")
    return "notes.txt"


@case("folder", "an empty folder", "photos: found no class folder", "folder of its own")
def empty_folder(folder: Path, patch: pytest.MonkeyPatch) -> object:
    (folder / "photos").mkdir()
    return None


@case("folder", "images without class folders", "no class folder (images without one: 2)")
def loose(folder: Path, patch: pytest.MonkeyPatch) -> object:
    (folder / "photos").mkdir()
    for seed in range(2):
        picture(seed).save(folder / "photos" / f"{seed}.png")
    return None


@case("folder", "one class only", "found one class ('cat')", "at least 2 classes")
def one_class(folder: Path, patch: pytest.MonkeyPatch) -> object:
    write_classes(folder / "photos", {"cat": 4})
    return None


@case("folder", "a class with one image", "class 'dog' has 1 image;", "at least 2 are needed")
def one_image(folder: Path, patch: pytest.MonkeyPatch) -> object:
    write_classes(folder / "photos", {"cat": 4, "dog": 1})
    return None


@case("folder", "a class without images", "emu: a class folder without images", "remove the folder")
def no_image(folder: Path, patch: pytest.MonkeyPatch) -> object:
    two_classes(folder)
    (folder / "photos" / "emu").mkdir()
    return None


@case("folder", "validation without training", "found val/ but no train/")
def only_val(folder: Path, patch: pytest.MonkeyPatch) -> object:
    write_classes(folder / "photos" / "val", {"cat": 2, "dog": 2})
    return None


@case("folder", "two validation splits", "found Val/, valid/; only one of them")
def two_vals(folder: Path, patch: pytest.MonkeyPatch) -> object:
    for name in ("train", "Val", "valid"):
        write_classes(folder / "photos" / name, {"cat": 2, "dog": 2})
    return None


@case("folder", "a class that is in validation only", "class 'emu' is in the validation split but not in the training")
def unknown_in_train(folder: Path, patch: pytest.MonkeyPatch) -> object:
    write_classes(folder / "photos" / "train", {"cat": 3, "dog": 3})
    write_classes(folder / "photos" / "val", {"cat": 1, "emu": 1})
    return None


@case("image", "a file of zero bytes", "photos/cat/x.jpg: cannot be decoded (the file is empty)", "--skip-broken")
def zero_bytes(folder: Path, patch: pytest.MonkeyPatch) -> object:
    with_file(folder, "x.jpg", b"")
    return None


@case("image", "a JPEG that ends early", "x.jpg: cannot be decoded (", "--skip-broken", foreign=True)
def cut_jpeg(folder: Path, patch: pytest.MonkeyPatch) -> object:
    buffer = io.BytesIO()
    picture(0, (64, 64)).save(buffer, "JPEG")
    with_file(folder, "x.jpg", buffer.getvalue()[:-400])
    return None


@case("image", "a text file called .jpg", "x.jpg: cannot be decoded (not an image: none of JPEG, PNG")
def text_as_jpeg(folder: Path, patch: pytest.MonkeyPatch) -> object:
    with_file(folder, "x.jpg", b"<html>404 not found</html>")
    return None


@case(
    "image", "a decompression bomb", "x.png: cannot be decoded (60000 x 60000 pixels, more than 134,217,728)", "Shrink"
)
def bomb(folder: Path, patch: pytest.MonkeyPatch) -> object:
    with_file(folder, "x.png", png_header(60_000, 60_000))
    return None


@case("image", "pixels that are 32-bit floats", "x.tif: cannot be decoded (32-bit float pixels have no fixed range)")
def float_tiff(folder: Path, patch: pytest.MonkeyPatch) -> object:
    two_classes(folder)
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(folder / "photos" / "cat" / "x.tif")
    return None


@case("image", "a file that may not be read", "cat/000.png: cannot be opened (Permission denied)")
def unreadable(folder: Path, patch: pytest.MonkeyPatch) -> object:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    two_classes(folder)
    patch.setattr(decode, "open", refuse, raising=False)  # chmod does not keep the administrator out
    return None


@case("image", "a link that leads nowhere", "cat/gone.png: cannot be opened (No such file or directory)")
def dangling(folder: Path, patch: pytest.MonkeyPatch) -> object:
    two_classes(folder)
    (folder / "photos" / "cat" / "gone.png").symlink_to("nowhere.png")
    return None


@case("image", "a pipe called .png", "cat/pipe.png: cannot be decoded (not a regular file)")
def pipe(folder: Path, patch: pytest.MonkeyPatch) -> object:
    two_classes(folder)
    os.mkfifo(folder / "photos" / "cat" / "pipe.png")
    return None


@case("image", "a broken file with a line end in its name", r"cat/a\nb.jpg: cannot be decoded (the file is empty)")
def line_end(folder: Path, patch: pytest.MonkeyPatch) -> object:
    with_file(folder, "a\nb.jpg", b"")
    return None


@case("image", "a broken file whose name is not UTF-8", r"cat/\udcff.jpg: cannot be decoded (the file is empty)")
def not_utf_8(folder: Path, patch: pytest.MonkeyPatch) -> object:
    with_file(folder, os.fsdecode(b"\xff.jpg"), b"")
    return None


@case("skip", "more than half broken", "more than half of the 10 images cannot be read", skip_broken=True)
def mostly_broken(folder: Path, patch: pytest.MonkeyPatch) -> object:
    write_classes(folder / "photos", {"cat": 5, "dog": 5})
    for path in [folder / "photos" / name / f"{row:03}.png" for name in ("cat", "dog") for row in range(3)]:
        path.write_bytes(b"")
    return None


@case("skip", "a class that loses all its images", "class 'dog' has no readable training image left", skip_broken=True)
def lost_class(folder: Path, patch: pytest.MonkeyPatch) -> object:
    for path in write_classes(folder / "photos", {"cat": 20, "dog": 2}).glob("dog/*"):
        path.write_bytes(b"")
    return None
