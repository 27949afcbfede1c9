"""A module that registers the network with timm, written in timm's own words, and its weights as safetensors.

timm's builder rebuilds the network from its notation, so its training script, feature extraction and fine-tuning work. What
that notation cannot say exactly is refused: a network that is nearly the one that was trained has other numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nas.blocks import Call
from nas.blocks._layers import GlobalContext, SqueezeExcite
from nas.cost import count
from nas.export import safetensors_file
from nas.export._base import EXPORTERS, CannotExpress, Exporter, Predict, Subject
from nas.export._layout import broken, literal
from nas.models import Place, naming, places, timm_definition
from nas.spec import ArchSpec, LayerSpec, round_channels

REMEDY = "Export it with --format torch."


def write(subject: Subject, folder: Path) -> tuple[str, ...]:
    """Write NAME_timm.py and NAME.safetensors."""
    text = _resnet(subject) if naming(subject.spec) == "resnet" else _efficientnet(subject)
    (folder / f"{subject.name}_timm.py").write_text(text, encoding="utf-8")
    return (f"{subject.name}_timm.py", *safetensors_file.write(subject, folder))


def reload(folder: str, name: str) -> Predict:
    """Load the module as a user would, and the weights twice: by timm, and strictly by torch."""
    import importlib
    import sys

    import timm
    import torch
    from safetensors.torch import load_file

    sys.path.insert(0, folder)
    module = importlib.import_module(f"{name}_timm")
    (model,) = module.__all__
    timm.create_model(model).load_state_dict(load_file(f"{folder}/{name}.safetensors"), strict=True)
    network = timm.create_model(model, pretrained=True).eval()

    def predict(images):  # type: ignore[no-untyped-def]  # runs where this module's types are not
        with torch.inference_mode():
            return network(torch.from_numpy(images)).numpy()

    return predict


def refuse(part: str, found: str) -> CannotExpress:
    """Return the error for something that timm cannot express."""
    return CannotExpress(f"timm: {part}: {found}. {REMEDY}")


# --- EfficientNet and MobileNetV3 -------------------------------------------------------------------------

_LAYERS = {"silu": "nn.SiLU", "relu": "nn.ReLU", "relu6": "nn.ReLU6", "hard_swish": "nn.Hardswish"}


def _efficientnet(subject: Subject) -> str:
    spec = subject.spec.resolved()
    every = list(places(subject.spec))
    stem, *blocks = every
    head = blocks.pop() if blocks[-1].part == "head" else None
    definition = timm_definition(spec)
    if definition is None:
        for number, stage in enumerate(spec.stages, 1):
            for layer in stage.layers:
                if timm_definition(_alone(spec, number, layer)) is None:
                    skip = f" with skip: {layer.skip}" if layer.skip else ""
                    raise refuse(f"stage {number}", f"{layer.block}{skip} has no exact equivalent in its notation")
    assert definition is not None
    late = spec.pool_first
    _check_ends(spec, stem, head, late)
    acts = {place.call.given["act"] for place in (stem, head) if place is not None}
    if len(acts) > 1:
        raise refuse("stem, head", f"their activations differ ({', '.join(sorted(acts))}), timm has one for both")
    for place in blocks:
        if place.args.stride not in (1, 2):
            raise refuse(place.part, f"stride {place.args.stride}, timm knows 1 and 2")
    total = 2 * math.prod(place.args.stride for place in blocks)
    if late and total > 32:
        raise refuse("stages", f"they shrink the image by {total // 2}; timm's MobileNetV3 by 16 at most")
    arguments = {
        "block_args": "decode_arch_def(ARCH_DEF)",
        "stem_size": str(stem.args.out_channels),
        "fix_stem": "True",
        "num_features": "0" if head is None else str(head.args.out_channels),
        "act_layer": _LAYERS[acts.pop()],
    }
    if stem.args["kernel_size"] != 3:
        arguments["stem_kernel_size"] = str(stem.args["kernel_size"])
    if total > 32:  # beyond its output stride timm dilates in place of shrinking
        arguments["output_stride"] = str(total)
    if late and head is not None and not head.call.given["bias"]:
        arguments["head_bias"] = "False"
    attention, imports = _attention(blocks, late)
    arguments |= attention
    # timm rounds channels to multiples of 8 unless told otherwise; those here are final.
    arguments |= {"round_chs_fn": "int"} | _norm(spec)
    arguments |= {"drop_rate": literal(float(spec.dropout)), "drop_path_rate": literal(float(spec.drop_path))}
    stages = [
        [f'    ["{runs[0]}"],'] if len(runs) == 1 else ["    [", *(f'        "{run}",' for run in runs), "    ],"]
        for runs in definition
    ]
    lines = ["ARCH_DEF = [", *(line for stage in stages for line in stage), "]"]
    kind = "MobileNetV3" if late else "EfficientNet"
    home = "mobilenetv3" if late else "efficientnet"
    imports.setdefault("timm.models._efficientnet_builder", set()).add("decode_arch_def")
    imports[f"timm.models.{home}"] = {kind}
    own = [] if stem.args.stride == 2 else _own_stem(kind, stem.args.stride)
    ends = ("conv_stem", "classifier")
    return _module(subject, kind if not own else "Network", arguments, imports, [*lines, *own], ends)


def _alone(spec: ArchSpec, number: int, layer: LayerSpec) -> ArchSpec:
    """Return a spec of which only one layer is asked for in timm's notation."""
    return replace(spec, stages=(replace(spec.stages[number - 1], layers=(layer,)),))


