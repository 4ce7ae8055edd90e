import importlib
import sys

import pytest
import torch

import tasks.vision


def test_torchvision_resizes_a_tensor() -> None:
    from torchvision.transforms import v2

    image = torch.arange(64.0).reshape(1, 8, 8)
    assert torch.equal(v2.Resize((8, 8))(image), image)
    halved = v2.Resize((4, 4), interpolation=v2.InterpolationMode.NEAREST)(image)
    assert torch.equal(halved, image[:, ::2, ::2])


def test_loading_twice_gives_the_same_module() -> None:
    first = tasks.vision.torchvision
    assert tasks.vision._load() is first is sys.modules["torchvision"]


def test_another_fault_of_torchvision_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        tasks.vision._load()
