"""Pictures of every kind: what comes out, what is refused, and that Pillow's global state is left alone."""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_inputs import png_header
from data_samples import picture, write_classes
from PIL import Image, ImageFile

from nas.data import decode, load
from nas.data._types import RawImage
from nas.errors import DataError


def decoded(image: Image.Image, kind: str, channels: int = 3, **options: Any) -> decode.Decoded:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    raw = RawImage("x", lambda: decode.open_image(buffer.getvalue()))
    return decode.decode(raw, decode.Layout(size=8, channels=channels, resize=True))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "JPEG", "WEBP", "PPM", "JPEG2000"])
def test_formats(kind: str) -> None:
    red = Image.new("RGB", (16, 16), (200, 10, 10))
    assert np.abs(decoded(red, kind).pixels.astype(int) - [200, 10, 10]).max() <= 4


def test_cmyk() -> None:
    pixels = decoded(Image.new("RGB", (16, 16), (250, 128, 0)).convert("CMYK"), "JPEG").pixels
    assert np.abs(pixels.astype(int) - [250, 128, 0]).max() <= 6


def test_palette_with_a_transparent_colour() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert (decoded(image, "PNG").pixels == [10, 20, 30]).all()
    assert (decoded(image, "PNG", transparency=1).pixels == 255).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_transparency_is_put_on_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 51)).convert("LA" if mode == "LA" else "RGBA")
    kind = "TIFF" if mode == "PA" else "PNG"
    image = image.convert("PA") if mode == "PA" else image
    assert np.abs(decoded(image, kind).pixels.astype(int) - 204).max() <= 1


def test_16_bits_keep_the_upper_8() -> None:
    deep = Image.fromarray(np.full((8, 8), 0x64FF, dtype=np.uint16))
    for kind in ("PNG", "TIFF"):
        assert (decoded(deep, kind, channels=1).pixels == 0x64).all()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_is_taken_and_said(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), (level, level, level)) for level in (200, 100, 0)]
    result = decoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert result.animated
    assert np.abs(result.pixels.astype(int) - 200).max() <= 2
    assert not decoded(frames[0], kind).animated


def test_animations_are_noted(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "photos", {"cat": 3, "dog": 3})
    for name in ("a", "b"):
        picture(70).save(root / "cat" / f"{name}.gif", save_all=True, append_images=[picture(71)])
    notes = load(str(root), resolution=32).notes
    assert "The first frame or page was taken of images that hold several: 2 (cat/a.gif, ...)." in notes


def test_formats_that_start_programs_are_not_tried(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not an image: none of JPEG"):
        decode.open_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


@pytest.mark.parametrize(
    "size", [(20_000, 20_000), (12_000, 12_000)]
)  # Pillow raises for the first, warns at the second
def test_a_bomb_is_refused_in_every_thread_without_a_warning(size: tuple[int, int]) -> None:
    said: list[str] = []

    def attempt() -> None:
        try:
            decode.open_image(png_header(*size))
        except decode.TooLargeError as error:
            said.append(str(error))

    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads = [threading.Thread(target=attempt) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert said == [f"{size[0]} x {size[1]} pixels, more than 134,217,728"] * 4
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == (limit, filters)


def test_a_large_photograph_that_pillow_warns_about_is_fine() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode.open_image(png_header(12_000, 8_500)).size == (12_000, 8_500)  # 102 megapixels


def test_a_large_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_BYTES", 100)
    picture(0).save(tmp_path / "x.png")
    with pytest.raises(decode.TooLargeError, match="more than 0 MiB"):
        decode.read_image(tmp_path / "x.png")


@pytest.mark.parametrize("before", [True, False])
def test_truncated_images_are_found_also_where_pillow_was_told_to_pass_them(
    tmp_path: Path, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", before)
    root = write_classes(tmp_path / "photos", {"cat": 4, "dog": 4}, size=(64, 64), suffix=".jpg")
    file = root / "cat" / "002.jpg"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"cat/002\.jpg: cannot be decoded \(.*truncated"):
        load(str(root), resolution=32)
    assert before is ImageFile.LOAD_TRUNCATED_IMAGES
