# SPDX-License-Identifier: Apache-2.0
"""The table of vertebrae: decisions and measurements side by side, never merged; unknown values are dashes; text is escaped."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from scripts.postprocessing.vertebra_record import CUT_NOTE, VertebraRecord
from scripts.visualization.vertebra_table import (
    MEASURED,
    NETWORK,
    decision_text,
    grade_text,
    loss_text,
    vertebra_block,
    vertebra_table,
)

HOSTILE = "<script>\"&'</script>"
FULL = VertebraRecord(
    3, 20, "L1", "guess", True, 0.913, True, (17.94, 20.0, 27.1), (0.44, 0.5, 0.6), 0.31, 0.34, 0.041, 2, (1, 3), "wedge",
    148.6, 11.7, 41.26, 20.0, (1.0, 2.0, 3.0), "osteophyte",
)  # fmt: skip


def cells(markup: str, row: str) -> list[str]:
    line = re.search(rf'<tr[^>]*data-vertebra="{row}".*?</tr>', markup, re.S)
    assert line
    return [re.sub("<[^>]+>", "", c) for c in re.findall(r"<t[hd][^>]*>.*?</t[hd]>", line[0], re.S)]


def test_row_holds_every_value():
    assert cells(vertebra_table([FULL]), "3") == [
        "▲ L1?", "0.91", "▲ fracture", "17.9 ± 0.4", "20.0 ± 0.5", "27.1 ± 0.6", "31 / 34 ± 4", "2 (1–3)", "wedge",
        "149 ± 12", "41.3",
    ]  # fmt: skip


def test_unknown_values_are_dashes():
    markup = vertebra_table([VertebraRecord(1, complete=False, note="half a body")])
    assert cells(markup, "1") == ["1", *["–"] * 10]
    assert vertebra_table([VertebraRecord(1, complete=False, note="cut by the border of the scan")]).count("border") == 1
    assert f"{CUT_NOTE}; half a body" in markup
    assert not re.search(r"\bnan\b", markup, re.I)


def test_network_and_measurement_are_two_groups():
    markup = vertebra_table([FULL])
    groups = re.findall(r'<th colspan="(\d+)" class="(\w+)"', markup)
    assert groups == [(str(len(NETWORK)), "network"), (str(len(MEASURED)), "measured")]
    # A grade without a decision, and a decision without a grade, stay as they are.
    assert cells(vertebra_table([replace(FULL, fractured=False, fracture_probability=0.1)]), "3")[1:3] == ["0.10", "no fracture"]
    assert cells(vertebra_table([replace(FULL, fractured=False, fracture_probability=0.1)]), "3")[7] == "2 (1–3)"
    assert cells(vertebra_table([replace(FULL, measured_grade=0, measured_grade_range=(0, 0))]), "3")[2] == "▲ fracture"


def test_rows_run_from_head_to_feet_and_have_a_mark():
    markup = vertebra_table([replace(FULL, vertebra=n) for n in (3, 1, 2)], {2: [0.1, 0.25, 0.5, 0.125]})
    assert re.findall(r'data-vertebra="(\d)"', markup) == ["1", "2", "3"]
    assert re.findall(r'data-mark="([^"]*)"', markup) == ["0.1 0.25 0.5 0.125"]
    assert markup.count('tabindex="0"') == 3


def test_texts():
    nan = float("nan")
    assert loss_text(replace(FULL, loss_from_neighbours=nan)) == "– / 34 ± 4"
    assert loss_text(replace(FULL, loss_from_neighbours=nan, loss_from_posterior=nan)) == "–"
    assert loss_text(replace(FULL, loss_from_neighbours=-0.034, loss_from_posterior=-0.001)) == "−3 / 0 ± 4"
    assert grade_text(replace(FULL, measured_grade_range=None)) == "2"
    assert grade_text(replace(FULL, measured_grade=None)) == "–"
    assert decision_text(replace(FULL, fractured=False, fracture_probability=nan)) == "–"


@pytest.mark.parametrize("field", ["level", "measured_shape", "note"])
def test_text_is_escaped(field):
    markup = vertebra_block(HOSTILE, [replace(FULL, **{field: HOSTILE})])
    assert "<script" not in markup
    assert markup.count("&lt;script&gt;") == 2
