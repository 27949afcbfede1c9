from __future__ import annotations

import pytest
import torch

from nas import devices
from nas.devices import describe_device, pick_device, pick_devices
from nas.errors import DeviceError

CPU = torch.device("cpu")


def test_devices_by_name() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(DeviceError, match="--devices: found 'gpu'; allowed: auto, cpu, cpu:2, cuda"):
        pick_device("gpu")
    with pytest.raises(DeviceError, match="step times are measured on cpu and cuda devices only"):
        pick_device("meta")
    with pytest.raises(DeviceError, match=r"cuda:99 is not there \(\d+ CUDA devices found\)\. Use --devices cpu"):
        pick_device("cuda:99")


def test_several_devices_by_name() -> None:
    assert pick_devices("cpu") == (CPU,)
    assert pick_devices("cpu:2") == pick_devices("cpu, cpu") == (CPU, CPU)
    for wrong in ("cpu:0", "cpu:x", "cpu:1.5"):
        with pytest.raises(DeviceError, match=f"--devices: found '{wrong}'; cpu:N is N workers on the CPU, 1 to 256"):
            pick_devices(wrong)


def test_devices_of_two_kinds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast and a slow GPU would rank networks by where they happened to be timed."""
    monkeypatch.setattr(devices, "pick_device", torch.device)
    monkeypatch.setattr(devices, "describe_device", lambda device, threads: {"name": f"GPU {device.index}"})
    with pytest.raises(DeviceError, match=r"cuda:0 is GPU 0, cuda:1 is GPU 1; step times compare only between"):
        pick_devices("cuda:0,cuda:1")


def test_a_device_is_described_by_what_step_times_depend_on() -> None:
    found = describe_device(CPU)
    assert found["type"] == "cpu" and found["name"] and found["threads"] == torch.get_num_threads()
    assert (found["precision"], found["layout"]) == ("float32", "channels_last")
