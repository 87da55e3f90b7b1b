# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training, written atomically."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monai.handlers
import torch
from ignite.engine import Engine

from ..networks.weights_description import with_description
from .checkpoint_files import write_checkpoint
from .describe_run import running_description


class CheckpointSaver(monai.handlers.CheckpointSaver):
    """MONAI's saver with atomic files, which describe the network and the input of their weights where a config makes the saver.

    MONAI deletes the best weights before it writes better ones, and writes in place: a reader, or a run that is killed then, is
    left with no file or a truncated one. And it saves final weights when a run fails, which may hold NaN; here a failed run saves
    none.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.description = running_description()
        for checkpoint in (self._final_checkpoint, self._key_metric_checkpoint, self._interval_checkpoint):
            if checkpoint is not None:
                handler = checkpoint.save_handler
                handler._save_func = self._save_atomically
                if handler.filename is not None:  # the new file replaces the old one
                    handler.remove = lambda filename: None

    def exception_raised(self, engine: Engine, e: Exception) -> None:
        """Raise the exception again."""
        raise e

    def _save_atomically(self, checkpoint: object, path: str, *args: Any, **kwargs: Any) -> None:
        single = isinstance(checkpoint, Mapping) and all(isinstance(v, torch.Tensor) for v in checkpoint.values())
        write_checkpoint(Path(path), with_description(checkpoint, self.description) if single else checkpoint)  # type: ignore[arg-type]
