# SPDX-License-Identifier: Apache-2.0
"""Packages that a library imports where they are installed, left out of its import where this program has no use for them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

# MONAI imports all of its modules at once, and these packages with them, for readers, handlers, logs and pictures that inference
# has no use for; they take four fifths of the time. Its networks need none of them.
UNUSED_BY_MONAI = (
    "IPython",
    "PIL",
    "ignite",
    "itk",
    "jsonschema",
    "matplotlib",
    "mlflow",
    "onnx",
    "onnxruntime",
    "optuna",
    "pandas",
    "pydicom",
    "requests",
    "scipy.ndimage",
    "scipy.optimize",
    "scipy.signal",
    "scipy.sparse.linalg",
    "scipy.spatial",
    "skimage",
    "sklearn",
    "tensorboard",
    "tifffile",
    "torch.utils.tensorboard",
    "transformers",
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

    with absent(*UNUSED_BY_MONAI):
        import monai.bundle  # noqa: F401
