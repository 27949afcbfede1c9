"""The rival: what a competent user writes today, a plain PyTorch training inside an Optuna objective.

One network at a time at its final image size: torchvision transforms, image by image, in a DataLoader; autocast on CUDA; a
fused optimiser. The network, the images, the optimiser and its settings are those of our recipe, so that only the way of
training differs. `channels_last` is what a reader of PyTorch's tuning guide adds; `resident` is what an expert writes: the
images as one uint8 tensor on the device, and batched crops and flips there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from benchmarks.libraries import load as libraries
from nas.data import Dataset, Split
from nas.models import build
from nas.spec import ArchSpec
from nas.train.loop import sample
from nas.train.recipes import Recipe
from nas.train.schedule import learning_rate


@dataclass(frozen=True)
class Way:
    """How the plain training is written.

    Args:
        channels_last: Layout of network and images. resident: Images on the device, augmented there in batches.
        workers: Processes of the DataLoader; 0 prepares images in the training's own process.
    """

    channels_last: bool = False
    resident: bool = False
    workers: int = 0


class _Pictures(TorchDataset[tuple[Tensor, int]]):
    """Images one by one, as torchvision's own datasets give them."""

    def __init__(self, split: Split, rows: np.ndarray[Any, Any], transform: Any) -> None:
        self.images, self.labels, self.transform = split.images[rows], split.labels[rows], transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self.images[index]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return self.transform(image), int(self.labels[index])


class PlainTraining:
    """One network in a plain training: `step` it, or `train` it whole, and `score` it.

    Args:
        spec: The network, with the data's classes and channels. recipe: Its images, epochs, batch, optimiser, flips, crops.
        seed: Of weights, order and augmentation.
    """

    def __init__(
        self, spec: ArchSpec, data: Dataset, recipe: Recipe, device: torch.device, way: Way, seed: int
    ) -> None:
        self.recipe, self.device, self.way, self.data = recipe, device, way, data
        self.pixels = spec.resolved().resolution
        self.steps = max(1, round(min(recipe.train_images, len(data.train)) * recipe.epochs / recipe.batch_size))
        self.done = 0
        torch.manual_seed(seed)
        self.network: nn.Module = build(spec, seed=seed).to(device)
        if way.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        free = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=recipe.betas, fused=True)
        self._rows = {
            "train": sample(len(data.train), recipe.train_images).numpy(),
            "val": sample(len(data.val), recipe.val_images).numpy(),
        }
        self._kept = {part: self._resident(part) for part in self._rows} if way.resident else {}
        self._batches = self._forever()

    def train(self) -> None:
        """Train to the end of the recipe."""
        while self.done < self.steps:
            self.step()

    def step(self) -> float:
        """Do one step, with the preparation of its batch, and return its loss; on CUDA the host waits for it here."""
        images, labels = next(self._batches)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                self.done % self.steps, self.steps, self.recipe.learning_rate, self.recipe.warmup
            )
        self.network.train()
        with self._autocast():
            scores = self.network(images)
            loss = functional.cross_entropy(scores.float(), labels, label_smoothing=self.recipe.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        return float(loss.detach()) if self.device.type == "cpu" or self.done % 50 == 0 else 0.0

    @torch.no_grad()
    def score(self) -> float:
        """Return the accuracy (0..1) on the validation images."""
        self.network.eval()
        right = count = 0
        for images, labels in self._once():
            with self._autocast():
                found = self.network(images).argmax(1)
            right += int((found == labels).sum())
            count += len(labels)
        return right / count

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda")

    def _laid(self, images: Tensor) -> Tensor:
        if self.way.channels_last:
            return images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        return images.to(self.device, non_blocking=True)

    def _forever(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield training batches, epoch after epoch."""
        size = self.recipe.batch_size
        if self.way.resident:
            images, labels = self._kept["train"]
            while True:
                order = torch.randperm(len(labels), device=self.device)
                for index in order[: len(order) // size * size].view(-1, size):
                    yield self._laid(self._augmented(images[index])), labels[index]
        loader = self._loader("train", shuffle=True)
        while True:
            for pixels, targets in loader:
                yield self._laid(pixels), targets.to(self.device, non_blocking=True)

    def _once(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the validation images once."""
        if self.way.resident:
            images, labels = self._kept["val"]
            for first in range(0, len(labels), 250):
                part = slice(first, first + 250)
                yield self._laid(self._normalised(images[part].float() / 255)), labels[part]
            return
        for pixels, targets in self._loader("val", shuffle=False):
            yield self._laid(pixels), targets.to(self.device, non_blocking=True)

    def _loader(self, part: str, *, shuffle: bool) -> DataLoader[tuple[Tensor, int]]:
        _, torchvision = libraries()
        transforms = torchvision.transforms
        recipe = self.recipe
        padding = round(recipe.crop_padding * self.pixels)
        changed = [transforms.RandomCrop(self.pixels, padding=padding, padding_mode="reflect")] if padding else []
        changed += [transforms.RandomHorizontalFlip()] if recipe.flip else []
        chain = transforms.Compose(
            [
                transforms.Resize((self.pixels, self.pixels)),
                *(changed if part == "train" else []),
                transforms.ToTensor(),
                transforms.Normalize(self.data.mean, self.data.std),
            ]
        )
        split = self.data.train if part == "train" else self.data.val
        return DataLoader(
            _Pictures(split, self._rows[part], chain),
            batch_size=recipe.batch_size if part == "train" else 250,
            shuffle=shuffle,
            drop_last=part == "train",
            num_workers=self.way.workers,
            persistent_workers=self.way.workers > 0,
            multiprocessing_context="fork" if self.way.workers else None,  # Linux's own, also in a spawned process
            pin_memory=self.device.type == "cuda",
        )

    def _resident(self, part: str) -> tuple[Tensor, Tensor]:
        """Return images of the final size, uint8 (N, C, H, W), and labels, on the device."""
        split, rows = (self.data.train if part == "train" else self.data.val), self._rows[part]
        images = torch.from_numpy(split.images[rows]).permute(0, 3, 1, 2).contiguous().to(self.device)
        if images.shape[-1] != self.pixels:
            images = functional.interpolate(images.float(), self.pixels, mode="bilinear", antialias=True).byte()
        return images, torch.from_numpy(split.labels[rows]).to(self.device)

    def _augmented(self, images: Tensor) -> Tensor:
        """Shift and flip a batch, each image on its own, by one gather."""
        n, _, height, width = images.shape
        padding = round(self.recipe.crop_padding * self.pixels)
        pixels = images.float() / 255
        if padding:
            pixels = functional.pad(pixels, (padding,) * 4, mode="reflect")
        top, left = torch.randint(0, 2 * padding + 1, (2, n, 1), device=self.device)
        rows = top + torch.arange(height, device=self.device)
        columns = left + torch.arange(width, device=self.device)
        if self.recipe.flip:
            columns = torch.where(torch.rand(n, 1, device=self.device) < 0.5, columns.flip(1), columns)
        picked = pixels[torch.arange(n, device=self.device)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return self._normalised(picked.permute(0, 3, 1, 2).contiguous())

    def _normalised(self, pixels: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(value, device=self.device)[:, None, None] for value in (self.data.mean, self.data.std)
        )
        return (pixels - mean) / std


def window(training: PlainTraining, steps: int) -> float:
    """Return the seconds per step of so many steps in a row."""
    began = time.perf_counter()
    for _ in range(steps):
        training.step()
    if training.device.type == "cuda":
        torch.cuda.synchronize(training.device)
    return (time.perf_counter() - began) / steps
