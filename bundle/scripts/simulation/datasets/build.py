# SPDX-License-Identifier: Apache-2.0
"""Training set merged from phantoms, renderings and simulated fractures, from a recipe in YAML."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from ...core.deprecations import KEYS, migrate_keys, warn
from ...core.errors import InputError, first_line
from ...core.files import write_text
from ...core.provenance import versions
from ...core.suggestions import suggest
from ...data.datalist import PART, SECTIONS, read_datalist, relative_case, write_datalist
from ...data.vertebra_table import FILE_NAME, read_vertebra_table, write_vertebra_table
from .fingerprint import FILE_NAME as FINGERPRINT
from .fingerprint import code_hash, identify, machine, settings_hash, write_fingerprints
from .meshes import meshes
from .phantom import phantom
from .render import render
from .scans import scans
from .simulate import simulate

SOURCES = ("datalist", "folder")  # a part without a source is left out
PARTS: dict[str, Callable[..., str]] = {
    "phantom": phantom,
    "meshes": meshes,
    "render": render,
    "simulate": simulate,
    "scans": scans,
}


def read_recipe(path: str) -> dict[str, dict]:
    """Read a recipe, and check the names of its parts and options.

    Raises:
        InputError: for a missing or broken file, an unknown part or option.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such file; expected a recipe such as configs/data/simulated.yaml")
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: is not valid YAML ({first_line(error)})") from None
    if not isinstance(recipe, dict) or not recipe:
        raise InputError(f"{file}: contains no part; must have one or more of {', '.join(PARTS)}")
    parts: dict[str, dict] = {}
    for part, options in recipe.items():
        if part not in PARTS:
            raise InputError(f"{file}: {part!r} is not a part of a training set; {suggest(part, PARTS)}")
        if not isinstance(options, Mapping | None):
            raise InputError(f"{file}: {part}={options!r} must be a mapping of options")
        parts[part] = migrate_keys(options or {})
        for old in set(options or {}) - set(parts[part]):
            warn(old, KEYS[old], f"{file}: {part}")
        valid = sorted(set(inspect.signature(PARTS[part]).parameters) - {"out", "workers"})
        for option in parts[part]:
            if option not in valid:
                raise InputError(f"{file}: {part} has no option {option!r}; {suggest(option, valid)}")
    return parts


def build(
    recipe: str,
    out: str,
    masks: str | None = None,
    scans: str | Sequence[str] | None = None,
    meshes: str | None = None,
    cases: int | None = None,
    workers: int = 2,
) -> str:
    """Build a training set from phantoms, CTs rendered around real masks or surface meshes, and real CTs.

    Writes a folder per part into OUT, and datalist.json, vertebrae.csv, build.json (settings, and SHA-256 of settings, code and
    voxels) and fingerprint.json (for compare_builds) of the merged set. Every case of the datalist names its part, so that a
    training can leave one out. Rerun the same command to resume.

    Args:
        recipe: YAML with the options of each part, such as configs/data/simulated.yaml.
        out: folder to write to.
        masks: datalist with vertebra masks for the part `render`, instead of that of the recipe.
        scans: datalist with CTs and vertebra masks for the part `simulate`, or datalists for the part `scans` where the recipe
            has it, instead of those of the recipe.
        meshes: folder with surfaces of vertebrae for the part `meshes`, instead of that of the recipe.
        cases: number of phantoms, instead of that of the recipe.
        workers: number of threads; the data do not depend on it.

    Returns:
        Path of the datalist.
    """
    parts = read_recipe(recipe)
    overrides = (
        ("render", "datalist", masks),
        ("scans" if "scans" in parts else "simulate", "datalist", scans),
        ("meshes", "folder", meshes),
        ("phantom", "cases", cases),
    )
    for part, name, value in overrides:
        if value is not None:
            parts.setdefault(part, {})[name] = value
    parts = {part: options for part, options in parts.items() if part == "phantom" or any(map(options.get, SOURCES))}
    root = Path(out)
    merged: dict[str, list[dict]] = {s: [] for s in SECTIONS}
    rows: list[dict] = []
    for part, options in parts.items():
        written = PARTS[part](out=str(root / part), workers=workers, **options)
        for section, entries in read_datalist(written)[1].items():
            merged[section] += [{**case, PART: part} for case in entries]
        rows += [row | {"case": f"{part}/{row['case']}"} for row in read_vertebra_table(root / part / FILE_NAME)]
    digest, fingerprints = identify(merged, root)
    write_fingerprints(root / FINGERPRINT, fingerprints)
    path = root / "datalist.json"
    write_vertebra_table(root / FILE_NAME, rows)
    description = f"Built from {Path(recipe).name}: {', '.join(parts)}."
    write_datalist(path, {s: [relative_case(c, path) for c in entries] for s, entries in merged.items()}, description)
    facts: dict[str, object] = {"parts": parts, "cases": {s: len(entries) for s, entries in merged.items()}}
    names = {s: [name for name, f in fingerprints.items() if f["section"] == s] for s in SECTIONS}
    facts |= {"settings_sha256": settings_hash(parts, names), "code_sha256": code_hash()}
    facts |= {"sha256": digest, "versions": versions(), "machine": machine()}
    write_text(root / "build.json", json.dumps(facts, indent=2) + "\n")
    print(f"{sum(map(len, merged.values()))} scans, SHA-256 of settings {facts['settings_sha256']}, of voxels {digest}")
    return str(path)
