# SPDX-License-Identifier: Apache-2.0
"""Tags, parameters, metrics per epoch, config, figures and weights of an MLflow run, beyond those of MONAI's handler."""

from __future__ import annotations

import atexit
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ignite.engine import Engine, Events

from ..core.files import write_text
from ..core.provenance import file_hash, revision, versions
from .history import TrainingHistory
from .tracking import NAME_FILE, OPTIONS, SQLITE

logger = logging.getLogger(__name__)

CLOCK_SKEW_S = 5.0  # between this machine and a file server
MAX_PARAMETER_LENGTH = 250  # characters; a limit of some stores


def config_file(path: object) -> Path | None:
    """File of the merged config, from the value of ``save_execute_config``.

    MONAI puts an expression there; where ``output_dir`` is a plain path, the sum remains a string (MONAI 1.6.1).
    """
    if not isinstance(path, (str, Path)):
        return None
    unevaluated = re.fullmatch(r"(.*) \+ '(/config_\d+_\d+\.json)'", str(path), re.DOTALL)
    return Path(unevaluated[1] + unevaluated[2] if unevaluated else path)


def parameters(config: Mapping, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Plain values at the top level of a config and of its network, by id: the values by which runs are compared."""
    for name, value in config.items():
        if name in OPTIONS:
            continue
        if isinstance(value, dict) and name == "network_def":
            yield from parameters(value, "network_def.")
        elif not name.startswith("_") or name == "_target_":
            plain = isinstance(value, (bool, int, float)) or (isinstance(value, str) and value[:1] not in "@$%")
            numbers = isinstance(value, list) and all(isinstance(v, (bool, int, float)) for v in value)
            if (plain or numbers) and len(str(value)) <= MAX_PARAMETER_LENGTH:
                yield prefix + name, str(value)


class RunRecord:
    """Completion of the MLflow run of MONAI's handler; without such a handler, nothing is recorded.

    Create it after the engine and its handlers and before the engine runs. A run that is interrupted is marked as failed at the end
    of the process.

    Args:
        engine: engine that runs.
        handlers: all its handlers; MONAI's ``MLFlowHandler`` and a ``TrainingHistory`` are found among them by type.
        output_dir: folder of the run.
        files: files and folders that become artifacts at the end; those that the run did not write are left out.
        config: value of ``save_execute_config``.
        facts: further tags; a file among the values has a second tag with its hash.
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
        self.config, self.start_time, self.resumed, self.run_id = config_file(config), 0.0, False, ""
        self.history = next((h for h in handlers if isinstance(h, TrainingHistory)), None)
        # By name: MONAI's class can be imported without MLflow, but nothing can be an instance of it.
        self.handler: Any = next((h for h in handlers if type(h).__name__ == "MLFlowHandler"), None)
        if self.handler is None:
            return
        handler = self.handler
        handler.artifacts = ()  # the config is among the artifacts of this class, under one name in every run
        # A request for every step is slow over a network; TensorBoard's files have the steps.
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

    def _tags(self) -> dict[str, object]:
        tags: dict[str, object] = {"workflow": self.workflow, "output_dir": self.output_dir.resolve(), **revision()}
        tags |= {f"version.{name}": version for name, version in versions().items()}
        if re.fullmatch("[0-9a-f]{40}", str(tags["git"])):
            tags["mlflow.source.git.commit"] = tags["git"]  # the key that MLflow's pages show
        for name, value in self.facts.items():
            tags[name] = value
            if isinstance(value, str) and Path(value).is_file():
                tags[f"{name}_sha256"] = file_hash(value)
        return tags

    def _start(self, engine: Engine) -> None:
        self.start_time, self.resumed = time.time(), engine.state.epoch > 0
        handler = self.handler
        run = handler.client.get_run(handler.cur_run.info.run_id)
        self.run_id = run.info.run_id
        handler.client.update_run(self.run_id, status="RUNNING")  # an interrupted run was marked as failed
        atexit.register(self._abandon)
        write_text(self.output_dir / NAME_FILE, f"{run.info.run_name}\n")
        for name, value in self._tags().items():
            handler.client.set_tag(self.run_id, name, str(value))
        if self.config is not None and self.config.is_file():
            content = json.loads(self.config.read_text(encoding="utf-8"))
            handler.client.log_text(self.run_id, json.dumps(content, indent=2), "config.json")
            present = run.data.params  # of a resumed run; parameters cannot be changed
            handler._log_params({k: v for k, v in parameters(content) if k not in present})
        logger.info("MLflow run %s in %s", run.info.run_name, handler.client.tracking_uri)

    def _epoch(self, engine: Engine) -> None:
        """Log the epoch's row of the history; MONAI's other handler logs validations, and an evaluation ends with its metrics."""
        if self.history is not None and self.history.rows:
            row = self.history.rows[-1]
            names = ("train_loss", "learning_rate", "seconds")
            self.handler._log_metrics({name: row[name] for name in names}, step=int(row["epoch"]))

    def _artifacts(self) -> Iterator[tuple[Path, str | None]]:
        """Files of this run and the artifact folder of each."""
        for name in self.files:
            path = Path(name)
            for file in sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]:
                if not file.is_file():
                    continue
                if not self.resumed and file.stat().st_mtime < self.start_time - CLOCK_SKEW_S:
                    logger.warning("%s is older than this run and not added to it", file)
                    continue
                folder = (path.name / file.parent.relative_to(path)).as_posix() if path.is_dir() else None
                yield file, folder

    def _complete(self, engine: Engine) -> None:
        client = self.handler.client
        for file, folder in self._artifacts():
            client.log_artifact(self.run_id, str(file), folder)
            if file.suffix == ".pt":
                client.set_tag(self.run_id, "checkpoint_sha256", file_hash(file))
        if self.history is None:  # an evaluation
            metrics = {k: v for k, v in engine.state.metrics.items() if isinstance(v, (int, float))}
            self.handler._log_metrics({re.sub(r"[^\w\-./ ]", "_", k): float(v) for k, v in metrics.items()}, step=1)
        (self.output_dir / NAME_FILE).unlink(missing_ok=True)
        atexit.unregister(self._abandon)
        self.handler.close()

    def _abandon(self) -> None:
        atexit.unregister(self._abandon)
        try:
            self.handler.client.set_terminated(self.run_id, "FAILED")
        except Exception as error:  # the store may be the cause of the failure
            logger.warning("MLflow run %s could not be marked as failed: %s", self.run_id, error)
