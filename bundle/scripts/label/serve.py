# SPDX-License-Identifier: Apache-2.0
"""Server of MONAI Label with this bundle and a folder of scans, for 3D Slicer."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..core.config_package import localise, portable
from ..core.errors import InputError
from ..core.files import atomic_write, write_text
from ..core.paths import BUNDLE
from ..io.formats import stem

NAME = "spine_fracture_ct_segmentation"  # MONAI Label infers the task from it
MODEL = "model.pt"
STUDIES = ("*.nii.gz", "*.nii", "*.nrrd", "*.mha")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_PORT = 65535


def prepare_app(app: Path, weights: str | None = None, config: Sequence[str] = (), fresh: bool = False) -> list[str]:
    """Create or update the app's folder: current code and configs of the bundle; weights and labels of earlier sessions are kept.

    The bundle is copied, so that training through the server does not write into the original.

    Args:
        app: folder.
        weights: initial weights; those of the bundle by default.
        config: overlays of ``train.yaml`` and ``inference.yaml``; MONAI Label reads one file of each, so they are merged.
        fresh: copy the initial weights even if the app has weights, which training may have improved.

    Returns:
        Lines for the user.

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
    overlays = [_overlay(name) for name in config]
    _merge(target / "configs", "train", [str(target / "configs" / "label_train.yaml"), *overlays])
    if overlays:
        _merge(target / "configs", "inference", overlays)
    (target / "models").mkdir(exist_ok=True)
    source, current = Path(weights) if weights else BUNDLE / "models" / MODEL, target / "models" / MODEL
    if weights and not source.is_file():
        raise InputError(f"{source}: no such checkpoint; must be a file with weights")
    without = "the server stores labels and trains, and segments after the first training"
    if current.is_file() and not fresh:
        notes.append(f"weights: {current}, of the last session (--fresh starts from {source} again)")
    elif source.is_file() and not weights and config and (reason := _mismatch(target, source)):
        # The shipped weights have the shipped widths; another network is trained from scratch.
        notes.append(f"weights: none, {reason}; {without}")
    elif source.is_file():
        with atomic_write(current) as temporary:
            shutil.copyfile(source, temporary)  # before the next line moves it, where it is one of the session
            if current.is_file():
                notes.append(f"weights of the last session: {_keep(current)}")
        notes.append(f"weights: {source}, copied to {current}")
    else:
        notes.append(f"weights: none at {source}; {without}")
    if current.is_file():
        _follow_weights(target, current)
        _check_weights(target, current)
    return notes


def _keep(weights: Path) -> Path:
    """Move the weights of an earlier session, and those that they began from, into ``kept`` by their time."""
    folder = weights.with_name("kept") / time.strftime("%Y-%m-%d_%H%M%S", time.gmtime(weights.stat().st_mtime))
    folder.mkdir(parents=True, exist_ok=True)
    for file in (weights, *sorted(weights.with_name("kept").glob("*.pt"))):
        os.replace(file, folder / file.name)
    return folder / weights.name


def _refuse_equal_names(files: Iterable[Path]) -> None:
    """Refuse scans whose names differ by the format alone: MONAI Label has one study, and one label, for all of them."""
    named: dict[str, Path] = {}
    for file in sorted(files):
        name = stem(file)
        if name in named:
            raise InputError(f"{file}: MONAI Label takes it and {named[name].name} for one study; rename one of them")
        named[name] = file


def _refuse_busy_port(host: str, port: int) -> None:
    """Refuse an address in use before the app's folder is changed, which the server that uses it may be using, too."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"--host {host} --port {port}: {error.strerror or error}; end the server there, or choose another port"
            ) from None


def _overlay(name: str) -> str:
    file = next((p for p in (Path(name), BUNDLE / "configs" / name) if p.is_file()), None)
    if file is None:
        raise InputError(f"{name}: no such config; must be a file, or a name below {BUNDLE / 'configs'}")
    return str(file)


def _merge(folder: Path, name: str, overlays: Sequence[str]) -> None:
    """Merge overlays into a config, as JSON, which MONAI Label prefers to YAML."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config([str(folder / f"{name}.yaml"), *overlays])
    write_text(folder / f"{name}.json", json.dumps(parser.get(), indent=2) + "\n")


