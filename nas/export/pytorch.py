"""One readable Python file that needs torch alone, and its weights as `torch.load(weights_only=True)` reads them."""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import torch

from nas.blocks._layers import DropPath, activation
from nas.blocks.conv import Conv
from nas.cost import count
from nas.export._base import EXPORTERS, CannotExpress, Exporter, Predict, Subject
from nas.export._layout import broken, definition, listed, literal, repeated
from nas.export._specialise import Specialised, activation_source, specialise
from nas.models import Place, naming, places

MOST_CLASSES = 100
"""Class names that are written into the source; more are read from the labels file."""


def write(subject: Subject, folder: Path) -> tuple[str, ...]:
    """Write NAME.py and NAME.pt."""
    (folder / f"{subject.name}.py").write_text(source(subject), encoding="utf-8")
    buffer = io.BytesIO()  # torch's own writer answers a full disk with an error that names no disk
    torch.save({name: value.contiguous() for name, value in subject.network.state_dict().items()}, buffer)
    (folder / f"{subject.name}.pt").write_bytes(buffer.getbuffer())
    return f"{subject.name}.py", f"{subject.name}.pt"


def reload(folder: str, name: str) -> Predict:
    """Load the file as a user would."""
    import importlib
    import sys

    import torch

    sys.path.insert(0, folder)
    network = importlib.import_module(name).load()

    def predict(images):  # type: ignore[no-untyped-def]  # runs where this module's types are not
        with torch.inference_mode():
            return network(torch.from_numpy(images)).numpy()

    return predict


def source(subject: Subject) -> str:
    """Return a network as one Python module."""
    every = list(places(subject.spec))
    parts = specialise([place.call for place in every if place.part not in ("stem", "head")])
    lines = [*_docstring(subject), "", *_imports(parts.imports), *_constants(subject), "", ""]
    for node in parts.definitions:
        if node.name == activation.__name__:
            lines += ["ACTIVATIONS = {", *(f'    "{word}": {_maker(word)},' for word in parts.activations), "}", "", ""]
        lines += [*definition(node), "", ""]
    lines += [*_network(subject, every, parts), "", "", *_load()]
    return "\n".join(lines) + "\n"


def _maker(word: str) -> str:
    return f"lambda: {activation_source(word)}"


def _docstring(subject: Subject) -> list[str]:
    spec, total = subject.spec.resolved(), count(subject.spec)
    channels, size, _ = subject.shape
    known = ", normalised with MEAN and STD" if subject.images else ""
    order = " in the order of CLASSES" if subject.images else ""
    return [
        f'"""{subject.title}: {subject.origin}.',
        "",
        f"Input: images, float32, (N, {channels}, {size}, {size}){known}.",
        f"Output: a score for each of {spec.num_classes} classes{order}, (N, {spec.num_classes}); softmax makes shares of them.",
        "",
        f"{total.params:,} parameters, {total.macs:,} multiply-adds for one image of {size} x {size} pixels.",
        f"Weights: {subject.weights}.",
        '"""',
    ]


def _imports(found: dict[str, str]) -> list[str]:
    """Return the imports: the standard library's, then torch's; `found` has the module of each name."""
    names = {"Path": "pathlib", "nn": "torch", "Tensor": "torch"} | found
    lines = [f"import {name}" for name in sorted(names) if not names[name] and name != "torch"]
    for home in sorted({home for home in names.values() if home} - {"torch"}):
        lines.append(f"from {home} import {', '.join(_of(names, home))}")
    return [*lines, "", "import torch", f"from torch import {', '.join(_of(names, 'torch'))}"]


def _of(names: dict[str, str], home: str) -> list[str]:
    return sorted(name for name, other in names.items() if other == home)