def _check_ends(spec: ArchSpec, stem: Place, head: Place | None, late: bool) -> None:
    """Refuse a stem or head that timm's classes do not have."""
    if spec.stem_pool:
        raise refuse("stem", "max_pool, timm's EfficientNet has none")
    if not stem.call.given["norm"]:
        raise refuse("stem", "norm: false")
    if late and stem.args["kernel_size"] != 3:
        raise refuse("stem", f"kernel_size {stem.args['kernel_size']}, timm's MobileNetV3 has 3")
    if head is None:
        return
    given = head.call.given
    if given["kernel_size"] != 1 or given["stride"] != 1:
        raise refuse("head", f"kernel_size {given['kernel_size']}, stride {given['stride']}; timm has 1 and 1")
    if given["norm"] == late:
        raise refuse("head", f"norm: {str(given['norm']).lower()} {'after' if late else 'before'} the pooling")


def _own_stem(kind: str, stride: int) -> list[str]:
    return [
        "",
        "",
        f"class Network({kind}):",
        f'    """timm\'s {kind} with a stem of stride {stride}: timm\'s own is always 2."""',
        "",
        "    def __init__(self, *args, **kwargs):",
        "        super().__init__(*args, **kwargs)",
        f"        self.conv_stem.stride = ({stride}, {stride})",
        "        for level in self.feature_info:",
        '            level["reduction"] //= 2'
        if stride == 1
        else f'            level["reduction"] = level["reduction"] * {stride} // 2',
    ]


# --- attention --------------------------------------------------------------------------------------------

_SQUEEZED = [
    "",
    "",
    "def squeezed(channels):",
    '    """Round the hidden channels of the attention down, to one at least."""',
    "    return max(1, math.floor(channels + 1e-6))",
]


