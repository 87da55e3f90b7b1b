# SPDX-License-Identifier: Apache-2.0
"""Command ``pack``: a suite, or one training, with code and data in one archive for another machine."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ...core.errors import InputError
from ...core.files import atomic_write, write_text
from ...core.paths import BUNDLE, SUITES
from ...core.program import command, quoted
from ...core.provenance import revision
from ...data.compact import compact
from ...data.datalist import read_datalist
from .definition import Run, Suite, find_file, load_suite
from .record import datalist_hash
from .run import chosen_members, resolve_datalist, results_folder
from .stages import run_configs

FORMAT = 1
SHIPPED = (".py", ".yaml", ".json", ".conf", ".typed")  # of the bundle, besides its licence
PACKAGES = (
    "monai",
    "ignite",
    "numpy",
    "scipy",
    "skimage",
    "nibabel",
    "yaml",
    "fire",
    "matplotlib",
    "tensorboard",
    "tqdm",
    "pydicom",
    "PIL",
)
SUFFIXES = (".gz", ".tgz", ".xz")
RUN_SH = """#!/bin/sh
# Train and score on this machine: sh run.sh --minutes M --jobs K
# Needs Python 3.10 or later with PyTorch; PYTHON=/path/to/python chooses one. Rerun the same command to resume.
KIT_START=$(date +%s)
export KIT_START
HERE=$(cd "$(dirname "$0")" && pwd)
PY=${PYTHON:-python3}
if ! "$PY" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  echo "$PY: Python 3.10 or later is needed; PYTHON=/path/to/python chooses one"
  exit 1
