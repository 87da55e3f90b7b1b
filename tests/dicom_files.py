# SPDX-License-Identifier: Apache-2.0
"""DICOM slices and series for tests."""

from __future__ import annotations

import numpy as np

NORMAL = np.array([0.0, 0.0, 1.0])


def write_slice(path, pixels: np.ndarray, position, **changes) -> None:
    """Write a CT slice (row, column) with slope 1 and intercept -1024; None in ``changes`` removes a tag."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": "1.2.3",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PhotometricInterpretation": "MONOCHROME2",
        "RescaleSlope": "1",
        "RescaleIntercept": "-1024",
        "ImagePositionPatient": [f"{p:.4f}" for p in position],
        "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
        "PixelSpacing": ["0.8", "0.6"],
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PixelData": (pixels + 1024).astype(np.uint16).tobytes(),
    }
    for name, value in (values | changes).items():
        if value is not None:
            setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)


def write_series(folder, volume: np.ndarray, step=NORMAL * 2.0, order=None, **changes) -> list:
    """Write slices of ``volume`` (slice, row, column); file names follow ``order``, not position."""
    folder.mkdir(parents=True, exist_ok=True)
    order = range(len(volume)) if order is None else order
    files = []
    for name, k in enumerate(order):
        files.append(folder / f"{name:03d}.dcm")
        write_slice(files[-1], volume[k], np.array([-30.0, -20.0, 100.0]) + k * np.asarray(step), **changes)
    return files