def _attention(blocks: Sequence[Place], late: bool) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Return timm's arguments for the attention of all blocks, and what they import.

    timm has one kind of attention for a network, of which each block chooses the ratio alone.
    """
    found = [(place, item) for place in blocks if isinstance(item := place.call.given.get("attention"), Call)]
    if not found:
        return {}, {}
    shared = {(item.kind, item.given["gate"]) for _, item in found}
    if len(shared) > 1:
        raise refuse("attention", "blocks differ in its kind or gate, timm has one for all of them")
    ((kind, gate),) = shared
    name = kind.__name__
    home = "timm.layers" if kind is GlobalContext else "timm.models._efficientnet_blocks"
    words = [] if gate == "sigmoid" else [f'gate_layer="{gate}"']
    if any(item.given["act"] != place.call.given["act"] for place, item in found):
        acts = {item.given["act"] for _, item in found}
        if len(acts) > 1 or kind is GlobalContext:
            raise refuse(
                "attention", "se_activation: timm has one for all blocks, and none of its own for global context"
            )
        words.append(f"force_act_layer={_LAYERS[acts.pop()]}")
    rule, from_expanded = _rule(found, kind is GlobalContext, late)
    words += [rule] if rule else []
    arguments = {"se_layer": f"partial({', '.join([name, *words])})"} if words or kind is not SqueezeExcite else {}
    imports: dict[str, set[str]] = {home: {name}} if arguments else {}
    if "squeezed" in rule:
        imports["math"] = set()
    if "round_channels" in rule:
        imports["timm.models._efficientnet_builder"] = {"round_channels"}
    if late and not from_expanded:
        arguments["se_from_exp"] = "False"
    return arguments, imports


def _rule(found: Sequence[tuple[Place, Call]], context: bool, late: bool) -> tuple[str, bool]:
    """Return the rounding, as timm's argument, that gives every block the hidden channels it has, and whether timm takes its
    ratio of the expanded channels.
    """
    divisor = max(int(place.args["se_divisor"]) for place, _ in found)
    rules: dict[str, Callable[[float], int]] = {
        "": round,
        f"rd_round_fn=partial(round_channels, divisor={divisor})": lambda wish: round_channels(wish, divisor),
        "rd_round_fn=squeezed": lambda wish: max(1, math.floor(wish + 1e-6)),
    }
    if context:
        rules = {
            "": lambda wish: max(1, int(wish + 0.5)),
            f"rd_divisor={divisor}": lambda wish: round_channels(wish, divisor, 0),
        }
    for from_expanded in (True, False) if late else (False,):
        for text, rule in rules.items():
            if all(rule(_wish(place, item, from_expanded)) == item.given["squeezed"] for place, item in found):
                return text, from_expanded
    raise refuse("attention", "se_base or se_divisor: timm rounds the hidden channels of some blocks otherwise")


def _wish(place: Place, item: Call, from_expanded: bool) -> float:
    """Return the hidden channels of a block before rounding, in timm's own order of operations."""
    ratio = float(f"{place.args['se_ratio']:g}")
    if not from_expanded:
        ratio /= float(place.args.options.get("expand_ratio", 1.0))
    return float(item.given["channels"]) * ratio


# --- ResNet -----------------------------------------------------------------------------------------------


