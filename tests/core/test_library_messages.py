# SPDX-License-Identifier: Apache-2.0
"""Messages of libraries without a remedy are left out; others are not."""

from __future__ import annotations

import logging
import warnings

from scripts.core.library_messages import LOGGERS, silence, use_one_format


def test_messages_without_a_remedy_are_left_out():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        silence()
        warnings.warn("Num foregrounds 0, Num backgrounds 9, unable to generate class balanced samples, setting", stacklevel=1)
        warnings.warn("the label has another grid", stacklevel=1)
    assert [str(w.message) for w in seen] == ["the label has another grid"]
    assert all(not logging.getLogger(name).isEnabledFor(logging.WARNING) for name in LOGGERS)


def test_loggers_of_monai_have_the_format_of_the_root(caplog):
    logger = logging.getLogger("monai.test_of_formats")
    logger.addHandler(logging.StreamHandler())
    logger.propagate = False
    with caplog.at_level("INFO"):
        use_one_format()
        logger.info("a line")
    assert logger.handlers == []
    assert caplog.messages == ["a line"]
