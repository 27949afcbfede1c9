"""Zip and tar archives that cannot be used."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from bad_inputs import case
from data_samples import encoded
from PIL import Image

from nas.data import _tar


def zip_of(folder: Path, extra: dict[str | zipfile.ZipInfo, bytes] | None = None) -> Path:
    path = folder / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for row in range(8):
            archive.writestr(f"photos/{'cat' if row % 2 else 'dog'}/{row}.png", encoded(row))
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return path


def special_zip_member(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@case("zip", "a member that leads out of the archive", "member '../evil.png' leads out of the archive")
def zip_traversal(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return zip_of(folder, {"../evil.png": encoded(9)}).name


@case("zip", "a member with an absolute path", "member '/etc/evil.png' has an absolute path")
def zip_absolute(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return zip_of(folder, {"/etc/evil.png": encoded(9)}).name


@case("zip", "a member that is a link", "member 'photos/cat/l.png' is a link")
def zip_link(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return zip_of(folder, {special_zip_member("photos/cat/l.png", 0o120777): b"/etc/passwd"}).name


@case("zip", "an encrypted archive", "is encrypted", "without a password")
def zip_encrypted(folder: Path, patch: pytest.MonkeyPatch) -> object:
    path = zip_of(folder)
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    content[central + 8] |= 1
    path.write_bytes(content)
    return path.name


@case("zip", "a compression that is not understood", "is compressed by method 97;")
def zip_method(folder: Path, patch: pytest.MonkeyPatch) -> object:
    path = zip_of(folder)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 10] = 97
    path.write_bytes(content)
    return path.name


@case("zip", "a file that is no zip", "photos.zip: cannot be read as zip (", "pack it again", foreign=True)
def no_zip(folder: Path, patch: pytest.MonkeyPatch) -> object:
    (folder / "photos.zip").write_bytes(b"nothing of the kind")
    return "photos.zip"


@case("zip", "a zip that ends early", "photos.zip: cannot be read as zip (", foreign=True)
def cut_zip(folder: Path, patch: pytest.MonkeyPatch) -> object:
    path = zip_of(folder)
    path.write_bytes(path.read_bytes()[:-100])
    return path.name


@case("zip", "a zip of zips", "found no image among 2 files (a.zip, b.zip)", "an archive in an archive is not opened")
def zip_of_zips(folder: Path, patch: pytest.MonkeyPatch) -> object:
    inner = zip_of(folder).read_bytes()
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        for name in ("a.zip", "b.zip"):
            archive.writestr(name, inner)
    return "all.zip"


@case("zip", "a decompression bomb", "unpack to 9,", "a decompression bomb is suspected")
def zip_bomb(folder: Path, patch: pytest.MonkeyPatch) -> object:
    patch.setattr(_tar, "FREE_BYTES", 1 << 20)
    bomb = Image.new("RGB", (2000, 1500))
    buffer = io.BytesIO()
    bomb.save(buffer, "BMP")
    with zipfile.ZipFile(folder / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/0.bmp", buffer.getvalue())
    return "photos.zip"


@case("zip", "a member that was damaged", "photos.zip: photos/dog/0.png: cannot be decoded (", foreign=True)
def zip_damaged_member(folder: Path, patch: pytest.MonkeyPatch) -> object:
    path = zip_of(folder)
    content = bytearray(path.read_bytes())
    content[100] ^= 0xFF
    path.write_bytes(content)
    return path.name


def tar_of(folder: Path, name: str = "photos.tar", extra: tarfile.TarInfo | None = None) -> Path:
    path = folder / name
    with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as archive:
        for row in range(8):
            info = tarfile.TarInfo(f"photos/{'cat' if row % 2 else 'dog'}/{row}.png")
            content = encoded(row)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if extra is not None:
            archive.addfile(extra)
    return path


def special_tar_member(kind: bytes, name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@case("tar", "a member that is a link", "member 'photos/cat/l.png' is a link")
def tar_link(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return tar_of(folder, extra=special_tar_member(tarfile.SYMTYPE, "photos/cat/l.png")).name


@case("tar", "a member that is a device", "member 'photos/cat/d.png' is a device")
def tar_device(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return tar_of(folder, extra=special_tar_member(tarfile.CHRTYPE, "photos/cat/d.png")).name


@case("tar", "a member that leads out of the archive", "member 'photos/../../x.png' leads out of the archive")
def tar_traversal(folder: Path, patch: pytest.MonkeyPatch) -> object:
    return tar_of(folder, "photos.tgz", special_tar_member(tarfile.REGTYPE, "photos/../../x.png")).name


@case("tar", "a tar.gz that ends early", "photos.tar.gz: cannot be read as tar (", foreign=True)
def cut_tar_gz(folder: Path, patch: pytest.MonkeyPatch) -> object:
    path = tar_of(folder, "photos.tar.gz")
    path.write_bytes(path.read_bytes()[:-300])
    return path.name


@case("tar", "a tar with a damaged header", "photos.tar: cannot be read as tar (damaged at byte 1024)")
def damaged_tar(folder: Path, patch: pytest.MonkeyPatch) -> object:
    path = tar_of(folder)
    content = bytearray(path.read_bytes())
    content[1024 + 3] ^= 0xFF
    path.write_bytes(content)
    return path.name


@case("tar", "a file that is no tar", "photos.tar: cannot be read as tar (", foreign=True)
def no_tar(folder: Path, patch: pytest.MonkeyPatch) -> object:
    (folder / "photos.tar").write_bytes(b"nothing of the kind" * 100)
    return "photos.tar"
