# SPDX-License-Identifier: Apache-2.0
"""Files of the masks of an evaluation, named like the cases of its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import FolderLayoutBase

from ..io.case_naming import CaseNames


class CaseLayout(FolderLayoutBase):
    """``CASE.nii.gz`` in a folder, for ``folder_layout`` of MONAI's ``SaveImage``.

    MONAI names files like the image, so that the masks of ``p1/ct.nii.gz`` and ``p2/ct.nii.gz`` would be one file.

    Args:
        output_dir: folder of the masks.
        cases: cases of the evaluation, in its order, with ``image`` and ``label``.
    """

    def __init__(self, output_dir: str, cases: Sequence[Mapping[str, str]]) -> None:
        names = CaseNames()
        self.folder, self.names = Path(output_dir), {case["image"]: names.name(case["label"]) for case in cases}

    def filename(self, subject: str = "subject", idx: object = None, **kwargs: Any) -> str:
        """Path of the mask of an image; its folder is made.

        Args:
            subject: path of the image.
            idx: not used.
            kwargs: not used.
        """
        path = self.folder / f"{self.names[str(subject)]}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)
