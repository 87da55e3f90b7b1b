# SPDX-License-Identifier: Apache-2.0
"""Import of torchvision with a PyTorch without CUDA; ``serve`` puts this on the path of the server as ``sitecustomize.py``.

MONAI Label imports ``torchvision.utils``, which is plain Python. The wheel's compiled operators are linked to CUDA and do not load
without it, and the import of torchvision fails at meta registrations of operators that do not exist. Two of them are therefore
declared, without code, just before that. Where the operators loaded, nothing happens.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec

META_REGISTRATIONS = "torchvision._meta_registrations"
OPERATORS = ("nms", "qnms")
declared: list = []  # a library of operators lives as long as its object


class DeclareOperators:
    """Import hook for the one module that needs the operators."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Declare missing operators at the import of that module, which the other finders then locate."""
        if name != META_REGISTRATIONS:
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
