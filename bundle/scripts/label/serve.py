# SPDX-License-Identifier: Apache-2.0
"""Start MONAI Label with this bundle and a folder of scans, ready for 3D Slicer."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import InputError
from ..core.files import atomic_write, write_text

BUNDLE = Path(__file__).resolve().parents[2]
NAME = "spine_fracture_ct_segmentation"  # MONAI Label reads the task from it
MODEL = "model.pt"
STUDIES = ("*.nii.gz", "*.nii", "*.nrrd", "*.mha")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HIGHEST_PORT = 65535


def prepare_app(app: Path, weights: str | None = None, config: Sequence[str] = (), fresh: bool = False) -> list[str]:
    """Make or refresh the folder of the app: code and configs of the bundle anew, its weights and labels as they were.

    The bundle is copied, so that no training through the server writes into the one that it came from.

    Args:
        app: folder.
        weights: weights to begin with; the bundle's own when not given.
        config: overlays of ``train.yaml`` and ``inference.yaml``; MONAI Label reads one file of each, so they are merged.
        fresh: take the weights again although the app has some, which training may have improved.

    Returns:
        Lines for a person.

    Raises:
        InputError: for weights or a config that do not exist, or weights of another network.
    """
    target, notes = app / "model" / NAME, []
    for part in ("configs", "scripts", "docs"):
        shutil.rmtree(target / part, ignore_errors=True)
        shutil.copytree(BUNDLE / part, target / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(BUNDLE / "LICENSE", target / "LICENSE")
    shutil.copyfile(Path(__file__).with_name("app.py"), app / "main.py")
    (app / "start").mkdir(exist_ok=True)
    shutil.copyfile(Path(__file__).with_name("torchvision_on_cpu.py"), app / "start" / "sitecustomize.py")
    if config:
        _merge(target / "configs", config)
    (target / "models").mkdir(exist_ok=True)
    source, own = Path(weights) if weights else BUNDLE / "models" / MODEL, target / "models" / MODEL
    if weights and not source.is_file():
        raise InputError(f"{source}: no such checkpoint; give a file with weights")
    if own.is_file() and not fresh:
        notes.append(f"weights: {own}, as the last session left them (--fresh begins with {source} again)")
    elif source.is_file() and not weights and config and (reason := _misfit(target, source)):
        # The shipped weights are of the shipped widths; who trains another network begins without any.
        notes.append(f"weights: none, {reason}; the server can store labels and train, and segments after that")
    elif source.is_file():
        with atomic_write(own) as temporary:
            shutil.copyfile(source, temporary)
        notes.append(f"weights: {source}, copied to {own}")
    else:
        notes.append(f"weights: none at {source}; the server can store labels and train, and segments after that")
    if own.is_file():
        _check(target, own)
    return notes


def _merge(folder: Path, overlays: Sequence[str]) -> None:
    from monai.bundle import ConfigParser

    files = []
    for overlay in overlays:
        found = next((p for p in (Path(overlay), BUNDLE / "configs" / overlay) if p.is_file()), None)
        if found is None:
            raise InputError(f"{overlay}: no such config; give a file, or a name below {BUNDLE / 'configs'}")
        files.append(str(found))
    for name in ("train", "inference"):
        parser = ConfigParser()
        parser.read_config([str(folder / f"{name}.yaml"), *files])
        write_text(folder / f"{name}.json", json.dumps(parser.get(), indent=2) + "\n")  # preferred to .yaml


def _misfit(bundle: Path, weights: Path) -> str:
    """Why weights do not fit the configs, or nothing."""
    try:
        _check(bundle, weights)
    except InputError as error:
        return str(error)
    return ""


def _check(bundle: Path, weights: Path) -> None:
    """MONAI Label takes weights that do not fit without a word and answers at random; so they are tried here."""
    from monai.bundle import ConfigParser

    from ..training.weights import load_weights

    parser = ConfigParser()
    parser.read_config(str(next(p for e in ("json", "yaml") if (p := bundle / "configs" / f"inference.{e}").is_file())))
    load_weights(parser.get_parsed_content("network_def"), str(weights))


def environment(app: Path) -> dict[str, str]:
    """Variables of the server; what is set already stays."""
    own = {
        "MONAI_ZOO_SOURCE": "local",
        "MONAI_LABEL_SESSION_PATH": str(app / "sessions"),
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps(STUDIES),
        # The strategies of this app do not use scores, and every score is several segmentations.
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
        "MONAI_LABEL_RELOAD_APP_LIB": "false",  # there is one bundle, whose code need not be loaded anew for every request
        "MPLBACKEND": "Agg",
    }
    path = os.pathsep.join(p for p in (str(app / "start"), os.environ.get("PYTHONPATH", "")) if p)
    return {**own, **os.environ, "PYTHONPATH": path}


def command(app: Path, studies: Path, host: str, port: int) -> list[str]:
    """Command line of the server."""
    line = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", str(studies)]
    line += ["--host", host, "--port", str(port), "--conf", "models", NAME, "--conf", "zoo_source", "local"]
    line += ["--conf", "sam2", "false"]
    if (app / "model" / NAME / "models" / MODEL).is_file():  # without weights this option ends the server
        line += ["--conf", "epistemic_model", NAME]
    return line


def serve(
    *,
    studies: str,
    app: str = "../runs/label",
    weights: str | None = None,
    config: str | Sequence[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    fresh: bool = False,
) -> None:
    """Start MONAI Label's server with this bundle and a folder of CT scans. For research use only.

    Ctrl-C ends it. It has no authentication: whoever reaches the address can read the scans, store labels and train.

    Args:
        studies: folder of scans (.nii.gz, .nii, .nrrd, .mha); labels are stored in its folder `labels`.
        app: folder of the server: copy of the bundle, weights that training improved, logs.
        weights: weights to begin with; models/model.pt of the bundle by default.
        config: overlay that the weights were trained with, such as demo.yaml, or a list of them.
        host: address that it listens at.
        port: port that it listens at.
        fresh: begin with the weights again although a session before has trained.
    """
    if importlib.util.find_spec("monailabel") is None:
        raise InputError(
            f"{sys.executable}: has no monailabel; `make label STUDIES=DIR` builds an environment with it (docs/monai_label.md)"
        )
    folder, place = Path(studies).resolve(), Path(app).resolve()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; set studies to a folder of CT scans")
    if not 0 < port <= HIGHEST_PORT:
        raise InputError(f"--port {port}: give a number from 1 to {HIGHEST_PORT}")
    (place / "model").mkdir(parents=True, exist_ok=True)
    overlays = [config] if isinstance(config, str) else list(config or [])
    count = len({f for ending in STUDIES for f in folder.glob(ending)})
    lines = prepare_app(place, weights, overlays, fresh)
    lines.append(
        f"studies: {count} in {folder}{'' if count else '; put CT scans there, the server sees them by itself'}"
    )
    if host not in LOOPBACK:
        lines.append(f"note: {host} is not this machine alone, and there is no authentication: see docs/monai_label.md")
    lines.append(f"address for 3D Slicer, module MONAI Label: http://{host}:{port}")
    print("\n".join(lines), flush=True)
    line, variables = command(place, folder, host, port), environment(place)
    if os.name == "posix":
        os.execve(line[0], line, variables)
    raise SystemExit(subprocess.call(line, env=variables))
