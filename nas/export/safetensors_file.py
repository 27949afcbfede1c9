"""The weights as safetensors, with the architecture, the classes and the normalisation in its metadata."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from safetensors.torch import save

from nas.export._base import EXPORTERS, Exporter, Predict, Subject, facts


def write(subject: Subject, folder: Path) -> tuple[str, ...]:
    """Write NAME.safetensors."""
    state = {name: value.contiguous() for name, value in subject.network.state_dict().items()}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts(subject).items()}
    architecture = yaml.safe_dump(subject.spec.document(), sort_keys=False)
    # `format` is what other readers look for: the tensors are torch's.
    metadata = {"format": "pt", "architecture": architecture, **texts}
    (folder / f"{subject.name}.safetensors").write_bytes(save(state, metadata))
    return (f"{subject.name}.safetensors",)


def reload(folder: str, name: str) -> Predict:
    """Build the network that the metadata describes, and give it the tensors."""
    import tempfile
    from pathlib import Path

    import torch
    from safetensors import safe_open

    from nas import catalog
    from nas.models import build

    with safe_open(f"{folder}/{name}.safetensors", "pt") as file:
        architecture = file.metadata()["architecture"]
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no mapping
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "architecture.yaml"
        path.write_text(architecture, encoding="utf-8")
        network = build(catalog.load_arch(path)).eval()
    network.load_state_dict(state, strict=True)

    def predict(images):  # type: ignore[no-untyped-def]  # runs where this module's types are not
        with torch.inference_mode():
            return network(torch.from_numpy(images)).numpy()

    return predict


USAGE = """\
import nas

network = nas.build(nas.load_arch("architecture.yaml")).eval()
nas.load_weights(network, "{name}.safetensors")  # or safetensors.torch.load_file, for a network of your own
"""

EXPORTERS.register(
    "safetensors",
    Exporter(
        write=write,
        reload=reload,
        imports=("nas", "torch", "safetensors"),
        tolerance=1e-5,
        usage=USAGE,
        example="nas show {folder}/architecture.yaml",
    ),
)
