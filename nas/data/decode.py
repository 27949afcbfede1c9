"""One image file -> one square uint8 array, always in the same way."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps

from nas.data._types import Pixels, RawImage

GREY_MODES = ("L", "1")
# What photographs and pictures come in. Others stay out: some plugins start programs (EPS calls Ghostscript).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
# 134 million: above the 102 megapixels of the largest cameras, and 0.4 GiB for a thread that decodes one in
# colour. A few kilobytes of PNG can ask for much more.
MAX_PIXELS = 2**27
MAX_BYTES = 2**29


class TooLargeError(ValueError):
    """An image with more pixels, or a file with more bytes, than are decoded."""


@dataclass(frozen=True)
class Layout:
    """The form in which all images of a dataset are stored.

    Args:
        size: Height and width in pixels.
        channels: 1 (grey) or 3 (RGB).
        resize: Whether images are brought to `size`; false where all of them have it already.
    """

    size: int
    channels: int
    resize: bool


@dataclass(frozen=True)
class Decoded:
    """One image in its stored form.

    Args:
        pixels: uint8, (S, S, C).
        enlarged: Whether the image had fewer pixels than that.
        animated: Whether the file holds more frames or pages, of which the first was taken.
    """

    pixels: Pixels
    enlarged: bool
    animated: bool


def read_image(path: Path) -> Image.Image:
    """Open an image file, as `open_image` does its bytes."""
    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")  # reading a pipe would wait for ever
    with open(path, "rb") as file:
        # Not more than there is: `read` takes memory for what it is asked for.
        return open_image(file.read(min(os.fstat(file.fileno()).st_size, MAX_BYTES) + 1))


def open_image(encoded: bytes) -> Image.Image:
    """Open an encoded image. Only its header is read; its size is checked before anything is decoded.

    Does what `PIL.Image.open` does, but for `FORMATS` only, and without its check of the size: that warns, once,
    through the warnings of the process, which no thread can catch for itself.

    Raises:
        TooLargeError: more than `MAX_PIXELS` pixels or `MAX_BYTES` bytes.
        Exception: whatever Pillow raises on a broken header.
    """
    if not encoded:
        raise ValueError("the file is empty")
    if len(encoded) > MAX_BYTES:
        raise TooLargeError(f"more than {MAX_BYTES >> 20} MiB")
    if not all(name in Image.OPEN for name in ("TIFF", "WEBP")):
        Image.init()
    for name in FORMATS:
        if name not in Image.OPEN:
            continue  # AVIF is not in every build of Pillow
        factory, accepts = Image.OPEN[name]
        if accepts is None or accepts(encoded[:16]) is True:
            with suppress(SyntaxError, IndexError, TypeError, struct.error):  # as Pillow says "not mine"
                return check_pixels(factory(io.BytesIO(encoded), ""))
    raise ValueError(f"not an image: none of {', '.join(FORMATS)}")


def check_pixels(opened: Image.Image) -> Image.Image:
    """Return the image unless it is too large to decode."""
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise TooLargeError(f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
    return opened


@contextmanager
def whole_images() -> Iterator[None]:
    """Let Pillow refuse truncated images, also where other code of this process had told it to pass them."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def plan(images: Iterable[RawImage], limit: int) -> Layout:
    """Choose the stored form from the headers of the images; no pixel is decoded.

    Images stay at their own size where all are square, of one size, and at most `limit`; otherwise all are
    resized to `limit`. They are stored grey where every one is grey, otherwise as RGB.

    Args:
        images: The images. Unreadable ones are passed over here: decoding reports them.
        limit: Largest height and width to store, in pixels.
    """
    native: tuple[int, int] | None = None
    resize, grey = False, True
    for image in images:
        # Both answers are settled after a few photographs: reading on would only cost time.
        if resize and not grey:
            break
        try:
            with image.open() as opened:
                size, is_grey = opened.size, opened.mode in GREY_MODES and "transparency" not in opened.info
        except Exception:
            continue
        native = native or size
        resize = resize or size != native or size[0] != size[1] or size[0] > limit
        grey = grey and is_grey
    if native is None:
        resize, grey = True, False
    size_px = limit if resize or native is None else native[0]
    return Layout(size=size_px, channels=1 if grey else 3, resize=resize)


def decode(image: RawImage, layout: Layout) -> Decoded:
    """Decode one image: EXIF rotation applied, transparency put on white, centre square, resized.

    Resizing is Pillow's bicubic filter, which averages over all source pixels when it shrinks. Of an animation
    or a file of several pages, the first is taken.

    Raises:
        TooLargeError: the image has more pixels than are decoded.
        Exception: whatever Pillow raises on a broken file.
    """
    with image.open() as opened:
        check_pixels(opened)
        animated = bool(getattr(opened, "is_animated", False))
        enlarged = min(opened.size) < layout.size
        if layout.resize:
            # JPEG only: decode at 1/2, 1/4 or 1/8 where at least twice the wanted size is left. A large
            # photograph decodes faster, and the filter below still has 2x2 pixels for every output pixel.
            opened.draft(opened.mode, (2 * layout.size, 2 * layout.size))
        ImageOps.exif_transpose(opened, in_place=True)
        picture = _in_mode(opened, "L" if layout.channels == 1 else "RGB")
        if layout.resize:
            width, height = picture.size
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            picture = picture.resize(
                (layout.size, layout.size),
                Image.Resampling.BICUBIC,
                box=(left, top, left + side, top + side),
            )
        pixels = np.asarray(picture, dtype=np.uint8).reshape(picture.height, picture.width, layout.channels)
    return Decoded(pixels, enlarged, animated)


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    """Return the picture as 8-bit grey ("L") or colour ("RGB"), on white where it is transparent."""
    if picture.mode.startswith("I"):
        # 16-bit grey. Pillow's own conversion clips at 255 instead of scaling, which leaves a white image.
        deep = np.asarray(picture).astype(np.int64)
        picture = Image.fromarray((np.clip(deep, 0, 65535) >> 8).astype(np.uint8))
    elif picture.mode == "F":
        raise ValueError("32-bit float pixels have no fixed range")
    elif picture.has_transparency_data:
        with_alpha = picture.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, with_alpha)
    return picture if picture.mode == mode else picture.convert(mode)
