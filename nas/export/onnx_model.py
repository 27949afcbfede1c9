"""ONNX, checked, with a batch of any size: `images` in, `scores` out."""

from __future__ import annotations

import json
from pathlib import Path

from nas.cost._onnx import onnx_bytes
from nas.export._base import EXPORTERS, Exporter, Predict, Subject, facts


def write(subject: Subject, folder: Path) -> tuple[str, ...]:
    """Write NAME.onnx."""
    import onnx

    model = onnx.load_model_from_string(onnx_bytes(subject.network, subject.shape))
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts(subject).items()}
    onnx.helper.set_model_props(model, texts)
    (folder / f"{subject.name}.onnx").write_bytes(model.SerializeToString())
    return (f"{subject.name}.onnx",)


def reload(folder: str, name: str) -> Predict:
    """Run the model as onnxruntime does."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(f"{folder}/{name}.onnx", options, providers=["CPUExecutionProvider"])

    def predict(images):  # type: ignore[no-untyped-def]  # runs where this module's types are not
        return session.run(["scores"], {"images": images})[0]

    return predict


USAGE = """\
import onnxruntime

session = onnxruntime.InferenceSession("{name}.onnx")
(scores,) = session.run(["scores"], {{"images": images}})  # float32 arrays of numpy
"""

EXPORTERS.register(
    "onnx",
    Exporter(
        write=write,
        reload=reload,
        imports=("onnxruntime",),
        tolerance=1e-4,  # other kernels, and norms folded into convolutions
        usage=USAGE,
        example="python -c \"import onnxruntime; print(onnxruntime.InferenceSession('{folder}/{name}.onnx').get_inputs()[0])\"",
        packages=("onnx", "onnxscript", "onnxruntime"),
        extra="onnx",
    ),
)
