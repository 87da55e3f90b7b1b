# SPDX-License-Identifier: Apache-2.0
"""What MONAI's ``--tracking mlflow`` leaves out: names, tags, parameters, numbers per epoch, config, figures and weights.

MONAI starts the run, by a handler whose options the config ids ``tracking_uri``, ``experiment_name``, ``run_name`` and
``is_not_rank0`` set; they are read only when tracking is asked for, and so is everything here but ``EpochScalars``.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ignite.engine import Engine, Events

from ..core.errors import InputError
from ..core.files import write_text
from ..core.provenance import file_hash, versions
from .history import TrainingHistory

logger = logging.getLogger(__name__)

NAME_FILE = "mlflow_run.txt"  # name of the run while it goes on, for a training that is taken up again
SQLITE = "sqlite:///"
UNCOMPARED = ("tracking_uri", "experiment_name", "run_name", "save_execute_config")  # no parameters of a run
CLOCKS = 5.0  # seconds that the clocks of this machine and of a file server may differ
LONGEST = 250  # characters of a parameter; some stores take no more


def silence_mlflow() -> None:
    """Keep MLflow from telling its makers of every call, as it does from 3.2 on; MLFLOW_DISABLE_TELEMETRY=false allows it.

    MONAI has imported MLflow long before; MLflow looks at the variable again at every call, and sends nothing before the first.
    """
    if os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true").lower() in ("true", "1"):
        with contextlib.suppress(ImportError):  # before 3.2 there is no telemetry
            from mlflow.telemetry import set_telemetry_client

            set_telemetry_client()  # forgets the client that the import made


def ready(tracking_uri: str | None = None, asked: bool = True) -> bool:
    """Say whether this process tracks, which only the first of a distributed training does, and make sure that it can.

    Args:
        tracking_uri: address of the store; the variable MLFLOW_TRACKING_URI goes before it. None asks for MLflow alone.
        asked: False where the id is only evaluated with the rest of the config, as MONAI Label does: then nothing is refused,
            tried or written.

    Raises:
        InputError: when MLflow is missing or the store cannot be used.
    """
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
        return False
    if not asked:
        return find_spec("mlflow") is not None
    if find_spec("mlflow") is None:
        raise InputError(
            "--tracking mlflow: mlflow is not installed; pip install '.[tracking]', or leave --tracking out"
        )
    silence_mlflow()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri
    if not uri:
        return True
    if "://" not in uri or uri.startswith("file:"):
        raise InputError(f"tracking_uri={uri}: MLflow keeps no runs in plain folders any more; give sqlite:////DIR/mlruns.db "
                         "or the address of a server, such as http://host:5000")  # fmt: skip
    parts = urlsplit(uri)
    from mlflow import MlflowClient

    try:
        if uri.startswith(SQLITE):
            Path(unquote(uri[len(SQLITE) :])).parent.mkdir(parents=True, exist_ok=True)
        elif parts.hostname and parts.scheme in ("http", "https"):  # MLflow itself would try for minutes
            socket.create_connection(
                (parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]), 5
            ).close()
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except Exception as error:  # of the network, the file system, the database or MLflow
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"tracking_uri={uri}: cannot be used ({reason[:160]}); start the server, mend the address, or leave "
                         "--tracking_uri out to write to output_dir/mlruns.db") from None  # fmt: skip
    return True


def run_name(output_dir: str, workflow: str = "training", resume: bool = False) -> str:
    """Name of a new run: MONAI's handler goes on with any unfinished run of the same name, so it holds the time.

    Args:
        output_dir: its last part is in the name; a training that is taken up again finds its name there.
        workflow: first part of the name.
        resume: take the name of the run that was cut off, where there is one.
    """
    kept = Path(output_dir) / NAME_FILE
    if resume and kept.is_file():
        return kept.read_text(encoding="utf-8").strip()
    return f"{workflow}_{Path(output_dir).resolve().name}_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}"


def config_file(path: object) -> Path | None:
    """File of the merged config that MONAI wrote, from what it puts under ``save_execute_config``.

    It writes an expression there; where ``output_dir`` is a plain path the sum stays a text (MONAI 1.6.1).
    """
    if not isinstance(path, (str, Path)):
        return None
    written = re.fullmatch(r"(.*) \+ '(/config_\d+_\d+\.json)'", str(path), re.DOTALL)
    return Path(written[1] + written[2] if written else path)


def parameters(config: Mapping, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Plain values of the top level of a config and of its network, by id: what one would compare runs by."""
    for name, value in config.items():
        if name in UNCOMPARED:
            continue
        if isinstance(value, dict) and name == "network_def":
            yield from parameters(value, "network_def.")
        elif not name.startswith("_") or name == "_target_":
            plain = isinstance(value, (bool, int, float)) or (isinstance(value, str) and value[:1] not in "@$%")
            numbers = isinstance(value, list) and all(isinstance(v, (bool, int, float)) for v in value)
            if (plain or numbers) and len(str(value)) <= LONGEST:
                yield prefix + name, str(value)


class EpochScalars:
    """Writer of MONAI's TensorBoard handler for a trainer: the learning rate of every epoch, beside metrics of the training.

    Args:
        optimizer: its learning rate is written.
    """

    def __init__(self, optimizer) -> None:
        self.optimizer = optimizer

    def __call__(self, engine: Engine, writer) -> None:
        """Write after an epoch."""
        writer.add_scalar("learning_rate", self.optimizer.param_groups[0]["lr"], engine.state.epoch)
        for name, value in engine.state.metrics.items():
            if isinstance(value, (int, float)):
                writer.add_scalar(name, value, engine.state.epoch)
        writer.flush()


