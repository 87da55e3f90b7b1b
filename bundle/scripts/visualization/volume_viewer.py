# SPDX-License-Identifier: Apache-2.0
"""Interactive viewer of a scan and its vertebrae as self-contained HTML, drawn by NiiVue (``assets``)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from scipy.ndimage import find_objects

from ..core.files import write_text
from ..postprocessing.vertebra_record import VertebraRecord
from .html_report import RESEARCH, Html, details, element, note, page
from .page_assets import asset
from .slices import BONE_WINDOW
from .vertebra_colours import FRACTURE_MARK, colours_of, short_name
from .vertebra_overview import body_voxels
from .vertebra_table import grade_text
from .viewer_volume import STEP_HU, ViewerVolume, encode_hu, encode_numbers

WINDOWS = (("1", "Bone", *BONE_WINDOW), ("2", "Soft tissue", -160.0, 240.0), ("3", "Lung", -1350.0, 150.0))  # key, name, HU, HU
BEGIN, END = "<!-- viewer begins -->", "<!-- viewer ends -->"
KEYS = (
    "Mouse wheel over a plane: slices. Click or drag: crosshair. Arrow keys left and right: sagittal slices; up and down: axial "
    "slices; Page up and Page down: coronal slices. N, P: next and previous vertebra. M: mask. 1, 2, 3: windows; drag with the "
    "right button or Shift: own window. + and −, Ctrl and wheel, or two fingers: zoom; F: whole scan. Coordinates are those of the "
    "scan in mm towards right, anterior and superior. The copy of the scan in this page is coarser than the original, and its HU "
    f"are rounded to {STEP_HU}: measure in the original."
)


def _description(record: VertebraRecord) -> str:
    probability = "" if math.isnan(record.fracture_probability) else f"network {record.fracture_probability:.2f}"
    grade = "" if record.measured_grade is None else f"measured grade {grade_text(record)} {record.measured_shape}".rstrip()
    return ", ".join(t for t in (probability, grade) if t)


def _box(box: tuple[slice, ...] | None) -> list[list[int]] | None:
    """First and last voxel of a vertebra along R, A, S."""
    return None if box is None else [[int(b.start) for b in box], [int(b.stop) - 1 for b in box]]


def _meta(volume: ViewerVolume, records: Sequence[VertebraRecord]) -> dict:
    centres, colours = body_voxels(volume, records), colours_of(records)
    boxes = dict(enumerate(find_objects(volume.numbers), start=1))
    return {
        "shape": list(volume.hu.shape),
        "spacing": [round(float(d), 5) for d in volume.spacing],
        "affine": [[round(float(x), 5) for x in row] for row in volume.affine],
        "step": STEP_HU,
        "windows": [{"key": k, "name": n, "low": low, "high": high} for k, n, low, high in WINDOWS],
        "vertebrae": [
            {
                "number": r.vertebra,
                "short": short_name(r),
                "text": ", ".join(t for t in (r.name, _description(r)) if t),
                "fractured": r.fractured,
                "colour": colours[r.vertebra],
                "centre": [round(float(x), 2) for x in centres[r.vertebra]] if r.vertebra in centres else None,
                "box": _box(boxes.get(r.vertebra)),
            }
            for r in sorted(records, key=lambda r: r.vertebra)
        ],
    }


def _data(kind: str, mime: str, content: str) -> Html:
    # "<" would end the element; JSON has an escape for it, base64 never contains it.
    return Html(f'<script type="{mime}" class="viewer-{kind}">{content.replace("<", chr(92) + "u003c")}</script>')


def _button(text: object, pressed: bool | None = None, **attributes: str) -> Html:
    state = {} if pressed is None else {"aria-pressed": str(pressed).lower()}
    return element("button", text, type="button", **state, **{k.replace("_", "-"): v for k, v in attributes.items()})


def _bar() -> Html:
    windows = [
        _button(Html(f"{name}{element('kbd', key)}"), n == 0, data_window=key, title=f"{low:g} to {high:g} HU")
        for n, (key, name, low, high) in enumerate(WINDOWS)
    ]
    planes = [_button(p.capitalize(), p == "all", data_plane=p) for p in ("all", "sagittal", "coronal", "axial")]
    opacity = Html('<label>opacity <input type="range" name="opacity" min="0" max="1" step="0.05" value="0.4"></label>')
    sets = [
        [*windows, element("span", class_="levels")],
        [_button(Html(f"Mask{element('kbd', 'M')}"), True, data_action="mask"), opacity],
        planes,
        [
            _button("−", data_action="wider", aria_label="zoom out"),
            _button("+", data_action="closer", aria_label="zoom in"),
            _button(Html(f"Whole scan{element('kbd', 'F')}"), data_action="fit"),
        ],
    ]
    return element("div", *(element("div", *s, class_="set") for s in sets), class_="bar")


def _list(records: Sequence[VertebraRecord]) -> Html:
    colours = colours_of(records)
    entries = []
    for record in sorted(records, key=lambda r: r.vertebra):
        swatch = element("span", class_="swatch", style=f"background:{colours[record.vertebra]}")
        name = f"{FRACTURE_MARK} {short_name(record)}" if record.fractured else short_name(record)
        entries.append(_button(Html(swatch + element("b", name) + element("small", _description(record))), False,
                               data_jump=str(record.vertebra)))  # fmt: skip
    return element("div", *entries, class_="list") if entries else Html()


def viewer_block(scan: str, volume: ViewerVolume, records: Sequence[VertebraRecord]) -> Html:
    """Viewer with the data of one scan, between two comments by which ``read_viewer`` finds it.

    The page also needs ``viewer_assets``.

    Args:
        scan: name of the scan; rows of the block of that name select vertebrae of this viewer.
        volume: scan on a coarse grid.
        records: vertebrae.
    """
    sliders = [
        element("label", plane, Html(f'<input type="range" min="0" max="{count - 1}" value="0" aria-label="{plane} slice">'),
                element("output"), **{"data-slice": plane})
        for plane, count in zip(("sagittal", "coronal", "axial"), volume.hu.shape, strict=True)
    ]  # fmt: skip
    stage = element(
        "div",
        element("canvas", class_="pixels"),
        element("canvas", class_="marks"),
        class_="stage",
        tabindex="0",
        role="application",
        **{"aria-label": "scan in three planes"},
    )
    parts = [
        element("p", "The viewer cannot start here; the overview and the table hold all results.", class_="no-webgl"),
        _bar(),
        element("div", stage, _list(records), class_="panes"),
        element("div", *sliders, class_="sliders"),
        element("p", class_="readout", role="status"),
        details("Keys and mouse", element("p", KEYS)),
        _data("meta", "application/json", json.dumps(_meta(volume, records))),
        _data("hu", "text/plain", encode_hu(volume.hu)),
        _data("labels", "text/plain", encode_numbers(volume.numbers)),
    ]
    return Html(f"{BEGIN}{element('section', *parts, class_='viewer', **{'data-scan': scan})}{END}")


def viewer_assets() -> tuple[str, str, Html]:
    """Style, script and licences that a page with a viewer embeds once."""
    script = "\n</script>\n<script>\n".join(asset(n) for n in ("niivue.min.js", "vertebra_table.js", "viewer.js"))
    licences = element("div", details("Licences of the viewer", element("pre", asset("niivue.LICENSE.txt"))), class_="licences")
    return asset("viewer.css"), script, licences


def write_viewer(path: Path, title: str, viewer: Html, block: Html) -> Path:
    """Write a page with a viewer, the overview and the table, atomically.

    Args:
        path: page to write.
        title: heading.
        viewer: markup of ``viewer_block``.
        block: markup of ``vertebra_table.vertebra_block``.
    """
    style, script, licences = viewer_assets()
    parts = [element("h1", title), note(element("b", RESEARCH)), viewer, block, licences]
    write_text(path, page(title, [element("main", *parts)], style, script))
    return path


def read_viewer(path: Path) -> Html | None:
    """Viewer of a page of ``write_viewer``, to be embedded in another page; None for a missing or another page."""
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    start, stop = text.find(BEGIN), text.find(END)
    return Html(text[start : stop + len(END)]) if 0 <= start < stop else None
