# SPDX-License-Identifier: Apache-2.0
"""Training set merged from phantoms, renderings and simulated fractures, from a recipe in YAML."""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from ...core.cli import check_value
from ...core.deprecations import KEYS, migrate_keys, warn
from ...core.errors import InputError, SkippedCasesError, first_line
from ...core.files import write_text
from ...core.provenance import versions
from ...core.suggestions import suggest
from ...data.datalist import PART, SECTIONS, read_datalist, relative_case, write_datalist
from ...data.datasets.conversion import refuse_files
from ...data.split import patient_leakage
from ...data.vertebra_table import FILE_NAME, read_vertebra_table, write_vertebra_table
from .fingerprint import FILE_NAME as FINGERPRINT
from .fingerprint import code_hash, identify, machine, settings_hash, write_fingerprints
from .meshes import meshes
from .phantom import phantom
from .render import render
from .scans import scans
from .simulate import simulate

SOURCES = ("datalist", "folder")  # a part without a source is left out
NAME = re.compile(r"\w+", re.ASCII)
PARTS: dict[str, Callable[..., str]] = {
    "phantom": phantom,
    "meshes": meshes,
    "render": render,
    "simulate": simulate,
    "scans": scans,
}


def read_recipe(path: str) -> dict[str, dict]:
    """Read a recipe, and check the names of its parts and options.

    A part is of the kind that its name is, or its option ``part``, so that a recipe can have several of one kind.

    Returns:
        Options by the name of a part.

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
    for name, options in recipe.items():
        if not isinstance(options, Mapping | None):
            raise InputError(f"{file}: {name}={options!r} must be a mapping of options")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InputError(f"{file}: {name!r}: must be a name of letters, digits and _, which becomes that of a folder")
        kind = kind_of(name, options or {})
        if not isinstance(kind, str) or kind not in PARTS:
            of = "" if kind == name else f"{name}: part="
            own = f"a name of its own needs the option `part`, one of {', '.join(PARTS)}"
            raise InputError(f"{file}: {of}{kind!r} is not a part of a training set; {own}; {suggest(str(kind), PARTS)}")
        if name in PARTS and kind != name:
            raise InputError(f"{file}: {name}: part={kind!r}; choose another name, such as {kind}_2")
        parts[name] = migrate_keys(options or {})
        for old in set(options or {}) - set(parts[name]):
            warn(old, KEYS[old], f"{file}: {name}")
        valid = sorted({*inspect.signature(PARTS[kind]).parameters, PART} - {"out", "workers"})
        for option in parts[name]:
            if option not in valid:
                raise InputError(f"{file}: {name} has no option {option!r}; {suggest(option, valid)}")
        hints = typing.get_type_hints(PARTS[kind])
        for option, value in parts[name].items():
            if option != PART and not (option in SOURCES and value is None):  # the source comes from the command line
                check_value(value, hints[option], f"{file}: {name}: {option}={value!r}")
    return parts


def kind_of(name: str, options: Mapping) -> str:
    """Kind of a part."""
    return options.get(PART, name)


def _single(datalists: str | Sequence[str] | None, recipe: str) -> str | None:
    """Datalist of a part of the kind ``simulate``, which has one."""
    if datalists is None or isinstance(datalists, str):
        return datalists
    if len(datalists) != 1:
        raise InputError(f"scans={list(datalists)}: simulated fractures of {recipe} need one datalist; join them with `data merge`")
    return datalists[0]


def _refuse_shared(merged: Mapping[str, list[dict]], recipe: str) -> None:
    """Refuse patients in several sections: phantoms of equal seeds, or a person in the datalists of several parts."""
    for patient, sections in patient_leakage(merged).items():
        parts = sorted({c[PART] for section in sections for c in merged[section] if str(c.get("patient")) == patient})
        raise InputError(
            f"{recipe}: {patient} of {' and '.join(parts)} is in {' and '.join(sections)}; give parts of one kind seeds that are "
            "further apart than their numbers of cases, and put a person's scans and masks into one section of their datalists"
        )


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
        masks: datalist with vertebra masks for parts of the kind `render`, instead of those of the recipe.
        scans: datalist with CTs and vertebra masks for parts of the kind `simulate`, or datalists for `scans` where the recipe
            has it, instead of those of the recipe.
        meshes: folder with surfaces of vertebrae for parts of the kind `meshes`, instead of those of the recipe.
        cases: number of phantoms, instead of that of the recipe; of several parts of phantoms, of that named `phantom`.
        workers: number of threads; the data do not depend on it.

    Returns:
        Path of the datalist.
    """
    parts = read_recipe(recipe)
    has_scans = "scans" in map(kind_of, parts, parts.values())
    overrides = (
        ("render", "datalist", masks),
        ("scans" if has_scans else "simulate", "datalist", scans if has_scans else _single(scans, recipe)),
        ("meshes", "folder", meshes),
    )
    for kind, option, value in overrides:
        if value is not None:
            for name in [n for n, options in parts.items() if kind_of(n, options) == kind] or [kind]:
                parts.setdefault(name, {})[option] = value
    if cases is not None:
        phantoms = [n for n, options in parts.items() if kind_of(n, options) == "phantom"]
        if len(phantoms) > 1 and "phantom" not in phantoms:
            raise InputError(
                f"cases={cases}: {recipe} has several parts of phantoms, {', '.join(phantoms)}; name one of them phantom"
            )
        parts.setdefault(phantoms[0] if len(phantoms) == 1 else "phantom", {})["cases"] = cases
    parts = {n: options for n, options in parts.items() if kind_of(n, options) == "phantom" or any(map(options.get, SOURCES))}
    if not parts:
        raise InputError(f"{recipe}: no part has a source; name them with --masks, --scans or --meshes")
    root = Path(out)
    if not any((root / name).is_file() for name in ("build.json", FINGERPRINT)):
        refuse_files(root, ("datalist.json", FILE_NAME))
    skipped: list[str] = []
    merged: dict[str, list[dict]] = {s: [] for s in SECTIONS}
    rows: list[dict] = []
    for part, options in parts.items():
        arguments = {k: v for k, v in options.items() if k != PART}
        try:
            written = PARTS[kind_of(part, options)](out=str(root / part), workers=workers, **arguments)
        except SkippedCasesError as error:
            written = str(root / part / "datalist.json")
            skipped.append(f"{part}: {first_line(error)}")
        for section, entries in read_datalist(written)[1].items():
            merged[section] += [{**case, PART: part} for case in entries]
        rows += [row | {"case": f"{part}/{row['case']}"} for row in read_vertebra_table(root / part / FILE_NAME)]
    _refuse_shared(merged, recipe)
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
    if skipped:
        raise SkippedCasesError(f"{'; '.join(skipped)}; the merged set of the others is in {root}")
    return str(path)
