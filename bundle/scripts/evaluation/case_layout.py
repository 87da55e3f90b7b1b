# SPDX-License-Identifier: Apache-2.0
"""Files of the masks of an evaluation, named like the cases of its tables."""

from __future__ import annotations

from collections import defaultdict
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
        self.folder, self.names = Path(output_dir), defaultdict[str, list[str]](list)
        for image, label in names.files:
            self.names[image].append(names.name(image, label))

    def filename(self, subject: str = "subject", idx: object = None, **kwargs: Any) -> str:
        """Path of the mask of an image; its folder is made.

        Args:
            subject: path of the image.
            idx: not used.
            kwargs: not used.

        Raises:
            InputError: for an image with several labels.
        """
        names = self.names.get(str(Path(subject)), [])
        if len(names) != 1:
            listed = f"the labels {', '.join(names)}" if names else "no label"
            raise InputError(f"{subject}: has {listed}, and one mask is saved for an image; set --save_masks False")
        self.folder.mkdir(parents=True, exist_ok=True)
        return str(self.folder / f"{names[0]}.nii.gz")