def _follow_weights(bundle: Path, weights: Path) -> None:
    """Merge network and input of weights that describe them into the configs, so that no overlay is needed."""
    from monai.bundle import ConfigParser

    from ..training.described_config import DescribedConfig, common_description, read_base

    found = common_description(str(weights))
    if found is None:
        return
    for name, base in (("inference", ["inference.yaml"]), ("train", ["train.yaml", "label_train.yaml"])):
        parser, folder = ConfigParser(), bundle / "configs"
        parser.read_config(str(next(p for e in ("json", "yaml") if (p := folder / f"{name}.{e}").is_file())))
        content = localise(dict(parser.get()))
        described = DescribedConfig(
            config={**content, "bundle_root": str(bundle), "device": "cpu"}, base=read_base(base),
            kind="inference" if name == "inference" else "training", training=name == "train",
        ).merge(*found)  # fmt: skip
        merged = {**described, "bundle_root": content["bundle_root"], "device": content["device"]}
        write_text(folder / f"{name}.json", json.dumps(portable(merged), indent=2) + "\n")


def _mismatch(bundle: Path, weights: Path) -> str:
    """Reason why weights do not fit the configs, or an empty string."""
    try:
        _check_weights(bundle, weights)
    except InputError as error:
        return str(error)
    return ""


def _check_weights(bundle: Path, weights: Path) -> None:
    """Load weights strictly: MONAI Label ignores a mismatch, and the output is then that of random weights."""
    from monai.bundle import ConfigParser

    from ..training.weights import load_weights

    parser = ConfigParser()
    parser.read_config(str(next(p for e in ("json", "yaml") if (p := bundle / "configs" / f"inference.{e}").is_file())))
    parser.set(localise(dict(parser.get())))
    parser["checkpoint"] = str(weights)  # outputs and neighbouring slices are those of the app's weights, not of the bundle's
    load_weights(network=parser.get_parsed_content("network_def"), path=str(weights))


def environment(app: Path) -> dict[str, str]:
    """Environment variables of the server; those that are set already take precedence."""
    defaults = {
        "MONAI_ZOO_SOURCE": "local",
        "MONAI_LABEL_SESSION_PATH": str(app / "sessions"),
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps(STUDIES),
        # No strategy of this app uses scores, each of which takes several segmentations.
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
        "MONAI_LABEL_RELOAD_APP_LIB": "false",  # with one bundle, its code need not be reloaded for every request
        "MPLBACKEND": "Agg",
    }
    path = os.pathsep.join(p for p in (str(app / "start"), os.environ.get("PYTHONPATH", "")) if p)
    return {**defaults, **os.environ, "PYTHONPATH": path}


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
    app: str = "runs/label",
    weights: str | None = None,
    config: str | Sequence[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    fresh: bool = False,
) -> None:
    """Start MONAI Label's server with this bundle and a folder of CT scans. For research use only.

    Stop it with Ctrl-C. It has no authentication: anyone who can reach the address can read the scans, store labels and train.

    Args:
        studies: folder of scans (.nii.gz, .nii, .nrrd, .mha); labels are stored in its folder `labels`.
        app: folder of the server: copy of the bundle, trained weights, logs.
        weights: initial weights; models/model.pt of the bundle by default.
        config: overlay, or a list of them; weights without a description need those that they were trained with, such as demo.yaml.
        host: address of the server.
        port: port of the server.
        fresh: start from the initial weights even if an earlier session has trained.

    Raises:
        InputError: when MONAI Label, the folder, weights or a config are missing, or the port is out of range.
    """
    if importlib.util.find_spec("monailabel") is None:
        raise InputError(
            f"{sys.executable}: has no monailabel; `make label STUDIES=DIR` builds an environment with it (docs/slicer.md)"
        )
    studies_dir, app_dir = Path(studies).resolve(), Path(app).resolve()
    if not studies_dir.is_dir():
        raise InputError(f"{studies_dir}: no such folder; set studies to a folder of CT scans")
    if not 0 < port <= MAX_PORT:
        raise InputError(f"--port {port}: must be a number from 1 to {MAX_PORT}")
    files = {f for ending in STUDIES for f in studies_dir.glob(ending)}
    _refuse_equal_names(files)
    _refuse_busy_port(host, port)
    (app_dir / "model").mkdir(parents=True, exist_ok=True)
    overlays = [config] if isinstance(config, str) else list(config or [])
    count = len(files)
    lines = prepare_app(app=app_dir, weights=weights, config=overlays, fresh=fresh)
    empty = "" if count else "; put CT scans there, the server detects new files"
    lines.append(f"studies: {count} in {studies_dir}{empty}")
    if host not in LOOPBACK:
        lines.append(f"note: {host} can be reached from other machines, without authentication: see docs/slicer.md")
    lines.append(f"address for 3D Slicer, module MONAI Label: http://{host}:{port}")
    print("\n".join(lines), flush=True)
    line, variables = command(app_dir, studies_dir, host, port), environment(app_dir)
    if os.name == "posix":
        os.execve(line[0], line, variables)
    raise SystemExit(subprocess.call(line, env=variables))
