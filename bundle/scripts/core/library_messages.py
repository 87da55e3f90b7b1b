# SPDX-License-Identifier: Apache-2.0
"""Messages of libraries that a user can do nothing about, left out of the log by their text, and one format for the others."""

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
    """Leave out the messages of this module, in this process and in those that it forks, and use one format for those of MONAI."""
    for text in WARNINGS:
        warnings.filterwarnings("ignore", message=text)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    use_one_format()


def use_one_format() -> None:
    """Let MONAI's loggers write by the handlers of the root, where it has some, in place of handlers of their own."""
    if not logging.getLogger().handlers:
        return
    for name, item in list(logging.root.manager.loggerDict.items()):
        if name.partition(".")[0] == "monai" and isinstance(item, logging.Logger) and item.handlers:
            item.handlers.clear()
            item.propagate = True
