"""Batched augmentation against plain per-image references, and its promises: range, shape, determinism."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.data.augment import Augment, eval_batch, mix, train_batch

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
EVERYTHING = Augment(flip=True, crop_padding=0.125, scale=0.4, magnitude=10)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(request.param)


def batch(n: int, size: int, channels: int = 3, device: torch.device | str = "cpu") -> Tensor:
    generator = torch.Generator().manual_seed(n + size)
    return torch.randint(0, 256, (n, size, size, channels), dtype=torch.uint8, generator=generator).to(device)


def seeded(device: torch.device | str = "cpu", seed: int = 0) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def moments(channels: int = 3, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    return torch.linspace(0.3, 0.5, channels).to(device), torch.linspace(0.2, 0.3, channels).to(device)


def plain(images: Tensor, augment: Augment, seed: int = 0, resolution: int | None = None) -> Tensor:
    """A training batch with pixels back in 0..255, (N, H, W, C)."""
    channels = images.shape[3]
    result = train_batch(
        images,
        resolution=resolution or images.shape[1],
        mean=torch.zeros(channels, device=images.device),
        std=torch.ones(channels, device=images.device),
        augment=augment,
        generator=seeded(images.device, seed),
    )
    return result.permute(0, 2, 3, 1) * 255


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", [16, 24, 32, 40])
def test_eval_batch_is_normalise_and_interpolate(device: torch.device, channels: int, resolution: int) -> None:
    images = batch(5, 32, channels, device)
    mean, std = moments(channels, device)
    result = eval_batch(images, resolution=resolution, mean=mean, std=std)
    reference = (images.permute(0, 3, 1, 2).float() / 255 - mean[:, None, None]) / std[:, None, None]
    reference = F.interpolate(reference, (resolution, resolution), mode="bilinear", antialias=True)
    # On the CPU a resized image is rounded to whole grey levels: half a level, plus the resize's own rounding.
    levels = 1.1 if resolution != 32 and device.type == "cpu" else 0.01
    torch.testing.assert_close(result, reference, rtol=0, atol=levels / 255 / float(std.min()))
    assert result.shape == (5, channels, resolution, resolution)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "augment",
    [
        Augment(),
        Augment(flip=True),
        Augment(flip=True, crop_padding=0.125),
        Augment(scale=0.3),
        Augment(magnitude=15),
        EVERYTHING,
    ],
)
@pytest.mark.parametrize(("size", "resolution", "channels"), [(28, 28, 1), (32, 24, 3), (20, 32, 3)])
def test_train_batch(device: torch.device, augment: Augment, size: int, resolution: int, channels: int) -> None:
    images = batch(16, size, channels, device)
    kept = images.clone()
    mean, std = moments(channels, device)

    def once(seed: int) -> Tensor:
        return train_batch(
            images, resolution=resolution, mean=mean, std=std, augment=augment, generator=seeded(device, seed)
        )

    result = once(0)
    assert torch.equal(images, kept)
    assert result.shape == (16, channels, resolution, resolution)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, once(0))
    assert torch.equal(result, once(1)) == (augment == Augment())
    low, high = -mean / std, (1 - mean) / std
    assert (result >= low[:, None, None] - 1e-5).all()
    assert (result <= high[:, None, None] + 1e-5).all()


def test_nothing_switched_on_is_eval(device: torch.device) -> None:
    images = batch(4, 32, device=device)
    mean, std = moments(device=device)
    train = train_batch(images, resolution=24, mean=mean, std=std, augment=Augment(), generator=seeded(device))
    assert torch.equal(train, eval_batch(images, resolution=24, mean=mean, std=std))


@pytest.mark.parametrize("channels", [1, 3])
def test_shift_is_a_crop_of_the_reflect_padded_image(device: torch.device, channels: int) -> None:
    images = batch(200, 16, channels, device)
    result = plain(images, Augment(crop_padding=0.125)).round().to(torch.uint8)
    padded = F.pad(images.permute(0, 3, 1, 2).float(), (2, 2, 2, 2), mode="reflect")
    padded = padded.permute(0, 2, 3, 1).to(torch.uint8)
    seen = set()
    for index in range(200):
        places = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(padded[index, top : top + 16, left : left + 16], result[index])
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 25


def test_flips_are_half_of_the_images_and_nothing_else(device: torch.device) -> None:
    images = batch(1000, 8, device=device)
    result = plain(images, Augment(flip=True)).round().to(torch.uint8)
    same = (result == images).flatten(1).all(1)
    mirrored = (result == images.flip(2)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 440 < int(mirrored.sum()) < 560


def test_flips_of_the_sampled_path_are_half_as_well(device: torch.device) -> None:
    ramp = torch.arange(16, dtype=torch.uint8, device=device) * 10
    images = ramp[None, None, :, None].expand(1000, 16, 16, 1).contiguous()
    result = plain(images, Augment(flip=True, scale=0.9))
    mirrored = result[:, :, 0].mean((1, 2)) > result[:, :, -1].mean((1, 2))
    assert 440 < int(mirrored.sum()) < 560


def test_a_crop_of_the_whole_image_is_the_image(device: torch.device) -> None:
    # A magnitude of nearly nothing goes through the sampling and the photometric path.
    images = batch(8, 16, device=device)
    torch.testing.assert_close(plain(images, Augment(magnitude=1e-6)), images.float(), rtol=0, atol=0.01)


def test_crops_show_between_scale_and_all_of_the_image(device: torch.device) -> None:
    ramp = torch.arange(64, dtype=torch.uint8, device=device) * 4
    images = ramp[None, None, :, None].expand(400, 64, 64, 1).contiguous()
    result = plain(images, Augment(scale=0.25))
    share = (result[:, 32, -1, 0] - result[:, 32, 0, 0]) / (4 * 64)
    # The side share is sqrt(area * aspect), with area in 0.25..1 and aspect in 3/4..4/3, at most 1.
    assert share.min() > (0.25 * 3 / 4) ** 0.5 - 0.03
    assert share.max() <= 1
    assert share.max() - share.min() > 0.35


def test_distortions_are_drawn_per_image_and_grow_with_the_magnitude(device: torch.device) -> None:
    images = batch(1, 32, device=device).expand(300, -1, -1, -1).contiguous()
    distances = []
    for magnitude in (2.0, 10.0):
        result = plain(images, Augment(magnitude=magnitude))
        change = (result - images).abs().mean((1, 2, 3))
        # All six operations pass an image by with probability (2/3)^6 = 0.088.
        assert 0.03 < (change < 1e-2).float().mean() < 0.16
        distances.append(float(change.mean()))
    assert distances[1] > distances[0]


def test_photometric_factors(device: torch.device) -> None:
    # One flat colour: geometry changes nothing, only brightness the grey value, and contrast and saturation
    # both the distance of the channels from it.
    colour = torch.tensor([100, 60, 40], dtype=torch.uint8, device=device)
    images = colour.expand(2000, 8, 8, 3).contiguous()
    result = plain(images, Augment(magnitude=5))[:, 4, 4]
    luma = result @ torch.tensor([0.299, 0.587, 0.114], device=device)
    base = 0.299 * 100 + 0.587 * 60 + 0.114 * 40
    factors = (luma / base).round(decimals=2)
    assert factors.unique().tolist() == pytest.approx([0.55, 1.0, 1.45], abs=0.001)
    assert 0.27 < (factors != 1).float().mean() < 0.4
    spread = (result[:, 0] - result[:, 2]) / (60 * factors)
    one = torch.tensor([0.55, 1.0, 1.45], device=device)
    wanted = torch.outer(one, one).flatten()
    assert ((spread[:, None] - wanted).abs().amin(1) < 0.01).all()


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0])
def test_mix(device: torch.device, alpha: float) -> None:
    images = batch(6, 8, device=device).permute(0, 3, 1, 2).float()
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.tensor([0, 1, 2, 3, 4, 0], device=device)
    mixed, targets = mix(images, labels, num_classes=5, alpha=alpha, generator=seeded(device, 3))
    again = mix(images, labels, num_classes=5, alpha=alpha, generator=seeded(device, 3))
    assert torch.equal(mixed, again[0])
    assert torch.equal(targets, again[1])
    torch.testing.assert_close(targets.sum(1), torch.ones(6, device=device))
    share = targets[1, 1]
    torch.testing.assert_close(mixed, share * images + (1 - share) * images.roll(1, 0))
    torch.testing.assert_close(targets[1, 0], 1 - share)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    soft = F.one_hot(labels, 5).float()
    from_soft = mix(images, soft, num_classes=5, alpha=alpha, generator=seeded(device, 3))
    torch.testing.assert_close(from_soft[1], targets)


def test_mix_shares_follow_the_beta_distribution() -> None:
    images, labels = torch.zeros(2, 1, 1, 1), torch.tensor([0, 1])
    generator = seeded()
    draws = [mix(images, labels, num_classes=2, alpha=0.5, generator=generator)[1][0, 0] for _ in range(4000)]
    shares = torch.stack(draws)
    assert shares.isfinite().all()
    assert abs(float(shares.mean()) - 0.5) < 0.03
    # The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    assert abs(float(shares.var()) - 1 / 8) < 0.01


def test_mix_with_alpha_zero_changes_nothing() -> None:
    images = torch.rand(3, 1, 4, 4)
    mixed, targets = mix(images, torch.tensor([0, 1, 1]), num_classes=2, alpha=0, generator=seeded())
    assert torch.equal(mixed, images)
    assert targets.tolist() == [[1, 0], [0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("name", "value"), [("crop_padding", 0.5), ("crop_padding", -0.1), ("scale", 0), ("magnitude", -1)]
)
def test_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}: found {value}; .* allowed"):
        dataclasses.replace(Augment(), **{name: value})


def test_mix_refuses_a_negative_alpha() -> None:
    with pytest.raises(ValueError, match="alpha: found -1; 0 or more"):
        mix(torch.zeros(1, 1, 1, 1), torch.tensor([0]), num_classes=2, alpha=-1, generator=seeded())


@pytest.mark.gpu
def test_no_waiting_for_the_device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    images = batch(8, 32, device="cuda")
    mean, std = moments(device="cuda")
    labels = torch.arange(8, device="cuda")
    generator = seeded("cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for augment in (Augment(flip=True, crop_padding=0.125), EVERYTHING):
            for resolution in (24, 32):
                mixed = train_batch(
                    images, resolution=resolution, mean=mean, std=std, augment=augment, generator=generator
                )
                mix(mixed, labels, num_classes=8, alpha=0.2, generator=generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
