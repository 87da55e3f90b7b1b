# SPDX-License-Identifier: Apache-2.0
"""Messages of libraries that a user can do nothing about, left out of the log by their text."""

from __future__ import annotations

import logging
import warnings

# Beginnings of warnings, as regular expressions.
WARNINGS = (
    r"Num foregrounds \d+, Num backgrounds \d+, unable to generate class balanced samples",  # a case without fracture
    r"NvImgCodecPydicomReader: ",  # an optional decoder of DICOM
    r"'(min|cumulative)_delta' is deprecated",  # an argument that MONAI passes to ignite
    r"parsing config_file ",  # of MONAI about any config
)
# Loggers whose warnings are about parts that are not installed.
LOGGERS = ("monai.data.nvimgcodec_pydicom_plugin",)


def silence() -> None:
    """Leave out the messages of this module in this process and in those that it forks."""
    for text in WARNINGS:
        warnings.filterwarnings("ignore", message=text)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
