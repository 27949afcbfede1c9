"""Weights from files: what is read, what is refused, and what the message says."""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from nas.catalog import load_arch
from nas.engine import checkpoints
from nas.errors import WeightsError
from nas.models import Network, build
from nas.spec import scaled
from nas.weights import load_backbone, load_weights


def network(num_classes: int = 10, seed: int = 0) -> Network:
    return build(scaled(load_arch("efficientnetv2_b0", num_classes=num_classes), width=0.25, depth=0.34), seed=seed)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.pth", lambda state: state),
        ("timm.pth.tar", lambda state: {"epoch": 3, "arch": "b0", "state_dict": state}),
        ("averaged.pt", lambda state: {"state_dict": {k: v * 0 for k, v in state.items()}, "state_dict_ema": state}),
        ("options.pth", lambda state: {"args": argparse.Namespace(lr=0.1), "epoch": 3, "state_dict": state}),
        ("beside.pt", lambda state: state | {"epoch": 3}),
        ("both.pt", lambda state: {f"_orig_mod.module.{k}": v for k, v in state.items()}),
        ("parallel.pt", lambda state: {"model": {f"module.{k}": v for k, v in state.items()}}),
        ("compiled.bin", lambda state: {f"_orig_mod.{k}": v for k, v in state.items()}),
        ("counters.pt", lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}),
    ],
)
def test_weights_come_from_whatever_a_checkpoint_calls_them(tmp_path: Path, name: str, content: Any) -> None:
    source, target = network(seed=1), network(seed=2)
    torch.save(content(source.state_dict()), tmp_path / name)
    assert not same(source, target)
    load_weights(target, tmp_path / name)
    assert same(source, target)


def test_weights_come_from_safetensors_and_from_a_runs_own_checkpoint(tmp_path: Path) -> None:
    source, one, two = network(seed=1), network(seed=2), network(seed=3)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    checkpoints.save(tmp_path, "abc-s0", [], {"network": source.state_dict(), "optimizer": None, "phases_done": 3})
    load_weights(one, tmp_path / "weights.safetensors")
    load_weights(two, tmp_path / "abc-s0.pt")
    assert same(source, one)
    assert same(source, two)


def test_a_file_is_read_by_what_it_is_and_not_by_its_name(tmp_path: Path) -> None:
    source = network(seed=1)
    for name in ("renamed.pt", "LOUD.SAFETENSORS"):
        target = network(seed=2)
        save_file(source.state_dict(), tmp_path / name)
        load_weights(target, tmp_path / name)
        assert same(source, target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.to_sparse(), "not plain, finite numbers: classifier.weight"),
        (lambda t: t.to(torch.complex64), "not plain, finite numbers: classifier.weight"),
        (lambda t: t * float("nan"), "not plain, finite numbers: classifier.weight"),
        (lambda t: t.to("meta"), "not plain, finite numbers: classifier.weight"),
    ],
    ids=["sparse", "complex", "nan", "meta"],
)
def test_tensors_that_are_no_numbers_are_refused_before_anything_is_loaded(
    tmp_path: Path, change: Any, message: str
) -> None:
    state = network(seed=1).state_dict()
    state["classifier.weight"] = change(state["classifier.weight"])
    torch.save(state, tmp_path / "odd.pt")
    target = network(seed=2)
    with pytest.raises(WeightsError, match=message):
        load_weights(target, tmp_path / "odd.pt")
    assert same(target, network(seed=2))


def test_odd_checkpoints_end_with_a_message(tmp_path: Path) -> None:
    loop: dict[str, Any] = {}
    loop["model"] = loop
    state = network().state_dict()
    for name, content, message in (
        ("loop.pt", loop, "holds no weights"),
        ("numbered.pt", {0: torch.zeros(1)}, "holds no weights: found the keys 0"),
        ("single.pt", {"model": torch.zeros(1), "epoch": 1}, "the weights are not of this network: missing"),
        ("twice.pt", state | {"module.classifier.bias": torch.zeros(10)}, "some tensors are there twice"),
    ):
        torch.save(content, tmp_path / name)
        with pytest.raises(WeightsError, match=message):
            load_weights(network(), tmp_path / name)


