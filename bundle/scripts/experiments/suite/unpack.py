# SPDX-License-Identifier: Apache-2.0
"""Command ``unpack``: results of another machine in the folder of a suite, as if its runs had been made here."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import InputError
from ...core.files import ensure_same_settings, write_text
from ...core.provenance import revision
from .budget import BUDGET_FILE
from .kit_files import read_parts, unpack_masks, unpack_weights
from .record import read_record, write_record
from .run import results_folder
from .stages import is_finished

SAME = ("bundle_sha256", "data_sha256")


def _by_run(files: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    """Files of every run by path below its folder; ``InputError`` for a run without record or config."""
    runs: dict[str, dict[str, bytes]] = {}
    for name, data in files.items():
        parts = Path(name).parts
        if parts[0] == "members" and len(parts) > 2:
            runs.setdefault(parts[1], {})["/".join(parts[2:])] = data
    for name, own in runs.items():
        if not {"record.json", "config.yaml"} <= set(own):
            raise InputError(
                f"results of {name} have no record.json or no config.yaml: they are those of half a member; collect again"
            )
    return runs


def _record(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        return dict(json.loads(files["record.json"]))
    except ValueError:
        raise InputError(f"results of {name}: record.json is damaged; collect again") from None


def _check_member(folder: Path, name: str, record: Mapping[str, Any], facts: Mapping[str, Any]) -> str | None:
    """Reason why the folder of a member stays as it is, None when the results replace it; ``InputError`` for two results of one."""
    present = read_record(folder)
    if not present:
        return None
    keys = ("bundle_sha256", "config_sha256", "data_sha256")
    for key in keys:
        if present.get("state") != "waiting" and present.get(key) != record.get(key):
            what = {"bundle_sha256": "another revision", "config_sha256": "other settings", "data_sha256": "other data"}[key]
            raise InputError(f"{folder}: was run with {what} than {name} of the results; choose another --out")
    if present.get("ended") and all(present.get(k) == record.get(k) for k in ("kit", "state", "ended")):
        return "is here already"
    if is_finished(folder):
        if record.get("state") != "finished":
            return f"is finished here, and {record.get('state')} in the results"
        where = present.get("machine", {}).get("host", "?")
        raise InputError(
            f"{folder}: is finished already, on {where}; delete it to take the results of {_host(record)}, or leave them out"
        )
    return None


def _host(record: Mapping[str, Any]) -> str:
    machine = record.get("machine", {})
    return ", ".join([str(machine.get("host", "?")), *machine.get("gpus", [])])


def _write(files: Mapping[str, bytes], folder: Path, record: dict[str, Any], datalist: Path | None) -> None:
    """Write a run beside its place and move it there, so that a run cut off while it is written does not look finished."""
    temporary = folder.with_name(f".{os.getpid()}.{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    for name, data in files.items():
        path = temporary / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == "model.pt":
            unpack_weights(data, path)
        elif path.name == "masks.npz":
            unpack_masks(data, path.parent / "masks")
        else:
            path.write_bytes(data)
    if datalist is not None:
        record["datalist"] = str(datalist)
    if record.get("state") == "running":  # the machine went away
        record["state"] = "cut off"
    if "model.pt" not in files and record.get("state") in ("finished", "trained"):
        record["weights"] = "left out for their size"
    write_record(temporary, record)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def unpack(*results: str, out: str | None = None) -> str:
    """Put the results that `run.sh` wrote on another machine into the folder of the suite.

    Args:
        results: all parts of one or several calls, such as shipped.1of2 shipped.2of2.
        out: folder of the results, as OUT of `run`; by default runs/SUITE in the current folder.
    """
    if not results:
        raise InputError("no results are named; name the parts that run.sh wrote, such as shipped.1of2 shipped.2of2")
    lines: list[str] = []
    for facts, files in read_parts([Path(r) for r in results]):
        root = results_folder(out, str(facts["suite"]))
        ensure_same_settings(root, {"data_sha256": facts["data_sha256"]})
        lines += _unpack_one(facts, files, root)
        if revision()["bundle_sha256"] != facts["bundle_sha256"]:
            lines.append(f"the scripts here are not those of the results (revision {str(facts['git'])[:10]}); tables name both")
    return "\n".join(lines)


def _unpack_one(facts: Mapping[str, Any], files: Mapping[str, bytes], root: Path) -> list[str]:
    runs, taken, notes = _by_run(files), list[str](), list[str]()
    records = {name: _record(own, name) for name, own in runs.items()}
    for name, record in records.items():  # all are checked before the first is written
        for key in SAME:
            if record.get(key) != facts[key]:
                raise InputError(f"results of {name} have another {key} than their archive; do not mix archives in one folder")
    reasons = {name: _check_member(root / "members" / name, name, record, facts) for name, record in records.items()}
    _check_revision(root, records, facts)
    datalist = next((p for p in (root / d / "datalist.json" for d in ("compact", "data")) if p.is_file()), None)
    for name, own in runs.items():
        if (reason := reasons[name]) is not None:
            notes.append(f"{name}: {reason}; nothing is changed")
            continue
        _write(own, root / "members" / name, records[name], datalist)
        taken.append(f"{name} ({records[name].get('state')}, {_host(records[name])})")
    if BUDGET_FILE in files and not (root / BUDGET_FILE).is_file():
        write_text(root / BUDGET_FILE, files[BUDGET_FILE].decode())
    line = f"{len(taken)} runs of {facts['suite']} in {root}: {', '.join(taken)}"
    left_out = [f"left out for their size: {', '.join(facts['left_out'])}"] if facts.get("left_out") else []
    return [line, *notes, *left_out]


def _check_revision(root: Path, records: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Raise ``InputError`` when other members of the folder were run by another revision."""
    for folder in sorted((root / "members").glob("*")):
        present = read_record(folder) if folder.name not in records else {}
        if present.get("bundle_sha256") not in (None, facts["bundle_sha256"]) and "versions" in present:
            raise InputError(
                f"{folder}: was run by another revision ({str(present.get('git'))[:10]}) than the results "
                f"({str(facts['git'])[:10]}); one table must have one revision, so choose another --out"
            )
