"""One image file -> one square uint8 array, always in the same way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from nas.data._types import Pixels, RawImage

GREY_MODES = ("L", "1")


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


def decode(image: RawImage, layout: Layout) -> tuple[Pixels, bool]:
    """Decode one image: EXIF rotation applied, transparency put on white, centre square, resized.

    Resizing is Pillow's bicubic filter, which averages over all source pixels when it shrinks.

    Returns:
        uint8, (S, S, C), and whether the image had fewer pixels than that, so was enlarged.

    Raises:
        Exception: whatever Pillow raises on a broken file.
    """
    with image.open() as opened:
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
    return pixels, enlarged


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
