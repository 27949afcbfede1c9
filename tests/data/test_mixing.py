"""CutMix, both mixtures on half a batch each, and erasing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.data.augment import cutmix, erase, mix, mix_and_cut

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(request.param)


def seeded(device: torch.device | str = "cpu", seed: int = 0) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def flat(n: int, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Images of one value each, their own number from 1, channels last."""
    images = torch.arange(1.0, n + 1, device=device)[:, None, None, None].expand(n, 3, height, width)
    return images.contiguous(memory_format=torch.channels_last)


def box(marked: Tensor) -> bool:
    """Whether the marked pixels (H, W) are one rectangle."""
    rows, columns = marked.any(1), marked.any(0)
    whole = all(line.nonzero().flatten().diff().eq(1).all() for line in (rows, columns))
    return bool(whole and torch.equal(marked, rows[:, None] & columns))


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_a_label_has_the_share_of_its_area(device: torch.device, alpha: float) -> None:
    images, labels = flat(5, 13, 9, device), torch.arange(5, device=device)
    generator, areas = seeded(device), []
    for _ in range(40):
        cut, targets = cutmix(images, labels, num_classes=5, alpha=alpha, generator=generator)
        assert cut.is_contiguous(memory_format=torch.channels_last)
        for number in range(5):
            own = cut[number, 0] == number + 1
            other = cut[number, 0] == (number - 1) % 5 + 1
            assert bool((own | other).all())
            assert box(other)
            area = float(other.float().mean())
            wanted = torch.zeros(5, device=device)
            wanted[number], wanted[number - 1] = 1 - area, area
            torch.testing.assert_close(targets[number], wanted)
            assert torch.equal(cut[number, 0], cut[number, 2])
        areas.append(area)
    assert len(set(areas)) > 5
    assert 0 < min(area for area in areas if area) < 0.3


def test_a_cut_is_set_by_its_generator_and_takes_soft_targets(device: torch.device) -> None:
    images, labels = torch.rand(4, 3, 8, 8, device=device), torch.tensor([0, 2, 1, 2], device=device)
    first = cutmix(images, labels, num_classes=3, alpha=1, generator=seeded(device, 4))
    again = cutmix(images, labels, num_classes=3, alpha=1, generator=seeded(device, 4))
    other = cutmix(images, labels, num_classes=3, alpha=1, generator=seeded(device, 5))
    soft = cutmix(images, F.one_hot(labels, 3).float(), num_classes=3, alpha=1, generator=seeded(device, 4))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(first[0], soft[0]) and torch.equal(first[1], soft[1])


def test_cut_areas_follow_the_beta_distribution() -> None:
    # Beta(1, 1) is uniform: the box's area before clipping is too. Of a box of side s, at a uniform centre, (1 - s / 4)^2 is
    # inside on average, so the mean is that of s^2 (1 - s / 4)^2 with s^2 uniform: 1/2 - 1/5 + 1/48.
    images, labels = torch.zeros(2, 1, 48, 48), torch.tensor([0, 1])
    generator = seeded()
    shares = [cutmix(images, labels, num_classes=2, alpha=1, generator=generator)[1][0, 1] for _ in range(1500)]
    assert float(torch.stack(shares).mean()) == pytest.approx(0.5 - 0.2 + 1 / 48, abs=0.02)


@pytest.mark.parametrize("mixup_alpha", [0, 0.5])
@pytest.mark.parametrize("cutmix_alpha", [0, 0.5])
def test_each_mixture_has_half_of_the_batch_or_all_of_it(mixup_alpha: float, cutmix_alpha: float) -> None:
    images, labels = torch.rand(7, 3, 8, 8).contiguous(memory_format=torch.channels_last), torch.arange(7)
    found, targets = mix_and_cut(
        images, labels, num_classes=7, mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha, generator=seeded()
    )
    generator, first = seeded(), 7 if not cutmix_alpha else 3 if mixup_alpha else 0
    parts = []
    if first:
        parts.append(mix(images[:first], labels[:first], num_classes=7, alpha=mixup_alpha, generator=generator))
    if first < 7:
        parts.append(cutmix(images[first:], labels[first:], num_classes=7, alpha=cutmix_alpha, generator=generator))
    assert torch.equal(found, torch.cat([part[0] for part in parts]))
    assert torch.equal(targets, torch.cat([part[1] for part in parts]))
    assert found.is_contiguous(memory_format=torch.channels_last)
    if not mixup_alpha and not cutmix_alpha:
        assert found is images
        assert torch.equal(targets, torch.eye(7))


def test_cutmix_of_strength_zero_changes_nothing_and_below_is_refused() -> None:
    images, labels = torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 1])
    cut, targets = cutmix(images, labels, num_classes=2, alpha=0, generator=seeded())
    assert cut is images
    assert targets.tolist() == [[1, 0], [0, 1], [0, 1]]
    with pytest.raises(ValueError, match="alpha: found -1; 0 or more"):
        cutmix(images, labels, num_classes=2, alpha=-1, generator=seeded())


def test_erased_are_boxes_of_some_images(device: torch.device) -> None:
    images = flat(600, 20, 30, device)
    found = erase(images, 0.25, seeded(device))
    assert found.is_contiguous(memory_format=torch.channels_last)
    gone = found == 0
    assert torch.equal(found[~gone], images[~gone])
    assert torch.equal(gone[:, 0], gone[:, 1]) and torch.equal(gone[:, 0], gone[:, 2])
    changed = gone[:, 0][gone[:, 0].flatten(1).any(1)]
    assert 0.2 < len(changed) / 600 < 0.3
    areas, corners = [], set()
    for marked in changed:
        assert box(marked)
        areas.append(float(marked.float().mean()))
        corners.add(tuple(marked.nonzero()[0].tolist()))
    # Zhong et al. 2017: 2 % to 40 % of the area, here to whole pixels.
    assert 0.01 < min(areas) < 0.06
    assert 0.3 < max(areas) < 0.45
    assert len(corners) > 50


def test_tall_and_wide_boxes_are_as_frequent() -> None:
    gone = erase(flat(2000, 40, 40), 1.0, seeded())[:, 0] == 0
    tall, wide = gone.any(2).sum(1), gone.any(1).sum(1)
    ratio = tall.float() / wide
    assert 0.45 < float((ratio > 1).float().mean() + (ratio == 1).float().mean() / 2) < 0.55
    assert float(ratio.min()) < 0.5 and float(ratio.max()) > 2


def test_erasing_is_set_by_its_generator_and_can_be_off(device: torch.device) -> None:
    images = flat(8, 10, 10, device)
    assert torch.equal(erase(images, 0.5, seeded(device, 1)), erase(images, 0.5, seeded(device, 1)))
    assert not torch.equal(erase(images, 1, seeded(device, 1)), erase(images, 1, seeded(device, 2)))
    assert erase(images, 0, seeded(device)) is images
    with pytest.raises(ValueError, match=r"probability: found 1\.5; 0 to 1"):
        erase(images, 1.5, seeded(device))


@pytest.mark.gpu
def test_mixing_and_erasing_never_wait_for_the_device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    images, labels, generator = flat(8, 32, 32, "cuda"), torch.arange(8, device="cuda"), seeded("cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        mix_and_cut(images, labels, num_classes=8, mixup_alpha=0.2, cutmix_alpha=0.5, generator=generator)
        erase(images, 0.5, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
