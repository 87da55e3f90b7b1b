# SPDX-License-Identifier: Apache-2.0
"""Pages are self-contained, well-formed and escape every text that is not markup."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure
from scripts.visualization import html_report as html

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==")
HOSTILE = "<script>\"&'</script>"


class Nesting(HTMLParser):
    """Stack of open elements; an element closed out of order fails."""

    VOID = frozenset({"img", "meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def parse(markup: str) -> Nesting:
    parser = Nesting()
    parser.feed(markup)
    assert not parser.open
    return parser


def test_every_part_escapes_text_and_is_well_formed():
    parts = [
        html.element("h1", HOSTILE, id=HOSTILE),
        html.table([HOSTILE], [[HOSTILE], [1]]),
        html.items([HOSTILE]),
        html.definitions({HOSTILE: HOSTILE}),
        html.settings({HOSTILE: HOSTILE}),
        html.note(HOSTILE),
        html.details(HOSTILE, HOSTILE),
        html.figure(PNG, HOSTILE),
        HOSTILE,
    ]
    markup = html.page(HOSTILE, parts)
    assert "<script" not in markup
    assert parse(markup).text.count(HOSTILE) == 14  # the title included


def test_markup_is_not_escaped_twice():
    inner = html.element("b", "a & b")
    assert html.text(inner) == "<b>a &amp; b</b>"
    assert html.items([inner]) == "<ul><li><b>a &amp; b</b></li></ul>"


@pytest.mark.parametrize("kind", ["bytes", "path", "text", "figure"])
def test_pictures_are_embedded(kind, tmp_path):
    file = tmp_path / "p.png"
    file.write_bytes(PNG)
    figure = Figure(figsize=(1, 1))
    figure.subplots()
    source = {"bytes": PNG, "path": file, "text": str(file), "figure": figure}[kind]
    markup = html.picture(source, "a <b>", dpi=30)
    data = re.fullmatch(r'<img alt="a &lt;b&gt;" src="data:image/png;base64,([\w+/=]+)">', markup)
    assert data
    content = base64.b64decode(data[1])
    assert content == PNG if kind != "figure" else content.startswith(b"\x89PNG")


def test_picture_type_follows_the_suffix(tmp_path):
    (tmp_path / "p.GIF").write_bytes(b"GIF89a")
    assert "data:image/gif;" in html.picture(tmp_path / "p.GIF")
    with pytest.raises(ValueError, match=r"p\.nii: must be an image file"):
        html.picture(tmp_path / "p.nii")
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        html.picture(tmp_path / "absent.png")


def test_empty_list_has_no_markup():
    assert html.items([]) == ""


def test_page_is_self_contained_and_written_whole(tmp_path):
    parts = [html.element("h1", "Title"), html.figure(PNG, "caption")]
    path = html.write_page(tmp_path / "new" / "page.html", "Title", parts, style=".x { top: 0; }", script="let a = 1;")
    markup = path.read_text(encoding="utf-8")
    assert markup.startswith('<!doctype html><html lang="en"><meta charset="utf-8">')
    assert not re.findall(r'(?:src|href)="(?!data:)', markup)
    assert ".x { top: 0; }" in markup
    assert "<script>let a = 1;</script>" in markup
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]
    parse(markup)
