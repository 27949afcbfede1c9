from __future__ import annotations

import sys

import pytest
import torch

from nas.cost._onnx import INPUT, OUTPUT, need_onnx, onnx_bytes
from nas.errors import UsageError
from nas.models import build
from nas.spec import ArchSpec


def test_any_number_of_images_goes_through_and_nothing_is_printed(
    tiny_spec: ArchSpec, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    import onnx
    import onnxruntime

    network = build(tiny_spec, seed=0).eval()
    content = onnx_bytes(network, (3, 16, 16))
    assert capfd.readouterr() == ("", "") and not recwarn.list
    graph = onnx.load_from_string(content).graph
    assert ([item.name for item in graph.input], [item.name for item in graph.output]) == ([INPUT], [OUTPUT])
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, 16, 16]
    for number in (1, 2, 5):
        images = torch.randn(number, 3, 16, 16)
        with torch.no_grad():
            expected = network(images)
        found = torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_an_absent_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"onnx: onnxscript is not installed\. Run: pip install 'phinas\[onnx\]'"):
        need_onnx("onnx", "onnxscript")
