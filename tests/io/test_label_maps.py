# SPDX-License-Identifier: Apache-2.0
"""Label maps of every numeric type are the same integers; anything else is refused with file, value and remedy."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scripts.io.label_maps import ensure_integers, read_label_map

AFFINE = np.diag([-0.8, 0.9, 2.0, 1.0])
LABELS = np.random.default_rng(0).integers(0, 29, (5, 6, 7))


def write(path, data, slope: float | None = None):
    image = nib.Nifti1Image(data, AFFINE)
    if slope is not None:
        image.header.set_slope_inter(slope, 0.0)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_any_numeric_type_has_the_same_labels(tmp_path, dtype):
    image = read_label_map(write(tmp_path / "m.nii.gz", LABELS.astype(dtype)))
    data = np.asanyarray(image.dataobj)
    assert data.dtype == np.uint8
    np.testing.assert_array_equal(data, LABELS)
    np.testing.assert_allclose(image.affine, AFFINE, rtol=1e-6)


def test_scaled_storage_is_rounded_within_the_tolerance(tmp_path):
    path = write(tmp_path / "m.nii", LABELS + np.float32(4e-4))
    np.testing.assert_array_equal(np.asanyarray(read_label_map(path).dataobj), LABELS)
    with pytest.raises(ValueError, match=r"m\.nii: contains fractions; threshold it"):
        read_label_map(path, tolerance=0.0, remedy="threshold it")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_other_formats_are_read_as_nifti_is(tmp_path, suffix):
    from monai.data import MetaTensor
    from monai.transforms import SaveImage

    writer = SaveImage(tmp_path, "", suffix, output_dtype=np.uint8, writer="ITKWriter", separate_folder=False, print_log=False)
    writer(MetaTensor(LABELS[None].astype(np.float32), affine=AFFINE, meta={"filename_or_obj": "m"}))
    image = read_label_map(next(tmp_path.glob(f"*{suffix}")))
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), LABELS)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.5, "contains fractions; a label map must contain integers"),
        (np.nan, "contains NaN"),
        (np.inf, "contains NaN or infinite"),
        (256, "from 0 to 256; a label map must contain integers from 0 to 255"),
        (-1, "from -1 to"),
    ],
)
def test_values_that_are_no_label_are_refused(tmp_path, value, message):
    data = LABELS.astype(np.float32)
    data[2, 3, 4] = value
    path = write(tmp_path / "m.nii.gz", data)
    with pytest.raises(ValueError, match=message) as refused:
        read_label_map(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


def test_integers_are_not_scanned_and_have_no_range():
    for data in (LABELS.astype(np.int64) * 1000 - 500, LABELS.astype(bool), np.zeros((0, 3, 3))):
        ensure_integers(data, "m.nii")