def _resnet(subject: Subject) -> str:
    spec = subject.spec.resolved()
    stem, *blocks = places(subject.spec)
    given = stem.call.given
    if (given["kernel_size"], given["stride"], given["out_channels"], given["norm"]) != (
        7,
        2,
        64,
        True,
    ) or not spec.stem_pool:
        raise refuse("stem", "timm's ResNet has 7 x 7, stride 2, 64 channels, a norm and a max pooling")
    stages = [[place for place in blocks if place.part == f"s{number + 1}"] for number in range(len(spec.stages))]
    if len(stages) != 4 or [group[0].args.stride for group in stages] != [1, 2, 2, 2]:
        raise refuse("stages", "timm's ResNet has four, of strides 1, 2, 2, 2")
    acts = {given["act"], *(place.call.given["act"] for place in blocks)}
    if len(acts) > 1 or {place.args["kernel_size"] for place in blocks} != {3}:
        raise refuse("stages", "timm's ResNet has 3 x 3 kernels and one activation")
    kinds = {place.call.kind.__name__ for place in blocks}
    if len(kinds) > 1:
        raise refuse("stages", "blocks of two kinds")
    kind = kinds.pop()
    planes = [group[0].args.out_channels // (4 if kind == "Bottleneck" else 1) for group in stages]
    if any(len({place.args.out_channels for place in group}) > 1 for group in stages):
        raise refuse("stages", "the width changes within one")
    arguments = {"block": kind, "layers": str(tuple(len(group) for group in stages)), "channels": str(tuple(planes))}
    if kind == "Bottleneck":
        width = {
            64 * place.call.given["width"] / planes[number] for number, group in enumerate(stages) for place in group
        }
        if len(width) > 1 or any(group[0].args.out_channels % 4 for group in stages):
            raise refuse("stages", "bottleneck_ratio: timm has one for all")
        (base,) = width
        if base != int(base):
            raise refuse("stages", "bottleneck_ratio: timm counts it in 64ths of the width")
        arguments |= {} if base == 64 else {"base_width": str(int(base))}
    arguments |= {"act_layer": _LAYERS[acts.pop()]} | _norm(spec)
    # timm lets the rate rise to the last block, nas to the one after it.
    rate = spec.drop_path * (len(blocks) - 1) / len(blocks)
    arguments |= {"drop_rate": literal(float(spec.dropout)), "drop_path_rate": literal(rate)}
    arguments |= {"zero_init_last": "False"}
    return _module(subject, "ResNet", arguments, {"timm.models.resnet": {"ResNet", kind}}, [], ("conv1", "fc"))


# --- the module -------------------------------------------------------------------------------------------


def _norm(spec: ArchSpec) -> dict[str, str]:
    words = [f"eps={literal(spec.norm_eps)}"] if spec.norm_eps != 1e-5 else []
    words += [f"momentum={literal(spec.norm_momentum)}"] if spec.norm_momentum != 0.1 else []
    return {"norm_layer": f"partial(nn.BatchNorm2d, {', '.join(words)})"} if words else {}


def _module(
    subject: Subject,
    kind: str,
    arguments: Mapping[str, str],
    imports: Mapping[str, set[str]],
    own: Sequence[str],
    ends: tuple[str, str],
) -> str:
    """Return the module.

    Args:
        kind: Class of the model. arguments: Of it, as source. own: Lines above the entry point.
        ends: Names of the first convolution and of the classifier.
    """
    homes = {name: set(names) for name, names in imports.items()}
    homes["timm.models"] = {"build_model_with_cfg", "generate_default_cfgs", "register_model"}
    homes["pathlib"] = {"Path"}
    if any("partial(" in value for value in arguments.values()):
        homes["functools"] = {"partial"}
    if any("nn." in value for value in arguments.values()):
        homes["torch"] = {"nn"}
    standard = [name for name in sorted(homes) if not name.startswith(("timm", "torch"))]
    others = [name for name in sorted(homes) if name not in standard]
    lines = _docstring(subject)
    lines += [*_imports(standard, homes), "", *_imports(others, homes), ""]
    lines += [*own, *(_SQUEEZED if "math" in homes else [])]
    lines += ["", ""] if lines[-1].startswith(" ") else [""] if own else []  # two lines below a class or function
    lines += ["default_cfgs = generate_default_cfgs(", "    {", f'        "{subject.model}": {{']
    for key, value in _configuration(subject, ends).items():
        lines += broken(f'"{key}": {value},', 12)
    lines += ["        }", "    }", ")", "", "", "@register_model"]
    lines += [f"def {subject.model}(pretrained=False, **kwargs):", f'    """{subject.title}."""']
    lines += ["    arguments = {"]
    for key, value in arguments.items():
        lines += broken(f'"{key}": {value},', 8)
    lines += ["    }", "    arguments.update(kwargs)"]
    lines += broken(f'return build_model_with_cfg({kind}, "{subject.model}", pretrained, **arguments)', 4)
    return "\n".join(lines) + "\n"


def _docstring(subject: Subject) -> list[str]:
    total = count(subject.spec)
    return [
        f'"""{subject.title} for timm: {subject.origin}.',
        "",
        "    import timm",
        f"    import {subject.name}_timm",
        "",
        f'    network = timm.create_model("{subject.model}", pretrained=True)',
        "",
        f"{total.params:,} parameters, {total.macs:,} multiply-adds for one image. Weights: {subject.weights}.",
        '"""',
        "",
    ]


def _imports(names: Sequence[str], homes: Mapping[str, set[str]]) -> list[str]:
    lines: list[str] = []
    for name in sorted(names, key=lambda item: bool(homes[item])):
        line = f"from {name} import {', '.join(sorted(homes[name]))}" if homes[name] else f"import {name}"
        lines.append(line)
    return lines


def _configuration(subject: Subject, ends: tuple[str, str]) -> dict[str, str]:
    """Return what timm keeps of a model beside its code: where its weights are, and how images are prepared."""
    known = {} if subject.images is None else {"mean": subject.images.mean, "std": subject.images.std}
    return {
        "file": f'str(Path(__file__).with_name("{subject.name}.safetensors"))',
        "num_classes": str(subject.spec.num_classes),
        "input_size": str(subject.shape),
        **{key: literal(value) for key, value in known.items()},
        "interpolation": '"bilinear"',
        "crop_pct": "1.0",
        "first_conv": f'"{ends[0]}"',
        "classifier": f'"{ends[1]}"',
    }


USAGE = """\
import timm
import {name}_timm  # registers the model

network = timm.create_model("{model}", pretrained=True).eval()
scores = network(images)
"""

EXPORTERS.register(
    "timm",
    Exporter(
        write=write,
        reload=reload,
        imports=("timm", "torch", "torchvision", "safetensors"),
        tolerance=1e-5,
        usage=USAGE,
        example="cd {folder} && python -c \"import timm, {name}_timm; print(timm.create_model('{model}', pretrained=True))\"",
        packages=("timm",),
        extra="timm",
    ),
)