fi
if ls "$HERE"/wheels/*.whl >/dev/null 2>&1 && [ ! -f "$HERE/site/complete" ]; then
  "$PY" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$HERE/site" "$HERE"/wheels/*.whl || exit 1
  touch "$HERE/site/complete"
fi
PYTHONPATH="$HERE/bundle:$HERE/site${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH
"$PY" - <<'CHECK' || exit 1
import importlib.util, sys
missing = [n for n in ("torch", PACKAGES) if importlib.util.find_spec(n) is None]
if missing:
    sys.exit(f"{sys.executable}: packages are missing: {', '.join(missing)}; install them, or pack with --wheels FOLDER")
CHECK
cd "$HERE" && exec "$PY" -m scripts.experiments.suite.kit_run "$HERE" "$@"
"""


def _definition(suite: str, configs: Sequence[str], training_configs: Sequence[str], root: Path) -> str:
    """Suite as it was named, or the path of a new one with a single training made from configs."""
    if not configs:
        if training_configs:
            raise InputError("training_configs: needs --configs with those of training and evaluation, such as configs/train.yaml")
        return suite
    if Path(suite).suffix or len(Path(suite).parts) > 1:
        raise InputError(f"{suite}: must be a name for the training where --configs are given")
    path = root / f"{suite}.yaml"
    content: dict[str, Any] = {"title": suite, "configs": [str(c) for c in configs]}
    content |= {"training_configs": [str(c) for c in training_configs]} if training_configs else {}
    content["evaluate"] = ["configs/evaluate.yaml", "configs/experiments/vertebra_scores.yaml"]
    write_text(path, yaml.safe_dump({**content, "seeds": [0], "members": {suite: {"label": suite}}}, sort_keys=False))
    return str(path)


def _suite_files(suite: str, setting: str | None, definition: Suite) -> dict[str, Path]:
    """Files besides the bundle that define a suite, by their path in the archive."""
    files: dict[str, Path] = {}
    file = find_file(suite, SUITES, "suite").resolve()
    used = [c for v in definition.variants for c in (*v.configs, *v.training_configs)]
    used += [c for v in definition.variants for c in v.evaluate]
    used += [*definition.configs, *definition.training_configs, *definition.evaluate]
    if not file.is_relative_to(BUNDLE):
        files[f"suite/{file.name}"] = file
    for config in {Path(c).resolve() for c in used}:
        if config.is_relative_to(BUNDLE):
            continue
        if not config.is_relative_to(file.parent):
            raise InputError(f"{config}: lies neither in the bundle nor beside {file.name}; move it to {file.parent}")
        files[f"suite/{config.relative_to(file.parent).as_posix()}"] = config
    if setting is not None and not (path := find_file(setting, SUITES / "settings", "setting").resolve()).is_relative_to(BUNDLE):
        files[f"setting/{path.name}"] = path
    return files


def _spacing(definition: Suite, runs: Sequence[Run]) -> list[float]:
    """Voxel size that all runs resample to; ``InputError`` when they differ or keep that of the scans."""
    sizes = {json.dumps(run_configs(definition, run)[0].get("spacing")) for run in {r.variant.name: r for r in runs}.values()}
    spacing = json.loads(sizes.pop()) if len(sizes) == 1 else None
    if not isinstance(spacing, list) or not all(isinstance(s, (int, float)) and s > 0 for s in spacing):
        raise InputError("the members have no common `spacing` in mm; --compact False packs the data as they are")
    return spacing


def _compacted(datalist: Path, out: Path, spacing: Sequence[float], cache: Path) -> Path:
    """Compact copy of a data set in a folder of the results; ``InputError`` when the folder has the copy of another one."""
    origin = {"sha256": datalist_hash(datalist, cache), "spacing": list(spacing)}
    note = out / "origin.json"
    if note.is_file() and json.loads(note.read_text()) != origin:
        raise InputError(f"{out}: holds a copy of other data or of another spacing; delete it or choose another --out_dir")
    write_text(note, json.dumps(origin) + "\n")
    return Path(compact(str(datalist), str(out), spacing=spacing, compress=False))


def _data_files(datalist: Path, folder: str) -> dict[str, Path]:
    """Files of a data set by their path in the archive; ``InputError`` for a file outside its folder."""
    root, (_, sections) = datalist.parent.resolve(), read_datalist(datalist)
    files = {f"{folder}/datalist.json": datalist}
    for path in {
        Path(v) for cases in sections.values() for c in cases for k, v in c.items() if k in ("image", "label", "vertebrae")
    }:
        resolved = path.parent.resolve() / path.name
        if not resolved.is_relative_to(root):
            raise InputError(f"{path}: lies outside the folder of {datalist}; pack with --compact True, which copies it")
        files[f"{folder}/{resolved.relative_to(root).as_posix()}"] = path
    for name in ("vertebrae.csv", "build.json", "compact.json"):
        if (root / name).is_file():
            files[f"{folder}/{name}"] = root / name
    return files


def _bundle_files() -> dict[str, Path]:
    found = [f for part in ("scripts", "configs") for f in sorted((BUNDLE / part).rglob("*")) if f.is_file()]
    code = [f for f in found if f.suffix != ".pyc" and "__pycache__" not in f.parts]
    return {f"bundle/{f.relative_to(BUNDLE).as_posix()}": f for f in [*code, BUNDLE / "LICENSE"] if f.is_file()}


def _archive(path: Path) -> tarfile.TarFile:
    """New archive; links are stored as the files that they name."""
    if path.suffix == ".xz":
        return tarfile.open(path, "w:xz", dereference=True)
    return tarfile.open(path, "w:gz", dereference=True)


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    item = tarfile.TarInfo(name)
    item.size, item.mode = len(data), mode
    archive.addfile(item, io.BytesIO(data))


def pack(
    suite: str,
    out: str,
    dataset_dir: str | None = None,
    setting: str | None = None,
    members: Sequence[str] | str | None = None,
    seeds: Sequence[int] | int | None = None,
    configs: Sequence[str] | str = (),
    training_configs: Sequence[str] | str = (),
    real_datalist: str | None = None,
    compact: bool = True,
    wheels: str | None = None,
    out_dir: str | None = None,
) -> str:
    """Pack a suite, or one training, with code, configs and data into an archive that runs on another machine.

    There: tar xf kit.tar.xz; sh kit/run.sh --minutes M --jobs K. Bring kit/results/*.*of* back and use `unpack`.

    Args:
        suite: as for `run`; with CONFIGS a name for one training.
        out: archive, .tar.gz or .tar.xz.
        dataset_dir: as for `run`.
        setting: as for `run`.
        members: as for `run`.
        seeds: as for `run`.
        configs: configs of training and evaluation of one training, relative to the bundle, such as configs/train.yaml.
        training_configs: further configs of that training alone.
        real_datalist: as for `run`; the scans travel, too.
        compact: copy the data at 8 bits and at the spacing of the training; False packs the files as they are.
        wheels: folder of wheels for packages that the other machine lacks, PyTorch excepted.
        out_dir: folder of the results here, as OUT of `run`.
    """
    archive_path = Path(out)
    if archive_path.suffix not in SUFFIXES:
        raise InputError(f"{out}: must end in .tar.gz or .tar.xz")
    root = results_folder(out_dir, Path(suite).stem)
    listed = [[c] if isinstance(c, str) else list(c) for c in (configs, training_configs)]
    suite = _definition(suite, listed[0], listed[1], root)
    definition = load_suite(suite, setting, [seeds] if isinstance(seeds, int) else seeds)
    if definition.folds:
        raise InputError(f"{definition.name}: suites with folds cannot be packed; pack one without `folds`")
    chosen = chosen_members(definition, members)
    if others := [v.name for v in definition.variants if v.name in chosen and v.needs]:
        if members is not None:
            raise InputError(f"members={others}: need another program, which an archive cannot hold; choose other --members")
        chosen = [name for name in chosen if name not in others]
    runs = definition.runs(chosen)
    for run in runs:
        run_configs(definition, run)
    files = _bundle_files() | _suite_files(suite, setting, definition)
    cache, datalist = root / "hashes.json", resolve_datalist(definition.name, definition.phantom, root, dataset_dir)
    real = read_datalist(real_datalist)[0] if real_datalist else None
    if compact:
        spacing = _spacing(definition, runs)
        datalist = _compacted(datalist, root / "compact", spacing, cache)
        real = _compacted(real, root / "compact_real", spacing, cache) if real else None
    files |= _data_files(datalist, "data") | (_data_files(real, "real") if real else {})
    for wheel in sorted(Path(wheels).glob("*.whl")) if wheels else []:
        files[f"wheels/{wheel.name}"] = wheel
    if wheels and not any(name.startswith("wheels/") for name in files):
        raise InputError(f"{wheels}: has no wheel; expected files such as monai-1.6.1-py3-none-any.whl")
    own, own_setting = (next((n for n in files if n.startswith(f"{kind}/")), None) for kind in ("suite", "setting"))
    facts: dict[str, Any] = {"format": FORMAT, "suite": definition.name, "file": own and f"suite/{Path(suite).name}"}
    facts |= {"setting": own_setting or setting, "members": chosen, "seeds": list(definition.seeds), "real": real is not None}
    facts |= {"data_sha256": datalist_hash(datalist, cache), **revision()}
    facts["kit"] = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    with atomic_write(archive_path) as temporary, _archive(temporary) as archive:
        _add(archive, "kit/kit.json", (json.dumps(facts, indent=2) + "\n").encode())
        needed = ", ".join(f'"{p}"' for p in PACKAGES)
        _add(archive, "kit/run.sh", RUN_SH.replace("PACKAGES", needed).encode(), 0o755)
        for name, path in files.items():
            archive.add(path, f"kit/{name}", recursive=False, filter=_plain)
    size = archive_path.stat().st_size / 1e6
    lines = [f"{archive_path}: {size:.1f} MB, {len(runs)} runs of {definition.name}, data {facts['data_sha256'][:16]}"]
    lines.append(
        f"there: tar xf {archive_path.name} && sh kit/run.sh --minutes M --jobs K; back: {definition.name}.*of* in kit/results"
    )
    lines.append(f"here: {command(f'experiments unpack PARTS --out {quoted(root)}')}")
    return "\n".join(lines)


def _plain(item: tarfile.TarInfo) -> tarfile.TarInfo:
    """Entry without owner and time: equal content is an equal archive."""
    item.uid = item.gid = item.mtime = 0
    item.uname = item.gname = ""
    item.mode = 0o644
    return item
