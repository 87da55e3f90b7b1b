# SPDX-License-Identifier: Apache-2.0
"""Code in the manual prints what the manual says."""

from __future__ import annotations

import contextlib
import io
import re

from conftest import ROOT


def test_the_worked_example_of_the_evaluation_is_true():
    text = (ROOT / "docs" / "evaluation.md").read_text()
    code, expected = re.search(r"```python\n(.*?)```\s+```text\n(.*?)```", text, re.DOTALL).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/evaluation.md", "exec"), {})
    assert printed.getvalue() == expected
