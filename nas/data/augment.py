"""Batched augmentation on the device that holds the images: flips, shifts, crops, distortions, mixup, CutMix, erasing.

Nothing here waits for the device or loops over images, and every random number comes from the generator that
is handed in, which must live on the device of the images. So a step can be captured in a CUDA graph, and the
same generator state gives the same batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# RandAugment (arXiv:1909.13719) applies 2 operations to an image. Here there are 6, each applied with this
# probability, which is also 2 on average.
OPERATION_PROBABILITY = 2 / 6
MAX_ROTATION = math.radians(30)
MAX_SHEAR = 0.3
MAX_ENHANCE = 0.9
MIN_FACTOR = 0.1
MAX_ASPECT = 4 / 3
ERASED_AREA = (0.02, 0.4)
ERASED_ASPECT = 1 / 0.3


@dataclass(frozen=True)
class Augment:
    """How strongly training images are changed. All zero, with scale 1, changes nothing.

    Args:
        flip: Mirror half of the images, left to right.
        crop_padding: Largest random shift in each direction, as a share of the size (0.125: 4 of 32 pixels).
            What comes in at the border is a reflection.
        scale: Smallest area share of a random crop that is resized to the full size; 1.0 switches it off.
        magnitude: Strength of the geometric and photometric distortions, on the scale of RandAugment's level
            (10: nominal maximum, more is allowed); 0 skips that work.
    """

    flip: bool = False
    crop_padding: float = 0.0
    scale: float = 1.0
    magnitude: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.crop_padding < 0.5:
            raise ValueError(f"crop_padding: found {self.crop_padding}; 0 to below 0.5 is allowed")
        if not 0 < self.scale <= 1:
            raise ValueError(f"scale: found {self.scale}; above 0 to 1 is allowed")
        if not self.magnitude >= 0:
            raise ValueError(f"magnitude: found {self.magnitude}; 0 or more is allowed")


def train_batch(
    images: Tensor,
    *,
    resolution: int,
    mean: Tensor,
    std: Tensor,
    augment: Augment,
    generator: torch.Generator,
) -> Tensor:
    """Augment, resize and normalise a batch of training images.

    Without random crops and distortions this is a whole-pixel shift and a flip after an antialiased resize.
    With them, one bilinear sampling does flip, shift, crop, rotation and shear together.

    The distortions are a batched relative of RandAugment (Cubuk et al. 2019, arXiv:1909.13719), not its list
    of operations: rotation (30 degrees at magnitude 10), shear in x and y (0.3), brightness, contrast and
    saturation (factor 1 +- 0.9, at least 0.1), each applied to an image with probability 1/3, at the full
    magnitude with a random sign, always in this order. Posterise, solarise, equalise, sharpness and
    autocontrast are absent; translation is `crop_padding`, which does not depend on the magnitude. Saturation
    leaves grey images alone.

    Args:
        images: uint8, (N, H, W, C), H = W.
        resolution: Height and width of the result, in pixels.
        mean: float32, (C,), in 0..1, on the device of the images.
        std: float32, (C,), likewise.
        augment: What to do.
        generator: Source of all randomness, on the device of the images.

    Returns:
        float32, (N, C, R, R), channels_last.
    """
    if augment.scale == 1 and augment.magnitude == 0:
        pixels = _shift_and_flip(_resized(images, resolution), augment, generator)
        return _normalised(pixels, mean, std)
    # Sampling below is bilinear, without antialiasing. So shrink (with antialiasing) first, to the size at
    # which the smallest crop still has a pixel for every output pixel.
    size = min(images.shape[1], math.ceil(resolution / math.sqrt(augment.scale)))
    pixels = _resized(images, size).permute(0, 3, 1, 2).float() / 255
    pixels = _sampled(pixels, resolution, augment, generator)
    if augment.magnitude > 0:
        pixels = _enhanced(pixels, augment.magnitude, generator)
    result = (pixels - mean[:, None, None]) / std[:, None, None]
    return result.contiguous(memory_format=torch.channels_last)


def eval_batch(images: Tensor, *, resolution: int, mean: Tensor, std: Tensor) -> Tensor:
    """Resize and normalise a batch without any randomness.

    Args:
        images: uint8, (N, H, W, C), H = W.
        resolution: Height and width of the result, in pixels.
        mean: float32, (C,), in 0..1, on the device of the images.
        std: float32, (C,), likewise.

    Returns:
        float32, (N, C, R, R), channels_last.
    """
    return _normalised(_resized(images, resolution), mean, std)


def mix(
    images: Tensor, labels: Tensor, *, num_classes: int, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Blend every image and its label with the next one of the batch, by one random share: mixup.

    Zhang et al. 2018, arXiv:1710.09412, eq. 1: x = l x_i + (1 - l) x_j, y = l y_i + (1 - l) y_j, with
    l ~ Beta(alpha, alpha) drawn once per batch. The partner is the neighbour instead of a random image, which
    is the same in a shuffled batch and spares a permutation.

    Args:
        images: float, (N, C, H, W).
        labels: Class indices, int64 (N,), or targets, float (N, num_classes).
        num_classes: Number of classes.
        alpha: Strength, 0 or more; 0 leaves the images as they are.
        generator: Source of all randomness, on the device of the images.

    Returns:
        The images, in the memory format they came in, and float32 targets (N, num_classes) with rows that
        sum to 1 where the given ones did.
    """
    _check_alpha(alpha)
    targets = _targets(labels, num_classes)
    if alpha == 0:
        return images, targets
    share = _share(alpha, generator, images.device)
    mixed = torch.lerp(images.roll(1, 0), images, share.to(images.dtype))
    return mixed, torch.lerp(targets.roll(1, 0), targets, share)


