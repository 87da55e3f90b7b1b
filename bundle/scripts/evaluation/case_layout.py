# SPDX-License-Identifier: Apache-2.0
"""Files of the masks of an evaluation, named like the cases of its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import FolderLayoutBase

from ..core.errors import InputError
from ..io.case_naming import CaseNames


class CaseLayout(FolderLayoutBase):
    """``CASE.nii.gz`` in a folder, for ``folder_layout`` of MONAI's ``SaveImage``.

    MONAI names files like the image, so that the masks of ``p1/ct.nii.gz`` and ``p2/ct.nii.gz`` would be one file.

    Args:
        output_dir: folder of the masks.
        cases: cases of the evaluation with ``image`` and ``label``.
    """

    def __init__(self, output_dir: str, cases: Sequence[Mapping[str, str]]) -> None:
        names = CaseNames(cases)
        self.folder, self.names = Path(output_dir), dict[str, str]()
        for case in (c for c in cases if "label" in c):
            image, name = str(Path(case["image"])), names.name(case["label"])
            if self.names.setdefault(image, name) != name:
                raise InputError(
                    f"{image}: has the labels {self.names[image]} and {name}, and one mask is saved for an image; evaluate them "
                    "apart, or set --save_masks False"
                )

    def filename(self, subject: str = "subject", idx: object = None, **kwargs: Any) -> str:
        """Path of the mask of an image; its folder is made.

        Args:
            subject: path of the image.
            idx: not used.
            kwargs: not used.
        """
        path = self.folder / f"{self.names[str(Path(subject))]}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)
