# SPDX-License-Identifier: Apache-2.0
"""Options of ``--tracking mlflow``: the overlays that it adds to a config, the check of the store, names of runs.

MONAI appends its ``MLFlowHandler`` to the handlers of the trainer and of the evaluator; ``mlflow_run`` completes the run.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..core.config_diff import running_parser
from ..core.config_package import localise
from ..core.errors import InputError, first_line
from ..core.paths import BUNDLE
from .distributed.processes import is_main

NAME_FILE = "mlflow_run.txt"  # name of the unfinished run, for a training that is resumed
SQLITE = "sqlite:///"
OPTIONS = ("tracking_uri", "experiment_name", "run_name", "save_execute_config")


def is_tracked(config: Mapping[str, Any]) -> bool:
    """True for a config with an ``MLFlowHandler``, which MONAI or an overlay adds, among its handlers."""
    handlers = [h for part in ("train", "validate") for h in config.get(part, {}).get("handlers", [])]
    return any(isinstance(h, Mapping) and h.get("_target_") == "MLFlowHandler" for h in handlers)


def merge_overlays(files: Sequence[str]) -> None:
    """Merge overlays into the config whose resolution called this function, if it is tracked.

    Options of the command line and other values below ``mlflow`` take precedence over the overlays.

    Args:
        files: overlays below the folder ``configs``, merged in order.
    """
    from monai.bundle import ConfigParser
    from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS, merge_kv

    parser = running_parser()
    if parser is None or not is_tracked(parser.get()):
        return
    before = parser.get()
    merged = ConfigParser(deepcopy(before))
    for file in files:
        for key, value in localise(ConfigParser.load_config_file(BUNDLE / "configs" / file)).items():
            merge_kv(merged, key, value)
    defaults: dict[str, Any] = DEFAULT_MLFLOW_SETTINGS["configs"]  # type: ignore[assignment]
    given = {key: before[key] for key in OPTIONS if key in before and before[key] != defaults[key]}
    content = _override(merged.get(), {"mlflow": before.get("mlflow")} | given)
    if "run_dirs" in content:  # the folder has the user's name or the time; the name of MLflow's run includes that of the folder
        content["run_dirs"] = {**content["run_dirs"], "name": before.get("run_name")}
    if content != before:  # resolving the whole config calls this function again
        parser.set(content)


def _override(base: dict, values: Mapping) -> dict:
    """Nested update of a dictionary, in place, by values that are not None."""
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _override(base[key], value)
        elif value is not None:
            base[key] = value
    return base


def disable_telemetry() -> None:
    """Disable MLflow's usage reports (MLflow 3.2 and later), unless MLFLOW_DISABLE_TELEMETRY=false is set.

    MONAI has imported MLflow before; MLflow reads the variable at every call, and sends nothing before the first.
    """
    if os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true").lower() in ("true", "1"):
        with contextlib.suppress(ImportError):  # MLflow before 3.2
            from mlflow.telemetry import set_telemetry_client

            set_telemetry_client()  # removes the client that the import created


def check_store(tracking_uri: str | None = None) -> bool:
    """Check that MLflow is installed and its store can be used.

    Args:
        tracking_uri: address of the store; the variable MLFLOW_TRACKING_URI takes precedence. None checks MLflow alone.

    Returns:
        Whether this process tracks; of several processes, only the first does.

    Raises:
        InputError: when MLflow is missing or the store cannot be used.
    """
    if not is_main():
        return False
    if find_spec("mlflow") is None:
        raise InputError("--tracking mlflow: mlflow is not installed; pip install '.[tracking]', or leave --tracking out")
    disable_telemetry()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri
    if not uri:
        return True
    if "://" not in uri or uri.startswith("file:"):
        raise InputError(f"tracking_uri={uri}: MLflow no longer stores runs in plain folders; must be sqlite:////DIR/mlruns.db "
                         "or the address of a server, such as http://host:5000")  # fmt: skip
    parts = urlsplit(uri)
    from mlflow import MlflowClient

    try:
        if uri.startswith(SQLITE):
            Path(unquote(uri[len(SQLITE) :])).parent.mkdir(parents=True, exist_ok=True)
        elif parts.hostname and parts.scheme in ("http", "https"):  # MLflow itself would retry for minutes
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
            socket.create_connection((parts.hostname, port), timeout=5).close()
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except Exception as error:  # of the network, the file system, the database or MLflow
        raise InputError(f"tracking_uri={uri}: cannot be used ({first_line(error)[:160]}); start the server, fix the address, or "
                         "leave --tracking_uri out to write to output_dir/mlruns.db") from None  # fmt: skip
    return True


def run_name(output_dir: str, workflow: str = "training", resume: bool = False) -> str:
    """Name of a new run. It holds the time, because MONAI's handler continues an unfinished run of the same name.

    Args:
        output_dir: folder of the run, whose name is part of the name.
        workflow: first part of the name.
        resume: return the name of the interrupted run in ``output_dir``, if there is one.
    """
    name_file = Path(output_dir) / NAME_FILE
    if resume and name_file.is_file():
        return name_file.read_text(encoding="utf-8").strip()
    return f"{workflow}_{Path(output_dir).resolve().name}_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}"
