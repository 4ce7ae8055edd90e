"""The only import of torchvision: ``from tasks.vision import torchvision``.

torchvision's build on the package index has compiled operators for a CUDA torch; beside a CPU-only torch its
extension cannot load, and the import fails while it registers shape functions for operators that are not
there. Declaring those operators lets the rest of it (data sets, transforms) work. Where the extension loads,
declaring them would clash with it, so this is done only after an import has failed for that reason.
"""

import importlib
import sys
from types import ModuleType

import torch

MISSING = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_declared: torch.library.Library | None = None  # torch drops the declarations when this object goes


def _load() -> ModuleType:
    global _declared
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # a failed import leaves submodules behind
    _declared = torch.library.Library("torchvision", "DEF")
    for operator in MISSING:
        _declared.define(operator + SCHEMA)
    return importlib.import_module("torchvision")


torchvision = _load()
