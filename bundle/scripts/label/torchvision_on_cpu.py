# SPDX-License-Identifier: Apache-2.0
"""Let torchvision be imported beside a PyTorch without CUDA; ``serve`` puts it on the path of the server as ``sitecustomize.py``.

MONAI Label imports ``torchvision.utils``, which is plain Python. The wheel's compiled operators are linked to CUDA and do not load
without it, and torchvision then stops at describing operators that do not exist. So two of them are declared, without code, just
before it does that. Where the operators did load, nothing happens.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec

DESCRIBES = "torchvision._meta_registrations"
OPERATORS = ("nms", "qnms")
declared: list = []  # a library of operators lives as long as its object


class DeclareOperators:
    """Import hook that waits for the one module that needs the operators to exist."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Declare what is missing when that module is looked for; the ordinary search finds it afterwards."""
        if name != DESCRIBES:
            return None
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
        import torch

        if not hasattr(torch.ops.torchvision, OPERATORS[0]):
            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in OPERATORS:
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            declared.append(library)
        return None


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, DeclareOperators())  # type: ignore[arg-type]
