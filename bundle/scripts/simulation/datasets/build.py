# SPDX-License-Identifier: Apache-2.0
"""One training set from several sources, as a YAML file says."""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml
from tqdm import tqdm

from ...core.errors import InputError
from ...core.files import write_text
from ...core.provenance import versions
from ...data.datalist import FILE_KEYS, SECTIONS, read_datalist, relative_case, write_datalist
from ...data.vertebra_table import read_vertebra_table, write_vertebra_table
from .phantom import phantom
from .render import render
from .simulate import simulate

PARTS: dict[str, Callable[..., str]] = {"phantom": phantom, "render": render, "simulate": simulate}


def read_recipe(path: str) -> dict[str, dict]:
    """Read a recipe and check the names of its parts and options.

    Raises:
        InputError: when the file is missing or broken, or names a part or an option that does not exist.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such file; give a recipe such as configs/data/simulated.yaml")
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: is no YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(recipe, dict) or not recipe:
        raise InputError(f"{file}: holds no part; give some of {', '.join(PARTS)}")
    for part, options in recipe.items():
        if part not in PARTS:
            raise InputError(f"{file}: {part!r} is no part; give some of {', '.join(PARTS)}")
        known = set(inspect.signature(PARTS[part]).parameters) - {"out", "workers"}
        unknown = sorted(set(options or {}) - known) if isinstance(options, Mapping) or options is None else [options]
        if unknown:
            raise InputError(f"{file}: {part} has no option {unknown[0]!r}; it has {', '.join(sorted(known))}")
    return {part: dict(options or {}) for part, options in recipe.items()}


def data_hash(sections: Mapping[str, list[dict[str, str]]]) -> str:
    """SHA-256 of the voxels, grids and sections of a set, whatever its folder and the compression of its files."""
    total = hashlib.sha256()
    cases = [(s, case) for s in SECTIONS for case in sections[s]]
    for section, case in tqdm(cases, desc="hashing", unit="scan"):
        total.update(section.encode())
        for key in FILE_KEYS:
            if key in case:
                image = nib.load(case[key])
                array = np.ascontiguousarray(np.asanyarray(image.dataobj))
                total.update(f"{key}{array.shape}{array.dtype.str}".encode())
                total.update(np.round(image.affine, 4).astype("<f8").tobytes())
                total.update(array.tobytes())
    return total.hexdigest()


def build(
    recipe: str,
    out: str,
    masks: str | None = None,
    scans: str | None = None,
    cases: int | None = None,
    workers: int = 2,
) -> str:
    """Build a training set from phantoms, from CTs drawn around real masks, and from fractures simulated in real CTs.

    Writes a folder per part, and over all of them datalist.json, vertebrae.csv and build.json with the settings and the SHA-256 of
    the data. Running again goes on where it stopped.

    Args:
        recipe: YAML with the options of each part, such as configs/data/simulated.yaml.
        out: folder to write to.
        masks: datalist with vertebra masks for the part `render`, instead of the one that the recipe names.
        scans: datalist with CTs and vertebra masks for the part `simulate`, likewise.
        cases: number of phantoms, instead of what the recipe says.
        workers: scans at a time; the data do not depend on it.

    Returns:
        Path of the datalist.
    """
    parts = read_recipe(recipe)
    for part, name, value in (
        ("render", "datalist", masks),
        ("simulate", "datalist", scans),
        ("phantom", "cases", cases),
    ):
        if value is not None:
            parts.setdefault(part, {})[name] = value
    parts = {p: o for p, o in parts.items() if p == "phantom" or o.get("datalist")}
    root = Path(out)
    merged: dict[str, list[dict]] = {s: [] for s in SECTIONS}
    rows: list[dict] = []
    for part, options in parts.items():
        made = PARTS[part](out=str(root / part), workers=workers, **options)
        for section, found in read_datalist(made)[1].items():
            merged[section] += found
        rows += [row | {"case": f"{part}/{row['case']}"} for row in read_vertebra_table(root / part / "vertebrae.csv")]
    digest = data_hash(merged)
    path = root / "datalist.json"
    write_vertebra_table(root / "vertebrae.csv", rows)
    text = f"Built from {Path(recipe).name}: {', '.join(parts)}."
    write_datalist(path, {s: [relative_case(c, path) for c in found] for s, found in merged.items()}, text)
    facts: dict[str, object] = {"parts": parts, "cases": {s: len(found) for s, found in merged.items()}}
    facts |= {"sha256": digest, "versions": versions(), "machine": platform.machine()}
    write_text(root / "build.json", json.dumps(facts, indent=2) + "\n")
    print(f"{sum(map(len, merged.values()))} scans, SHA-256 {digest}")
    return str(path)