def cutmix(
    images: Tensor, labels: Tensor, *, num_classes: int, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Put a box of the next image of the batch into every image, and of its label as much as the box has of the area.

    Yun et al. 2019, arXiv:1905.04899, eq. 1 and 2: the box has sides W sqrt(1 - l) and H sqrt(1 - l), with l ~ Beta(alpha,
    alpha), and a uniform centre; one box per batch. Where the border cuts it, the label's share is that of the area
    which is really covered, as in the authors' code.

    Args:
        images: float, (N, C, H, W).
        labels: Class indices, int64 (N,), or targets, float (N, num_classes).
        num_classes: Number of classes.
        alpha: Strength, 0 or more; 0 leaves the images as they are.
        generator: Source of all randomness, on the device of the images.

    Returns:
        The images, in the memory format they came in, and float32 targets (N, num_classes) with rows that
        sum to 1 where the given ones did.
    """
    _check_alpha(alpha)
    targets = _targets(labels, num_classes)
    if alpha == 0:
        return images, targets
    side = (1 - _share(alpha, generator, images.device)).sqrt()
    centre = torch.rand(2, generator=generator, device=images.device)
    rows = _covered(images.shape[2], centre[0], side)
    columns = _covered(images.shape[3], centre[1], side)
    inside = rows[:, None] & columns
    share = 1 - inside.float().mean()
    return torch.where(inside, images.roll(1, 0), images), torch.lerp(targets.roll(1, 0), targets, share)


def mix_and_cut(
    images: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    mixup_alpha: float,
    cutmix_alpha: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Do mixup on one half of a batch and CutMix on the other, or one of them on all where the other is off.

    As in the released code of EfficientNetV2, which draws a share for each image instead of for each half.

    Args:
        mixup_alpha, cutmix_alpha: Strengths, 0 or more. The rest, and the result: as in `mix`.
    """
    if not mixup_alpha or not cutmix_alpha:
        change, alpha = (cutmix, cutmix_alpha) if cutmix_alpha else (mix, mixup_alpha)
        return change(images, labels, num_classes=num_classes, alpha=alpha, generator=generator)
    half = len(images) // 2
    mixed = mix(images[:half], labels[:half], num_classes=num_classes, alpha=mixup_alpha, generator=generator)
    cut = cutmix(images[half:], labels[half:], num_classes=num_classes, alpha=cutmix_alpha, generator=generator)
    return torch.cat([mixed[0], cut[0]]), torch.cat([mixed[1], cut[1]])


def erase(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Set a random box of some images to 0, the mean of normalised pixels.

    Zhong et al. 2017, arXiv:1708.04896, algorithm 1, with its area share from 2 % to 40 % and aspect ratio from 0.3 to 1 / 0.3.
    Drawn per image. Where a box is longer than the image it is shortened instead of drawn again, so that nothing waits for
    the device; and the ratio is uniform in its logarithm, so that tall boxes are as frequent as wide ones.

    Args:
        images: float, (N, C, H, W), normalised.
        probability: Of an image being changed, 0 to 1.
        generator: Source of all randomness, on the device of the images.

    Returns:
        The images, in the memory format they came in.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability: found {probability}; 0 to 1 is allowed")
    if probability == 0:
        return images
    n, _, height, width = images.shape
    draws = torch.rand(5, n, 1, generator=generator, device=images.device)
    side = (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * draws[0]).sqrt()
    ratio = torch.exp((draws[1] - 0.5) * math.log(ERASED_ASPECT))  # the root of height : width
    tall, wide = (side * ratio * height).round().clamp(1, height), (side / ratio * width).round().clamp(1, width)
    top, left = (draws[2] * (height - tall + 1)).floor(), (draws[3] * (width - wide + 1)).floor()
    y, x = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    rows, columns = (y >= top) & (y < top + tall), (x >= left) & (x < left + wide)
    chosen = draws[4] < probability
    inside = (rows & chosen)[:, None, :, None] & columns[:, None, None, :]
    # Not masked_fill, which gives back contiguous images where the mask is broadcast.
    return torch.where(inside, torch.zeros((), dtype=images.dtype, device=images.device), images)


def _check_alpha(alpha: float) -> None:
    if alpha < 0:
        raise ValueError(f"alpha: found {alpha}; 0 or more is allowed")


def _targets(labels: Tensor, num_classes: int) -> Tensor:
    """Turn class indices (N,) or targets (N, num_classes) into float32 targets."""
    if labels.dim() > 1:
        return labels.float()
    targets = torch.zeros(len(labels), num_classes, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1.0)


def _share(alpha: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw a share from Beta(alpha, alpha): float32, 0-dimensional."""
    # Beta(a, a) = g1 / (g1 + g2) with g ~ Gamma(a). Of torch's samplers only this one takes a generator; it
    # is what torch.distributions.Gamma calls. float64, because a small alpha underflows to 0/0 in float32.
    shape = torch.full((2,), alpha, dtype=torch.float64, device=device)
    gamma = torch._standard_gamma(shape, generator=generator).clamp_min(torch.finfo(torch.float64).tiny)
    return (gamma[0] / gamma.sum()).float()


def _covered(size: int, centre: Tensor, side: Tensor) -> Tensor:
    """Tell which of `size` pixels lie in an interval; its centre and side are shares of the size: bool, (size,)."""
    length = (side * size).floor()
    first = (centre * size).floor() - (length / 2).floor()
    pixels = torch.arange(size, device=centre.device)
    return (pixels >= first) & (pixels < first + length)


def _resized(images: Tensor, size: int) -> Tensor:
    """Resize (N, H, W, C) with antialiased bilinear weights: uint8 -> uint8 on the CPU, float32 elsewhere."""
    if images.shape[1] == size:
        return images
    pixels = images.permute(0, 3, 1, 2)
    # On the CPU torch has vector code for uint8 channels_last (RGB 32 -> 24 on one thread: 238,000 images/s
    # against 21,000 in float32, rounding to whole grey levels); CUDA has no uint8 kernel and needs none.
    if images.device.type != "cpu":
        pixels = pixels.float()
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1)


def _normalised(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Turn (N, H, W, C) pixels in 0..255 into normalised float32 (N, C, H, W), channels_last."""
    n, height, width, channels = pixels.shape
    # Scale and shift whole rows, not single pixels: with only C values in the last dimension to broadcast,
    # the CPU loops are too short for vector code (RGB 32 px on one thread: 242,000 images/s against 69,000).
    scale = (1 / (255 * std)).repeat(width)
    offset = (-mean / std).repeat(width)
    rows = pixels.reshape(n * height, width * channels).float()
    return (rows * scale).add_(offset).view(n, height, width, channels).permute(0, 3, 1, 2)


def _shift_and_flip(pixels: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
    """Flip and shift (N, H, W, C) by whole pixels, drawn per image, reflecting at the borders."""
    n, height, width, channels = pixels.shape
    device = pixels.device
    reach = round(augment.crop_padding * height)
    columns = torch.arange(width, device=device).expand(n, width)
    if augment.flip:
        mirrored = torch.rand(n, 1, generator=generator, device=device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    if reach:
        shifts = torch.randint(-reach, reach + 1, (2, n, 1), generator=generator, device=device)
        rows = _reflect(torch.arange(height, device=device) + shifts[0], height)
        columns = _reflect(columns + shifts[1], width)
        # Whole rows are copied first, then columns are picked. Of six ways tried on one CPU thread, the best
        # over both cases: 205,000 images/s at 28 px grey and 92,000 at 32 px RGB, against 166,000 and 36,000
        # for windows of a padded copy.
        rows = rows + height * torch.arange(n, device=device)[:, None]
        pixels = pixels.reshape(n * height, width * channels).index_select(0, rows.view(-1))
        pixels = pixels.view(n, height, width, channels)
    if not (augment.flip or reach):
        return pixels
    return pixels.gather(2, columns[:, None, :, None].expand(n, height, width, channels))


def _reflect(index: Tensor, size: int) -> Tensor:
    """Reflect indices at 0 and size - 1, without repeating the border pixel."""
    return (size - 1) - ((size - 1) - index.abs()).abs()


def _sampled(pixels: Tensor, resolution: int, augment: Augment, generator: torch.Generator) -> Tensor:
    """Sample (N, C, H, W) to (N, C, R, R): crop, shift, flip, rotation and shear in one bilinear pass."""
    n, channels = pixels.shape[:2]
    device = pixels.device
    draws = torch.rand(9, n, generator=generator, device=device)

    # Random-resized crop (Szegedy et al. 2015, arXiv:1409.4842, section 6): area share uniform, log aspect
    # uniform. Coordinates run from -1 to 1, so a crop's side share is also its scale factor.
    area = augment.scale + (1 - augment.scale) * draws[0]
    aspect = MAX_ASPECT ** (draws[1] - 0.5) if augment.scale < 1 else torch.ones_like(area)
    side_x, side_y = (area.sqrt() * aspect).clamp(max=1), (area.sqrt() / aspect).clamp(max=1)
    centre_x = (2 * draws[2] - 1) * (1 - side_x + 2 * augment.crop_padding)
    centre_y = (2 * draws[3] - 1) * (1 - side_y + 2 * augment.crop_padding)
    if augment.flip:
        side_x = torch.where(draws[4] < 0.5, -side_x, side_x)

    if augment.magnitude > 0:
        level = augment.magnitude / 10
        angle = _applied(draws[5], MAX_ROTATION * level)
        shear_x, shear_y = _applied(draws[6], MAX_SHEAR * level), _applied(draws[7], MAX_SHEAR * level)
        cos, sin = angle.cos(), angle.sin()
        # [[1, shear_x], [shear_y, 1]] @ rotation: distort output coordinates, then crop.
        xx, xy = cos + shear_x * sin, -sin + shear_x * cos
        yx, yy = shear_y * cos + sin, -shear_y * sin + cos
    else:
        xx = yy = torch.ones_like(area)
        xy = yx = torch.zeros_like(area)
    theta = torch.stack([side_x * xx, side_x * xy, centre_x, side_y * yx, side_y * yy, centre_y], dim=1).view(n, 2, 3)
    grid = F.affine_grid(theta, [n, channels, resolution, resolution], align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _applied(draw: Tensor, amount: float) -> Tensor:
    """Turn uniform draws into +amount, -amount (half of `OPERATION_PROBABILITY` each) or 0."""
    plus = (draw < OPERATION_PROBABILITY / 2).float()
    minus = (draw > 1 - OPERATION_PROBABILITY / 2).float()
    return amount * (plus - minus)


def _enhanced(pixels: Tensor, magnitude: float, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation of (N, C, H, W) pixels in 0..1, drawn per image."""
    n, channels = pixels.shape[:2]
    draws = torch.rand(3, n, 1, 1, 1, generator=generator, device=pixels.device)
    factors = (1 + _applied(draws, MAX_ENHANCE * magnitude / 10)).clamp(min=MIN_FACTOR)
    pixels = (pixels * factors[0]).clamp(0, 1)
    grey = _grey(pixels)
    pixels = torch.lerp(grey.mean(dim=(2, 3), keepdim=True), pixels, factors[1]).clamp(0, 1)
    if channels == 3:
        pixels = torch.lerp(_grey(pixels), pixels, factors[2]).clamp(0, 1)
    return pixels


def _grey(pixels: Tensor) -> Tensor:
    """Return the brightness (N, 1, H, W), by the weights of ITU-R 601 that Pillow uses too."""
    if pixels.shape[1] == 1:
        return pixels
    return 0.299 * pixels[:, 0:1] + 0.587 * pixels[:, 1:2] + 0.114 * pixels[:, 2:3]
