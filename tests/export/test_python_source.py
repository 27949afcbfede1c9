"""The readable file: every shipped network comes out whole, tidy, and without what it does not use."""

from __future__ import annotations

import ast
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas.blocks._layers import DropPath
from nas.catalog import load_arch, load_space
from nas.export import Images, Subject, pytorch, timm_module
from nas.export._layout import broken, listed, literal
from nas.export.pytorch import source
from nas.models import Network, build
from nas.space import decode, library, random_choose
from nas.spec import ArchSpec, scaled

REFERENCES = [name.removeprefix("reference/") for name in library.names() if name.startswith("reference/")]


class Empty(Network):
    """No tensors: the source is made from the description alone."""

    def __init__(self) -> None:
        nn.Module.__init__(self)


def subject(
    spec: ArchSpec, classes: tuple[str, ...] = ("a", "it's", 'so "called"'), network: Network | None = None
) -> Subject:
    images = Images("noise", "0" * 16, classes, (0.5,) * spec.in_channels, (0.25,) * spec.in_channels)
    return Subject("net", spec, network or Empty(), "made by a test", "random", images)


def loaded(item: Subject, **given: Any) -> nn.Module:
    """Run the source and return its network."""
    space: dict[str, Any] = {"__file__": "net.py"}
    exec(compile(source(item), "net.py", "exec"), space)
    assert not [value for value in space.values() if str(getattr(value, "__module__", "")).startswith("nas")]
    network: nn.Module = space["Network"](**given)
    return network


def norms(network: nn.Module) -> list[tuple[float, float]]:
    return [(m.eps, m.momentum or 0) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]


def rates(network: nn.Module) -> Iterator[float]:
    return (m.rate for m in network.modules() if type(m).__name__ == DropPath.__name__ and m.rate > 0)


@pytest.mark.parametrize("name", REFERENCES)
def test_the_file_builds_the_network(name: str) -> None:
    spec = replace(load_arch(name), drop_path=0.2)
    with torch.device("meta"):
        network, found = Network(spec), loaded(subject(spec))
    mine, theirs = network.state_dict(), found.state_dict()
    assert {key: value.shape for key, value in mine.items()} == {key: value.shape for key, value in theirs.items()}
    assert norms(found) == norms(network)
    # A block without skip connection has no drop path in the file: there it drops nothing.
    assert set(rates(found)) <= set(rates(network))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18", "mnasnet_small", "efficientnetv2_b0"])
def test_training_goes_on_as_it_did(name: str) -> None:
    spec = replace(load_arch(name, resolution=32, num_classes=5), drop_path=0.5, dropout=0.4)
    network = build(spec, seed=0)
    found = loaded(subject(spec))
    found.load_state_dict(network.state_dict())
    x = torch.randn(4, 3, 32, 32)
    for training in (False, True):
        outputs = []
        for one in (network.train(training), found.train(training)):
            torch.manual_seed(0)
            outputs.append(one(x))
        assert torch.equal(*outputs)
    outputs[-1].sum().backward()
    assert all(parameter.grad is not None for parameter in found.parameters())


@pytest.mark.parametrize("space", ["v2_tiny", "mnasnet_tiny", "mobilenet_v3_tiny"])
def test_whatever_a_space_makes_gives_the_same_scores(space: str) -> None:
    found, rng = load_space(space), random.Random(1)
    for _ in range(4):
        spec = decode(found, random_choose(rng), num_classes=5)
        network = build(spec, seed=0).eval()
        written = loaded(subject(spec)).eval()
        written.load_state_dict(network.state_dict())
        x = torch.randn(2, spec.in_channels, 32, 32)
        assert torch.equal(written(x), network(x))


def test_only_what_the_network_uses_is_written() -> None:
    text = source(subject(load_arch("mobilenet_v1")))
    assert "SqueezeExcite" not in text and "skip" not in text and "DropPath" not in text and "activation(" not in text
    assert "self.act1 = nn.ReLU6(inplace=True)" in text
    text = source(subject(load_arch("mobilenet_v3_small")))
    assert '"hard_swish": lambda' in text and '"relu": lambda' in text
    assert '"silu"' not in text and "AvgPool2d" not in text and "linear:" not in text
    for word in ("Call", "registry", "LayerSpec", "import nas", "from nas"):
        assert word not in text