def _constants(subject: Subject) -> list[str]:
    images = subject.images
    lines = ["", *broken(f'WEIGHTS = Path(__file__).with_name("{subject.name}.pt")', 0)]
    if images is None:
        return lines
    lines += ["# Of each channel, for pixels in 0..1."]
    lines += [f"MEAN = {literal(images.mean)}", f"STD = {literal(images.std)}"]
    if len(images.classes) > MOST_CLASSES:
        text = 'Path(__file__).with_name("labels.txt").read_text(encoding="utf-8")'
        return [*lines, *broken(f"CLASSES = tuple({text}.splitlines())", 0)]
    return [*lines, *listed("CLASSES = (", images.classes, ")")]


# --- the network ------------------------------------------------------------------------------------------


def _network(subject: Subject, every: Sequence[Place], parts: Specialised) -> list[str]:
    spec = subject.spec.resolved()
    resnet = naming(subject.spec) == "resnet"
    stem, *others = every
    head = others.pop() if others[-1].part == "head" else None
    drops = [node.name for node in parts.definitions if DropPath.__name__ in ast.unparse(node)]
    given = [f"num_classes: int = {spec.num_classes}", f"dropout: float = {float(spec.dropout)}"]
    given += [f"drop_path: float = {float(spec.drop_path)}"] if drops else []
    lines = ["class Network(nn.Module):", *_about(bool(drops)), ""]
    lines += broken(f"def __init__(self, {', '.join(given)}) -> None:", 4)
    lines += ["        super().__init__()", *_parts(stem, ("conv1" if resnet else "conv_stem"), "bn1", "act1")]
    if spec.stem_pool:
        lines.append(f"        self.{'maxpool' if resnet else 'pool'} = nn.MaxPool2d(3, 2, 1)")
    stages = [(part, list(group)) for part, group in groupby(others, key=lambda place: place.part)]
    if resnet:
        for number, (_, group) in enumerate(stages, 1):
            lines += [f"        # {_size(group)}", f"        self.layer{number} = nn.Sequential("]
            lines += [*_blocks(group, parts, 12), "        )"]
    else:
        lines.append("        self.blocks = nn.Sequential(")
        for _, group in stages:
            lines += [f"            # {_size(group)}", "            nn.Sequential(", *_blocks(group, parts, 16)]
            lines.append("            ),")
        lines.append("        )")
    if head is not None:
        lines += _parts(head, "conv_head", "bn2", "act2")
    lines.append("        self.dropout = nn.Dropout(dropout)")
    lines.append(
        f"        self.{'fc' if resnet else 'classifier'} = nn.Linear({every[-1].args.out_channels}, num_classes)"
    )
    lines += _settings(subject, len(stages) if resnet else 0, drops, {place.call.kind.__name__ for place in others})
    lines += ["", "    def forward(self, x: Tensor) -> Tensor:", *_forward(subject, stem, head, resnet, len(stages))]
    return lines


def _about(drops: bool) -> list[str]:
    """Return the docstring of the network."""
    if not drops:
        return ['    """The network, with fresh weights as torch draws them. In training mode it has dropout."""']
    return [
        '    """The network, with fresh weights as torch draws them. In training mode it has dropout and drop path.',
        "",
        "    `drop_path` is the rate at the end: block i of N has the share i / N of it.",
        '    """',
    ]


def _size(group: Sequence[Place]) -> str:
    return f"{group[-1].args.out_channels} x {group[-1].out_size} x {group[-1].out_size}"


