# SPDX-License-Identifier: Apache-2.0
"""Connected components: one connectivity for post-processing and evaluation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import generate_binary_structure, label

CONNECTIVITY = 1  # pixels that share an edge, voxels that share a face


def label_components(mask: NDArray[np.bool_], connectivity: int = CONNECTIVITY) -> tuple[NDArray[np.int32], int]:
    """Number the connected components of a mask, two or three axes, from 1.

    Args:
        mask: mask.
        connectivity: 1 for faces, 2 for edges as well, 3 for corners as well.

    Returns:
        Number of the component at every voxel, 0 outside the mask; number of components.
    """
    return label(mask, generate_binary_structure(mask.ndim, connectivity), output=np.int32)
