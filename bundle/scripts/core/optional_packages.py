# SPDX-License-Identifier: Apache-2.0
"""Packages that a library imports where they are installed, left out of its import where this program has no use for them."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

# MONAI imports all of its modules at once, and with them packages for its handlers, logs, exports and notebooks, of no use to
# commands that neither train nor export; its metrics and its readers of medical images keep theirs.
UNUSED_BY_COMMANDS = (
    "IPython",
    "ignite",
    "jsonschema",
    "matplotlib",
    "mlflow",
    "onnx",
    "onnxruntime",
    "optuna",
    "pandas",
    "requests",
    "scipy.signal",
    "sklearn",
    "tensorboard",
    "tifffile",
    "torch.utils.tensorboard",
    "transformers",
)
# Inference has no use for those of readers and metrics either; all take four fifths of the time, and MONAI's networks need none.
UNUSED_BY_INFERENCE = (
    *UNUSED_BY_COMMANDS,
    "PIL",
    "itk",
    "pydicom",
    "scipy.ndimage",
    "scipy.optimize",
    "scipy.sparse.linalg",
    "scipy.spatial",
    "skimage",
)


@contextlib.contextmanager
def absent(*names: str) -> Iterator[None]:
    """Let packages read as not installed while a library is imported; those that are imported already are unchanged.

    Args:
        names: packages or modules of them.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None reads as not installed
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


def import_nibabel() -> None:
    """Import nibabel without pydicom, which it uses for DICOM headers inside NIfTI files; these stay bytes in this process."""
    with absent("pydicom"):
        import nibabel  # noqa: F401


def import_monai() -> None:
    """Import PyTorch and MONAI without the packages that inference has no use for.

    For processes of inference alone: MONAI's readers, handlers and metrics stay without these packages until the process ends.
    """
    import_nibabel()
    import torch  # noqa: F401  # its own imports are left as they are

    with absent(*UNUSED_BY_INFERENCE):
        import monai.bundle  # noqa: F401


class _LeanMonai:
    """Finder of MONAI whose first import leaves packages out.

    Args:
        packages: packages or modules of them.
    """

    def __init__(self, packages: Iterable[str]) -> None:
        self.packages = set(packages)

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Place of MONAI, and None for every other module."""
        if name != "monai":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def lean(module: ModuleType) -> None:
                with absent(*self.packages):
                    execute(module)
                    importlib.import_module("monai.bundle")

            spec.loader.exec_module = lean  # type: ignore[method-assign]
        return spec


def import_monai_lean(packages: Iterable[str] = UNUSED_BY_COMMANDS) -> None:
    """Leave packages out of MONAI's import, whenever this process imports it; nothing where it is imported already.

    For processes of a command: MONAI's handlers and logs stay without these packages until the process ends.

    Args:
        packages: packages or modules of them, besides those of an earlier call.
    """
    if "monai" in sys.modules:
        return
    for finder in sys.meta_path:
        if isinstance(finder, _LeanMonai):
            finder.packages.update(packages)
            return
    sys.meta_path.insert(0, _LeanMonai(packages))
