"""The images that a training uses, and where they lie: on the device, or on the host where they would fill it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.data import Dataset, Split
from nas.train.recipes import Recipe


@dataclass(frozen=True)
class Images:
    """The images that a recipe uses, read by index: uint8, (N, H, W, C).

    Args:
        pixels: Some or all images of the data: on the device where they fit, else on the host, where they may be mapped from
            a file that is larger than memory; then each batch is copied.
        rows: int64, (N,): which of `pixels` are used; None is all of them.
        device: Where a batch is wanted.
    """

    pixels: Tensor
    rows: Tensor | None
    device: torch.device

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Return a batch on the device: uint8, (B, H, W, C)."""
        if self.rows is not None:
            index = self.rows[index.cpu() if isinstance(index, Tensor) else index]
        elif isinstance(index, Tensor):
            index = index.to(self.pixels.device)
        return self.pixels[index].to(self.device)

    def into(self, place: Tensor, index: Tensor) -> None:
        """Copy a batch from the host to its place on the device, without waiting for the device.

        Args:
            place: uint8, (B, H, W, C). index: int64, (B,), on the host.
        """
        rows = index if self.rows is None else self.rows[index]
        # Fresh memory each time: torch gives it out again only when the device has read it.
        batch = torch.empty(place.shape, dtype=torch.uint8, pin_memory=place.is_cuda)
        place.copy_(torch.index_select(self.pixels, 0, rows, out=batch), non_blocking=True)


@dataclass(frozen=True)
class DeviceData:
    """Images and labels where the network is.

    Args:
        train_images, val_images: uint8, (N, H, W, C). train_labels, val_labels: int64, (N,).
        mean, std: float32, (C,), in 0..1. num_classes: Number of classes.
    """

    train_images: Images
    train_labels: Tensor
    val_images: Images
    val_labels: Tensor
    mean: Tensor
    std: Tensor
    num_classes: int

    @property
    def device(self) -> torch.device:
        """Where everything lies."""
        return self.mean.device


def to_device(data: Dataset, recipe: Recipe | None, device: torch.device) -> DeviceData:
    """Bring the images that a recipe uses to a device, as uint8; all images where there is no recipe.

    Where the data has more than the recipe uses, a sample with a fixed seed is taken, the same for every network. Images that
    would fill a CUDA device stay on the host; on a CPU none is copied at all.
    """
    train_images, train_labels = _sample(data.train, recipe.train_images if recipe else len(data.train), device)
    val_images, val_labels = _sample(data.val, recipe.val_images if recipe else len(data.val), device)
    return DeviceData(
        train_images=train_images,
        train_labels=train_labels,
        val_images=val_images,
        val_labels=val_labels,
        mean=torch.tensor(data.mean, dtype=torch.float32, device=device),
        std=torch.tensor(data.std, dtype=torch.float32, device=device),
        num_classes=data.num_classes,
    )


def sample(images: int, most: int) -> Tensor:
    """Return the indices of the images that a recipe uses: all of them, or a sample with a fixed seed; ascending."""
    return torch.randperm(images, generator=torch.Generator().manual_seed(0))[:most].sort().values


DEVICE_SHARE = 0.4
"""Share of a CUDA device's free memory that images may take; the rest belongs to networks."""


def _sample(split: Split, most: int, device: torch.device) -> tuple[Images, Tensor]:
    with warnings.catch_warnings():  # torch warns of pages that cannot be written; nobody writes to images
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        pixels, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    rows = sample(len(labels), most) if len(labels) > most else None
    if rows is not None:
        labels = labels[rows]
    need = len(labels) * pixels[0].numel()
    if device.type == "cuda" and need < DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        pixels, rows = (pixels if rows is None else pixels[rows]).to(device), None
    return Images(pixels, rows, device), labels.to(device)
