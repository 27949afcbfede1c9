"""What every exporter must do: what is reloaded from its files, where `nas` cannot be imported, equals the original."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import fresh_python
import pytest
import torch

from nas.catalog import load_arch
from nas.export import EXPORTERS, Images, Subject
from nas.export._base import BLOCKED
from nas.export._check import check
from nas.models import build
from nas.search import SearchResult
from nas.spec import ArchSpec, scaled

NAMES = [name for name in EXPORTERS if all(map(importlib.util.find_spec, EXPORTERS[name].packages))]

NETWORKS = ["mobilenet_v3_small", "mnasnet_small", "resnet18", "gc_efficientnetv2_rw_t"]


def subject(spec: ArchSpec, name: str = "net") -> Subject:
    torch.manual_seed(0)
    network = build(spec, seed=0)
    for module in network.modules():  # statistics of their own, so that a swapped norm is seen
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.uniform_(module.bias, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    classes = tuple(f"class {number}" for number in range(spec.num_classes))
    half = (0.5,) * spec.in_channels
    return Subject(
        name, spec, network.eval(), "made by a test", "random", Images("noise", "0" * 16, classes, half, half)
    )


@pytest.fixture
def any_timm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(fresh_python.write(tmp_path)))


def written_and_checked(item: Subject, folder: Path) -> None:
    folder.mkdir()
    for name in NAMES:
        files = EXPORTERS[name].write(item, folder)
        assert files and all((folder / file).is_file() for file in files)
    seen: list[tuple[int, int]] = []
    found = check(item, NAMES, folder, None, lambda done, total: seen.append((done, total)))
    assert [one.format for one in found] == NAMES
    for one in found:
        assert 0 <= one.difference <= one.allowed <= 1e-4
        assert one.random_images == 12 and one.accuracy is None
    assert seen[-1] == (12, 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_reloaded_reference_network_equals_the_original(name: str, any_timm: None, tmp_path: Path) -> None:
    spec = scaled(load_arch(name, resolution=32, num_classes=7), depth=0.34)
    written_and_checked(subject(spec), tmp_path / "out")


def test_a_reloaded_network_of_the_tiny_space_equals_the_original(
    tiny_spec: ArchSpec, any_timm: None, tmp_path: Path
) -> None:
    written_and_checked(subject(replace(tiny_spec, in_channels=1, dropout=0.3)), tmp_path / "out")


def test_the_reloaded_winner_of_a_search_equals_the_original(
    finished: SearchResult, any_timm: None, tmp_path: Path
) -> None:
    written_and_checked(subject(finished.winner, "winner"), tmp_path / "out")


@pytest.mark.parametrize("name", list(EXPORTERS))
def test_an_exporter_declares_what_its_reloading_imports(name: str) -> None:
    exporter = EXPORTERS[name]
    tree = ast.parse(textwrap.dedent(inspect.getsource(exporter.reload)))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    packages = {module.partition(".")[0] for module in modules}
    assert packages & set(BLOCKED) <= set(exporter.imports)
    assert set(exporter.imports) <= set(BLOCKED), "what is not in BLOCKED is not hidden from other formats"
    assert bool(exporter.packages) == bool(exporter.extra)
    assert exporter.usage.format(name="winner", model="winner")
    assert exporter.example.format(folder="out", name="winner", model="winner")