@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_byte_never_ends_in_a_traceback(tmp_path: Path, place: int, value: int) -> None:
    path = tmp_path / "small.pt"
    torch.save({"state_dict": {"weight": torch.ones(4), "bias": torch.zeros(2)}}, path)
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    path.write_bytes(content)
    layer = torch.nn.Linear(2, 2)
    with contextlib.suppress(WeightsError):
        load_weights(layer, path)


def test_weights_of_another_network_are_refused_with_the_first_names_and_shapes(tmp_path: Path) -> None:
    state = network(num_classes=7, seed=1).state_dict()
    for key in [key for key in state if key.startswith("blocks.5.")]:
        del state[key]
    state |= {"fc.weight": torch.zeros(1)}
    save_file(state, tmp_path / "other.safetensors")
    target = network(seed=2)
    with pytest.raises(WeightsError) as caught:
        load_weights(target, tmp_path / "other.safetensors")
    message = str(caught.value)
    assert "other.safetensors: the weights are not of this network: missing: blocks.5.0.conv_pw.weight, " in message
    assert "more; not in the network: fc.weight; " in message
    assert "of another shape: classifier.weight (7, 320) (the network has (10, 320)), classifier.bias (7,)" in message
    assert same(target, network(seed=2))  # nothing was loaded


class Code:
    """A pickle that runs a command where it is believed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_of_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Code(tmp_path / "run")}, tmp_path / "code.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Code(tmp_path / "run")))
    for name, said in (("code.pth", "mkdir"), ("old.pth", "Unsupported operand")):
        with pytest.raises(WeightsError, match=rf"refused: it is a pickle of more than tensors .*{said}"):
            load_weights(network(), tmp_path / name)
    assert not (tmp_path / "run").exists()


def test_a_whole_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="refused: it is a pickle of more than tensors"):
        load_weights(network(), tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pt", b"", "cannot be read as weights"),
        ("text.pth", b"weights", "refused|cannot be read as weights"),
        ("text.safetensors", b"weights", "cannot be read as weights"),
        ("cut.safetensors", None, "cannot be read as weights"),
        ("cut.pt", None, "cannot be read as weights"),
    ],
)
def test_what_is_no_file_of_weights_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is None:
        (save_file if name.endswith("safetensors") else torch.save)(network().state_dict(), path)
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name}: ({message})"):
        load_weights(network(), path)


def test_a_file_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "history": [1.0]}, tmp_path / "log.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(
        WeightsError, match=r"log\.pt: holds no weights: found the keys epoch, history; allowed: tensors"
    ):
        load_weights(network(), tmp_path / "log.pt")
    with pytest.raises(
        WeightsError, match=r"list\.pt: holds no weights: found an empty or unnamed list; allowed: tensors"
    ):
        load_weights(network(), tmp_path / "list.pt")
    with pytest.raises(WeightsError, match=r"nowhere\.pt: no such file"):
        load_weights(network(), tmp_path / "nowhere.pt")


def test_a_backbone_takes_all_but_a_classifier_for_other_classes(tmp_path: Path) -> None:
    trained, path = network(num_classes=10, seed=1), tmp_path / "trained.safetensors"
    save_file(trained.state_dict(), path)
    fresh = network(num_classes=7)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    assert load_backbone(fresh, path) == 10
    for name, value in fresh.state_dict().items():
        kept = before if name.startswith("classifier.") else trained.state_dict()
        assert torch.equal(value, kept[name]), name
    for weights in (load_weights, load_backbone):  # the same classes: all of it
        whole = network(num_classes=10)
        assert not weights(whole, path) and same(whole, trained)


def test_a_backbone_of_another_network_is_refused_with_its_names(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    other = build(scaled(load_arch("efficientnetv2_b0", num_classes=10), width=0.5, depth=0.34), seed=0)
    save_file(other.state_dict(), path)
    fresh = network(num_classes=7)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(WeightsError, match=r"of another shape: conv_stem\.weight"):
        load_backbone(fresh, path)
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
