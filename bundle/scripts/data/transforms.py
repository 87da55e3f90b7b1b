# SPDX-License-Identifier: Apache-2.0
"""Transforms that MONAI lacks or that need a guard."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from monai.transforms import Spacingd


class SafeSpacingd(Spacingd):
    """``Spacingd`` that tolerates plain strings beside the image, such as the ``image_path`` that MONAI Label adds.

    MONAI 1.6 updates every item whose key starts with the image's key and an underscore as if it were a dictionary of metadata.
    """

    def __call__(self, data: Mapping[Hashable, object], lazy: bool | None = None) -> dict[Hashable, object]:
        """Resample as ``Spacingd`` does; items it cannot handle are set aside meanwhile."""
        prefixes = tuple(f"{key}_" for key in self.keys)
        aside = {
            k: v for k, v in data.items() if isinstance(k, str) and k.startswith(prefixes) and not isinstance(v, dict)
        }
        result = super().__call__({k: v for k, v in data.items() if k not in aside}, lazy=lazy)  # type: ignore[arg-type]
        return {**result, **aside}