def test_blocks_are_listed_by_stage_and_equal_ones_as_a_loop() -> None:
    text = source(subject(load_arch("efficientnetv2_b0")))
    assert "                *(FusedMBConv(32, 32, 128) for _ in range(1))" not in text
    assert "            # 192 x 6 x 6\n            nn.Sequential(\n                MBConv(" in text
    assert "for _ in range(7)" in text


@pytest.mark.parametrize("skip", ["pool", "none"])
def test_small_print_that_is_used_is_there(skip: str, tiny_spec: ArchSpec) -> None:
    def with_skip(spec: ArchSpec) -> ArchSpec:
        stages = [replace(s, layers=tuple(replace(one, skip=skip) for one in s.layers)) for s in spec.stages]
        return replace(spec, stages=tuple(stages))

    spec = with_skip(replace(tiny_spec, stem=replace(tiny_spec.stem, out_channels=8)))
    network = build(spec, seed=0).eval()
    found = loaded(subject(spec)).eval()
    found.load_state_dict(network.state_dict())
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(found(x), network(x))
    assert ("AvgPool2d" in source(subject(spec))) == (skip == "pool")


@pytest.mark.skipif(shutil.which("ruff", path=str(Path(sys.executable).parent)) is None, reason="ruff is not installed")
def test_ruff_has_nothing_to_say(tmp_path: Path) -> None:
    few = {"few": ("cat", "dog"), "long": tuple(f"a class with a long name {number}" for number in range(9))}
    many = {"many": tuple(f"class {number}" for number in range(200))}
    for name in REFERENCES:
        (tmp_path / f"{name}.py").write_text(source(subject(load_arch(name))))
    for name, classes in (few | many).items():
        spec = scaled(load_arch("efficientnet_b0", num_classes=len(classes)), width=0.5)
        (tmp_path / f"{name}.py").write_text(source(subject(spec, classes)))
    for name in REFERENCES:
        timm_module.write(subject(load_arch(name)), tmp_path)
    ruff = str(Path(sys.executable).parent / "ruff")
    for command in (["format", "--check", "--diff"], ["check"]):
        done = subprocess.run([ruff, *command, "--isolated", "."], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_layout() -> None:
    assert broken("x = f(1, 2)", 0) == ["x = f(1, 2)"]
    call = f"name = call({'a' * 40}, {'b' * 40})"
    assert broken(call, 0) == ["name = call(", f"    {'a' * 40}, {'b' * 40}", ")"]
    assert broken(call, 8)[1] == f"            {'a' * 40},".replace(",", ", ") + "b" * 40 or len(broken(call, 8)) == 4
    assert literal((0.1, 1e-5)) == "(0.1, 1e-5)" and literal((0.5,)) == "(0.5,)"
    assert listed("X = (", ("a",), ")") == ['X = ("a",)']


EVIL = 'x"""\nimport os; os.system("touch pwned")\n"""\\'
"""A name as it might come in a file of somebody else's."""


def test_names_in_files_of_others_are_text_and_never_code(tmp_path: Path) -> None:
    given, evil = [replace(load_arch("efficientnet_b0"), name=name) for name in ("harmless", EVIL)]
    first = subject(given)
    second = replace(subject(evil, classes=("a", f"b{EVIL}", "c\n")), origin=f"run {EVIL}", weights=f"of {EVIL}")
    for write in (timm_module.write, pytorch.write):
        trees = []
        for item in (first, second):
            folder = tmp_path / f"{write.__module__}-{len(trees)}"
            folder.mkdir()
            write(item, folder)
            tree = ast.parse(next(folder.glob("*.py")).read_text(encoding="utf-8"))
            trees.append([type(node).__name__ for node in ast.walk(tree) if isinstance(node, ast.stmt | ast.Call)])
        assert trees[0] == trees[1]