def _parts(place: Place, conv: str, norm: str, act: str) -> Iterator[str]:
    """Yield the lines of stem or head, whose parts are attributes of the network, as timm has them."""
    call = place.call
    if call.kind is not Conv:
        raise CannotExpress(f"{place.part}: found {place.layer.block}; only conv can be written down there.")
    given = call.given
    words = [str(given[name]) for name in ("in_channels", "out_channels", "kernel_size")]
    if given["stride"] != 1 or given["kernel_size"] > 1:
        words += [str(given["stride"]), str(given["kernel_size"] // 2)]
    words += [] if given["bias"] else ["bias=False"]
    yield from broken(f"self.{conv} = nn.Conv2d({', '.join(words)})", 8)
    if given["norm"]:
        yield f"        self.{norm} = nn.BatchNorm2d({given['out_channels']})"
    yield f"        self.{act} = {activation_source(given['act'])}"


def _blocks(group: Sequence[Place], parts: Specialised, indent: int) -> Iterator[str]:
    """Yield the blocks of a stage, a run of equal ones as a loop."""
    for text, run in groupby(place.call.source(parts.parameters) for place in group):
        times = len(list(run))
        yield from broken(f"{text},", indent) if times == 1 else repeated(text, times, indent)


def _settings(subject: Subject, layers: int, drops: Sequence[str], blocks: set[str]) -> Iterator[str]:
    """Yield what norms and drop paths are told.

    Args:
        layers: Stages that are attributes of their own (`layer1`); 0 where they are one sequence.
        drops: Classes with a drop path. blocks: Classes of the blocks.
    """
    spec = subject.spec
    if (spec.norm_eps, spec.norm_momentum) != (1e-5, 0.1):
        yield "        for module in self.modules():"
        yield "            if isinstance(module, nn.BatchNorm2d):"
        yield f"                module.eps, module.momentum = {literal(spec.norm_eps)}, {literal(spec.norm_momentum)}"
    if not drops:
        return
    yield "        # Huang et al. 2016, arXiv:1603.09382, equation 4."
    if layers:
        every = ", ".join(f"*self.layer{number}" for number in range(1, layers + 1))
        yield from broken(f"blocks = [{every}]", 8)
    else:
        yield "        blocks = [block for stage in self.blocks for block in stage]"
    yield "        for index, block in enumerate(blocks):"
    if blocks <= set(drops):
        yield "            block.drop_path.rate = drop_path * index / len(blocks)"
    else:
        yield "            for module in block.modules():"
        yield "                if isinstance(module, DropPath):"
        yield "                    module.rate = drop_path * index / len(blocks)"


def _forward(subject: Subject, stem: Place, head: Place | None, resnet: bool, stages: int) -> Iterator[str]:
    def through(place: Place, conv: str, norm: str, act: str) -> str:
        inner = f"self.{conv}(x)"
        return f"self.{act}(self.{norm}({inner}))" if place.call.given["norm"] else f"self.{act}({inner})"

    spec = subject.spec.resolved()
    yield f"        x = {through(stem, 'conv1' if resnet else 'conv_stem', 'bn1', 'act1')}"
    if spec.stem_pool:
        yield f"        x = self.{'maxpool' if resnet else 'pool'}(x)"
    if resnet:
        yield from (f"        x = self.layer{number}(x)" for number in range(1, stages + 1))
    else:
        yield "        x = self.blocks(x)"
    if head is not None and spec.pool_first:
        yield "        x = x.mean((2, 3), keepdim=True)"
    if head is not None:
        yield f"        x = {through(head, 'conv_head', 'bn2', 'act2')}"
    last = "x.flatten(1)" if head is not None and spec.pool_first else "x.mean((2, 3))"
    yield f"        return self.{'fc' if resnet else 'classifier'}(self.dropout({last}))"


def _load() -> list[str]:
    return [
        "def load(weights: str | Path = WEIGHTS) -> Network:",
        '    """Return the network with its weights, in evaluation mode, on the CPU."""',
        "    network = Network()",
        '    state = torch.load(weights, map_location="cpu", weights_only=True)',
        "    network.load_state_dict(state)",
        "    return network.eval()",
    ]


USAGE = """\
from {name} import load

network = load()  # a torch.nn.Module in evaluation mode, on the CPU
scores = network(images)
"""

EXPORTERS.register(
    "torch",
    Exporter(
        write=write,
        reload=reload,
        imports=("torch",),
        tolerance=1e-5,
        usage=USAGE,
        example='cd {folder} && python -c "import {name}; print({name}.load())"',
    ),
)
