# SPDX-License-Identifier: Apache-2.0
"""The command ``compare_builds``: two built data sets compared by hashes, and by fingerprints within rounding."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ...core.errors import InputError
from .fingerprint import FILE_NAME, FORMAT

# Differences that other processors and versions of NumPy and SciPy make: docs/history/data_hashes.md.
HU = 1  # of a voxel
DIFFERING_SAMPLES = 2  # voxels of the fingerprint whose HU may differ by more: a voxel of bone may become one of soft tissue
VOXELS = 5  # of a region that may have another label
FRACTION = 0.001  # of the voxels of a region, where that is more
MM = 0.1  # of a centroid
LINES = 10  # cases that are listed
REQUIRED = {"section", "shape", "axes", "spacing", "origin"}  # of every case


def _regions_differ(first: Mapping[str, list[float]], second: Mapping[str, list[float]]) -> str | None:
    """First difference between the regions of a mask by value, None within the tolerances."""
    for value in sorted({*first, *second}, key=int):
        a, b = first.get(value), second.get(value)
        count, other = (a or [0])[0], (b or [0])[0]
        allowed = max(VOXELS, FRACTION * max(count, other))
        if abs(count - other) > allowed:
            return f"value {value} has {count:.0f} voxels, {other:.0f} in the second"
        if a is None or b is None:
            continue  # a region of a few voxels
        share = allowed / min(count, other)
        distance = max(abs(p - q) for p, q in zip(a[1:4], b[1:4], strict=True))
        if distance > MM + 50 * share:  # voxels of another label are at most 50 mm away
            return f"value {value} has its centroid at {a[1:4]} mm, {b[1:4]} in the second"
        if len(a) == len(b) == 5 and abs(a[4] - b[4]) > HU + 1000 * share:
            return f"value {value} has a mean of {a[4]} HU, {b[4]} in the second"
    return None


def case_difference(first: Mapping, second: Mapping) -> str | None:
    """First difference between the fingerprints of a case beyond rounding, None within the tolerances."""
    for name in ("section", "shape", "axes"):
        if first[name] != second[name]:
            return f"{name} {first[name]}, {second[name]} in the second"
    for name, limit in (("spacing", 0.002), ("origin", 0.02)):
        if max(abs(a - b) for a, b in zip(first[name], second[name], strict=True)) > limit:
            return f"{name} {first[name]} mm, {second[name]} in the second"
    for key in ("mean", "label", "vertebrae"):
        if (key in first) != (key in second):
            return f"only one has {'an image' if key == 'mean' else key}"
    for key in ("label", "vertebrae"):
        if key in first and (difference := _regions_differ(first[key], second[key])):
            return f"{key}: {difference}"
    if "mean" in first:
        for name in ("mean", "std"):
            if abs(first[name] - second[name]) > HU:
                return f"image: {name} of {first[name]} HU, {second[name]} in the second"
        other = sum(abs(a - b) > HU for a, b in zip(first["samples"], second["samples"], strict=True))
        if other > DIFFERING_SAMPLES:
            return f"image: {other} of {len(first['samples'])} sampled voxels differ by more than {HU} HU"
    return None


def fingerprint_differences(first: Mapping[str, Mapping], second: Mapping[str, Mapping]) -> dict[str, str]:
    """Differences beyond rounding by the name of the case; empty for the same data.

    Args:
        first: fingerprints by name of the case.
        second: fingerprints of the other set.
    """
    differences = {}
    for name in sorted({*first, *second}):
        if name not in first or name not in second:
            differences[name] = f"is only in the {'first' if name in first else 'second'}"
        elif difference := case_difference(first[name], second[name]):
            differences[name] = difference
    return differences


def _read(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected one that data build has written")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is not valid JSON ({error}); run data build again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a JSON object; run data build again")
    return content


def read_build(build: str) -> tuple[dict, dict[str, dict]]:
    """Facts of a build, and the fingerprints beside them.

    Args:
        build: build.json, or its folder.

    Raises:
        InputError: for a missing or damaged file, or one of another version.
    """
    path = Path(build) / "build.json" if Path(build).is_dir() else Path(build)
    facts = _read(path)
    if "settings_sha256" not in facts:
        raise InputError(f"{path}: has no settings_sha256, as builds up to version 0.7; run data build again")
    fingerprints = _read(path.with_name(FILE_NAME))
    cases = fingerprints.get("cases")
    whole = isinstance(cases, dict) and all(isinstance(c, dict) and c.keys() >= REQUIRED for c in cases.values())
    if fingerprints.get("format") != FORMAT or not isinstance(cases, dict) or not whole:
        raise InputError(
            f"{path.with_name(FILE_NAME)}: must be of format {FORMAT} with the grid of every case; run data build again"
        )
    return facts, cases


def compare_builds(first: str, second: str) -> None:
    """Compare two training sets of data build, of two machines or two versions.

    The voxels of one recipe differ by rounding between processors and versions of NumPy, and so does the SHA-256 of the voxels.
    This command compares settings, code and versions, and every case within that rounding: grid, voxels and centroid of every
    label, HU. It reads build.json and fingerprint.json, no scan. The exit status is 1 when a case differs by more.

    Args:
        first: build.json of a set, or its folder; fingerprint.json must be beside it.
        second: build.json of the other set, or its folder.
    """
    (one, cases), (two, others) = read_build(first), read_build(second)
    for name, title in (("settings_sha256", "settings"), ("code_sha256", "code"), ("sha256", "voxels")):
        print(f"{title:15}{'same' if one.get(name) == two.get(name) else 'different'} SHA-256")
    versions = [{**facts.get("versions", {}), "machine": facts.get("machine")} for facts in (one, two)]
    for name in sorted({*versions[0], *versions[1]}):
        if versions[0].get(name) != versions[1].get(name):
            print(f"{name:15}{versions[0].get(name)}, {versions[1].get(name)} in the second")
    differences = fingerprint_differences(cases, others)
    total = len({*cases, *others})
    print(f"cases          {total - len(differences)} of {total} are the same within rounding")
    for name, difference in list(differences.items())[:LINES]:
        print(f"{name}: {difference}")
    if len(differences) > LINES:
        print(f"... and {len(differences) - LINES} more")
    if differences:
        name, difference = next(iter(differences.items()))
        raise InputError(f"{second}: {len(differences)} of {total} cases are not those of {first}, the first {name} ({difference})")
