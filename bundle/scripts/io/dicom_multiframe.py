# SPDX-License-Identifier: Apache-2.0
"""Enhanced CT (one DICOM file for a series): headers of its frames, as if each were a slice of its own, and their pixels.

Geometry and rescaling are in functional groups, shared by all frames or of each (DICOM PS3.3, C.7.6.16).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import last_line

# Tags of a single slice, by the functional group that holds them.
GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
}
FRAME_TYPE_GROUP = "CTImageFrameTypeSequence"
COMMON_TAGS = ("SeriesInstanceUID", "SOPInstanceUID", "Modality", "PhotometricInterpretation", "Rows", "Columns")


def is_multiframe(header: Any) -> bool:
    """Return True for the header of a file with several frames."""
    try:
        return int(header.get("NumberOfFrames", 1) or 1) > 1
    except (TypeError, ValueError):
        return False


def _group(functional: Sequence[Any], name: str) -> Any | None:
    """First item of a functional group, of the frame or else shared."""
    for groups in functional:
        sequence = groups.get(name)
        if sequence:
            return sequence[0]
    return None


def frame_headers(file: Path) -> list[Any]:
    """Headers of the frames with the tags of single slices; tags that the file lacks are absent.

    Args:
        file: enhanced CT.

    Raises:
        ValueError: one line; a file without the functional groups of every frame.
    """
    import pydicom
    from pydicom.dataset import Dataset

    try:
        data = pydicom.dcmread(file, stop_before_pixels=True)
        shared = list(data.get("SharedFunctionalGroupsSequence") or [])[:1]
        frames = list(data.get("PerFrameFunctionalGroupsSequence") or [])
    except Exception as error:  # struct, key and value errors of a damaged header
        raise ValueError(f"{file}: its DICOM header is damaged ({last_line(error)}), perhaps cut off; copy it again") from None
    number = int(data.NumberOfFrames)
    if len(frames) != number:
        raise ValueError(
            f"{file}: has {number} frames, but positions of {len(frames)} (PerFrameFunctionalGroupsSequence); export it as an "
            "enhanced CT, or as single slices"
        )
    headers = []
    for n, frame in enumerate(frames, 1):
        header = Dataset()
        for tag in COMMON_TAGS:
            if tag in data:
                setattr(header, tag, data.get(tag))
        header.InstanceNumber = n
        frame_type = _group([frame, *shared], FRAME_TYPE_GROUP)
        header.ImageType = data.get("ImageType", []) if frame_type is None else frame_type.get("FrameType", [])
        for name, tags in GROUPS.items():
            group = _group([frame, *shared], name)
            for tag in tags:
                if group is not None and tag in group:
                    setattr(header, tag, group.get(tag))
        headers.append(header)
    return headers


def open_frames(file: Path, headers: Sequence[Any]) -> Callable[[int, int], NDArray[np.float32]]:
    """Decode an enhanced CT, and return a reader of its frames in HU (frame, row, column), each by its own slope and intercept.

    Args:
        file: enhanced CT.
        headers: headers of the frames, as of ``frame_headers``, in the order of reading.

    Raises:
        ValueError: one line, for pixels that cannot be decoded.
    """
    import pydicom

    try:
        stored = pydicom.dcmread(file).pixel_array
    except Exception as error:  # decoders have exceptions of their own
        raise ValueError(
            f"{file}: its frames cannot be decoded ({last_line(error)}); export it uncompressed, or pip install "
            "pylibjpeg pylibjpeg-libjpeg"
        ) from None

    def hu(header: Any) -> NDArray[np.float32]:
        frame = stored[int(header.InstanceNumber) - 1].astype(np.float32)
        return frame * np.float32(header.RescaleSlope) + np.float32(header.RescaleIntercept)

    def read(start: int, stop: int) -> NDArray[np.float32]:
        return np.stack([hu(header) for header in headers[start:stop]])

    return read
