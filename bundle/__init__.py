# SPDX-License-Identifier: Apache-2.0
"""Segmentation of fractured vertebrae in CT, for research use only.

The package is a MONAI bundle: configs, weights and code lie in its folder, which ``spine-fracture path`` prints. Where a command
ends with one line about bad input, the functions of this module raise ``ValueError`` with that line.

    >>> from spine_fracture import segment, score
    >>> results = segment("scan.nii.gz", out="results")
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .scripts.evaluation.score import score as score
    from .scripts.inference.segment import segment as segment
    from .scripts.networks import MSFFNet as MSFFNet

# Imported at first use, so that "import spine_fracture" is fast.
_PUBLIC = {"MSFFNet": "networks", "score": "evaluation.score", "segment": "inference.segment"}
__all__ = ["MSFFNet", "__version__", "score", "segment"]


def _raising_value_error(function: Callable) -> Callable:
    """Function that raises ``ValueError`` in place of ``InputError``, which would end an interactive session."""
    input_error = importlib.import_module(f"{__name__}.scripts.core.errors").InputError

    @functools.wraps(function)
    def wrapper(*args: object, **kwargs: object) -> object:
        try:
            return function(*args, **kwargs)
        except input_error as error:
            raise ValueError(str(error)) from None

    return wrapper


def __getattr__(name: str) -> object:
    if name == "__version__":
        return importlib.import_module(f"{__name__}.scripts.core.provenance").version()
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.scripts.{_PUBLIC[name]}"), name)
    value = value if isinstance(value, type) else _raising_value_error(value)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
