# SPDX-License-Identifier: Apache-2.0
"""Self-contained HTML pages: one file with its style, tables and pictures, and no link to another host."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESEARCH = (
    "For research use only. The networks of this program were developed on simulated fractures; nothing on this page is a "
    "diagnosis, and it must not be used in the care of a patient."
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #d8dee4; }
th:first-child, td:first-child { text-align: left; } h2 { margin-top: 2.2rem; } figure { margin: 1.5rem 0; }
img { max-width: 100%; } figcaption { margin-bottom: .4rem; } code { word-break: break-all; }
.headline { border: 2px solid #1f6feb; border-radius: 6px; padding: .4rem 1rem; margin: 1rem 0; background: #f3f8ff; }
.headline table { margin: .3rem 0; } .headline th, .headline td { text-align: left; border-bottom: 0; vertical-align: top; }
.headline p { margin: .2rem .8rem; font-weight: bold; } details { margin: .8rem 0; } summary { cursor: pointer; }
.scroll { overflow-x: auto; } .scroll td:first-child { white-space: nowrap; }
@media (max-width: 40rem) { table { display: block; overflow-x: auto; } th, td { padding: .25rem .5rem; } }
.note { background: #fff8c5; padding: .6rem 1rem; } .error { color: #b3261e; } .muted { color: #666; }
"""
MIME = {".png": "image/png", ".gif": "image/gif", ".jpg": "image/jpeg", ".svg": "image/svg+xml", ".webp": "image/webp"}


class Html(str):
    """Markup; every other string is plain text and is escaped by the functions of this module."""


def text(value: object) -> Html:
    """Markup of a value: ``Html`` unchanged, everything else escaped."""
    return value if isinstance(value, Html) else Html(escape(str(value)))


def element(tag: str, *content: object, **attributes: str) -> Html:
    """``<tag attributes>content</tag>``; a trailing underscore of an attribute, as in ``class_``, is dropped."""
    pairs = "".join(f' {k.rstrip("_")}="{escape(v)}"' for k, v in attributes.items())
    return Html(f"<{tag}{pairs}>{''.join(map(text, content))}</{tag}>")


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    """Table with a header line."""
    lines = [element("tr", *(element("th", cell) for cell in header))]
    lines += [element("tr", *(element("td", cell) for cell in row)) for row in rows]
    return element("table", *lines)


def items(lines: Iterable[object]) -> Html:
    """Unordered list; empty markup for no lines."""
    entries = [element("li", line) for line in lines]
    return element("ul", *entries) if entries else Html()


def definitions(terms: Mapping[str, object]) -> Html:
    """List of terms with their meanings."""
    return items(Html(f"{element('b', term)}: {text(meaning)}") for term, meaning in terms.items())


def settings(values: Mapping[str, object]) -> Html:
    """List of names with literal values, such as paths and hashes."""
    return items(Html(f"{text(name)}: {element('code', value)}") for name, value in values.items())


def headline(lines: Iterable[tuple[object, object]]) -> Html:
    """Box of names and texts at the top of a page, with the words "for research use only"."""
    rows = [element("tr", element("th", name, scope="row"), element("td", words)) for name, words in lines]
    return element("div", element("table", *rows), element("p", "For research use only."), class_="headline")


def note(*content: object) -> Html:
    """Highlighted block."""
    return element("div", *content, class_="note")


def details(summary: object, *content: object) -> Html:
    """Block that is folded until its summary is clicked."""
    return element("details", element("summary", summary), *content)


def png(figure: Figure, dpi: int = 110) -> bytes:
    """PNG of a matplotlib figure."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def picture(source: bytes | str | Path | Figure, alt: str = "", dpi: int = 110) -> Html:
    """Embedded picture.

    Args:
        source: bytes of a PNG, path of a picture, or matplotlib figure.
        alt: text in place of the picture.
        dpi: resolution of a figure.

    Raises:
        ValueError: for a file of another kind than ``MIME`` lists.
        OSError: for a file that cannot be read.
    """
    mime = MIME[".png"]
    if isinstance(source, (str, Path)):
        suffix = Path(source).suffix.lower()
        if suffix not in MIME:
            raise ValueError(f"{source}: must be an image file, one of {', '.join(MIME)}")
        mime, source = MIME[suffix], Path(source).read_bytes()
    content = source if isinstance(source, bytes) else png(source, dpi)
    return Html(f'<img alt="{escape(alt)}" src="data:{mime};base64,{base64.b64encode(content).decode()}">')


def figure(source: bytes | str | Path | Figure, caption: object, dpi: int = 110) -> Html:
    """Embedded picture with a caption; see ``picture``."""
    alt = "" if isinstance(caption, Html) else str(caption)
    return element("figure", picture(source, alt, dpi), element("figcaption", caption))


def page(title: str, parts: Iterable[object], style: str = "", script: str = "") -> str:
    """HTML document.

    Args:
        title: title of the window; a heading is a part.
        parts: content in order; strings that are not ``Html`` are escaped.
        style: CSS after that of all pages.
        script: JavaScript at the end of the document.
    """
    code = f"<script>{script}</script>\n" if script else ""
    body = "\n".join(map(text, parts))
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f"{meta}<title>{escape(title)}</title><style>{STYLE}{style}</style>"
    return f'<!doctype html><html lang="en">{head}\n{body}\n{code}</html>\n'


def write_page(path: Path | str, title: str, parts: Iterable[object], style: str = "", script: str = "") -> Path:
    """Write ``page`` to a file, atomically, and return its path."""
    write_text(path, page(title, parts, style, script))
    return Path(path)