class RunRecord:
    """Complete the MLflow run that MONAI's handler keeps for an engine; without such a handler nothing happens.

    Make it when the engine and its handlers are there and before the engine runs. A run that does not come to its end is marked
    as failed when the process ends.

    Args:
        engine: the engine that runs.
        handlers: all its handlers; MONAI's MLFlowHandler and a TrainingHistory are found among them by type.
        output_dir: folder of the run.
        files: files and folders that are kept as artifacts at the end; those that the run did not write are left out.
        config: what MONAI leaves under ``save_execute_config``.
        facts: written as tags; files among the values get a second tag with their hash.
        workflow: "training" or "evaluating", a tag.
    """

    def __init__(
        self,
        engine: Engine,
        handlers: Sequence,
        output_dir: str,
        files: Sequence[str] = (),
        config: object = None,
        facts: Mapping[str, object] | None = None,
        workflow: str = "training",
    ) -> None:
        self.output_dir, self.files, self.facts, self.workflow = Path(output_dir), files, dict(facts or {}), workflow
        self.config, self.begun, self.resumed, self.run_id = config_file(config), 0.0, False, ""
        self.history = next((h for h in handlers if isinstance(h, TrainingHistory)), None)
        # By name: importing the class of a MONAI without MLflow is no error, but nothing can be an instance of it.
        self.handler: Any = next((h for h in handlers if type(h).__name__ == "MLFlowHandler"), None)
        if self.handler is None:
            return
        handler = self.handler
        handler.artifacts = ()  # the config is among ours, under one name in every run
        # A request for every step is slow over a network; steps are in TensorBoard's files.
        handler.iteration_logger = lambda engine: None
        handler.epoch_logger = self._epoch
        uri = handler.client.tracking_uri
        if uri.startswith(SQLITE):  # MONAI takes "%20" of the address for a part of the folder's name
            handler.artifact_location = (Path(unquote(uri[len(SQLITE) :])).parent / "mlruns").absolute().as_uri()
        engine.add_event_handler(Events.STARTED, self._start)
        # MONAI's handler would close the run before the last files are in it.
        if engine.has_event_handler(handler.close, Events.COMPLETED):
            engine.remove_event_handler(handler.close, Events.COMPLETED)
        engine.add_event_handler(Events.COMPLETED, self._complete)

    def _start(self, engine: Engine) -> None:
        self.begun, self.resumed = time.time(), engine.state.epoch > 0
        handler = self.handler
        run = handler.client.get_run(handler.cur_run.info.run_id)
        self.run_id = run.info.run_id
        handler.client.update_run(self.run_id, status="RUNNING")  # one that is taken up again was marked as failed
        atexit.register(self._abandon)
        write_text(self.output_dir / NAME_FILE, f"{run.info.run_name}\n")
        from ..core.provenance import revision

        tags: dict[str, object] = {"workflow": self.workflow, "output_dir": self.output_dir.resolve(), **revision()}
        tags |= {f"version.{name}": version for name, version in versions().items()}
        if re.fullmatch("[0-9a-f]{40}", str(tags["git"])):
            tags["mlflow.source.git.commit"] = tags["git"]  # the key that MLflow's pages show
        for name, value in self.facts.items():
            tags[name] = value
            if isinstance(value, str) and Path(value).is_file():
                tags[f"{name}_sha256"] = file_hash(value)
        for name, value in tags.items():
            handler.client.set_tag(self.run_id, name, str(value))
        if self.config is not None and self.config.is_file():
            text = self.config.read_text(encoding="utf-8")
            content = json.loads(text)
            handler.client.log_text(self.run_id, json.dumps(content, indent=2), "config.json")
            known = run.data.params  # a run that is taken up again has them, and none can be changed
            handler._log_params({k: v for k, v in parameters(content) if k not in known})
        logger.info("MLflow run %s in %s", run.info.run_name, handler.client.tracking_uri)

    def _epoch(self, engine: Engine) -> None:
        """Log what the history has of the epoch; a validation has its own handler, an evaluation's metrics come at its end."""
        if self.history is not None and self.history.rows:
            row = self.history.rows[-1]
            names = ("train_loss", "learning_rate", "seconds")
            self.handler._log_metrics({name: row[name] for name in names}, step=int(row["epoch"]))

    def _written(self) -> Iterator[tuple[Path, str | None]]:
        """Files of this run and the folder of the artifacts that each belongs in."""
        for name in self.files:
            path = Path(name)
            for file in sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]:
                if not file.is_file():
                    continue
                if not self.resumed and file.stat().st_mtime < self.begun - CLOCKS:
                    logger.warning("%s is older than this run and not added to it", file)
                    continue
                folder = (path.name / file.parent.relative_to(path)).as_posix() if path.is_dir() else None
                yield file, folder

    def _complete(self, engine: Engine) -> None:
        client = self.handler.client
        for file, folder in self._written():
            client.log_artifact(self.run_id, str(file), folder)
            if file.suffix == ".pt":
                client.set_tag(self.run_id, "checkpoint_sha256", file_hash(file))
        if self.history is None:  # an evaluation: its summary is there only now
            found = {k: v for k, v in engine.state.metrics.items() if isinstance(v, (int, float))}
            self.handler._log_metrics({re.sub(r"[^\w\-./ ]", "_", k): float(v) for k, v in found.items()}, step=1)
        (self.output_dir / NAME_FILE).unlink(missing_ok=True)
        atexit.unregister(self._abandon)
        self.handler.close()

    def _abandon(self) -> None:
        atexit.unregister(self._abandon)
        try:
            self.handler.client.set_terminated(self.run_id, "FAILED")
        except Exception as error:  # the store may be what failed
            logger.warning("MLflow run %s could not be marked as failed: %s", self.run_id, error)
