# SPDX-License-Identifier: Apache-2.0
"""End of a training at a non-finite loss; its batch is saved for inspection."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from ..core.files import write_text
from .checkpoint_files import write_checkpoint
from .distributed.processes import is_main
from .history import loss_of

logger = logging.getLogger(__name__)
NAME = "nonfinite_batch"


class NonFiniteLoss:
    """End the run at the first loss that is NaN or infinite.

    Writes ``nonfinite_batch.json`` (cases, range of the image and values of the label of every sample) and ``nonfinite_batch.pt``
    (image and label as the network received them) into the folder. Checkpoints saved before stay; the weights in memory are lost.

    Args:
        output_dir: folder of the files.
    """

    def __init__(self, output_dir: str) -> None:
        self.output_dir = Path(output_dir)

    def attach(self, engine: Engine) -> None:
        """Register at a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._check)

    def _check(self, engine: Engine) -> None:
        value = loss_of(engine.state.output)
        if value is None or math.isfinite(value):
            return
        cases = self._save_batch(engine, value)
        where = "epoch {}, step {}".format(*self._step(engine))
        named = f"; cases: {', '.join(cases)}" if cases else ""
        engine.state.failure = (  # type: ignore[attr-defined]
            f"{self.output_dir / (NAME + '.json')}: the loss was {value} in {where}{named}; "
            "inspect these cases, or start from scratch with --resume False and a lower --learning_rate"
        )
        engine.terminate(skip_completed=True)

    @staticmethod
    def _step(engine: Engine) -> tuple[int, int]:
        """Epoch and iteration of the loss, which may be reported a step later (``DelayedLoss``)."""
        return getattr(engine.state, "loss_step", (engine.state.epoch, engine.state.iteration))

    def _save_batch(self, engine: Engine, value: float) -> list[str]:
        batch = getattr(engine.state, "loss_batch", engine.state.batch)
        batch = batch if isinstance(batch, Mapping) else {}
        names = list(batch.get("case", []))
        tensors = {k: torch.as_tensor(batch[k]).detach().cpu() for k in ("image", "label") if k in batch}
        report = {
            "epoch": self._step(engine)[0], "iteration": self._step(engine)[1], "loss": str(value),
            "samples": [self._sample(tensors, names, i) for i in range(len(next(iter(tensors.values()), [])))],
        }  # fmt: skip
        if not is_main():  # the error line has the cases of this process
            return list(dict.fromkeys(names))
        try:
            write_text(self.output_dir / f"{NAME}.json", json.dumps(report, indent=2) + "\n")
            write_checkpoint(self.output_dir / f"{NAME}.pt", {**tensors, "case": names})
        except OSError as error:  # the non-finite loss is the error to report
            logger.warning("%s: %s; the batch is not saved", error.filename, error.strerror)
        return list(dict.fromkeys(names))

    @staticmethod
    def _sample(tensors: Mapping[str, torch.Tensor], names: Sequence[str], i: int) -> dict[str, Any]:
        row: dict[str, Any] = {"case": names[i] if i < len(names) else None}
        if "image" in tensors:
            image = tensors["image"][i].float()
            finite = image[torch.isfinite(image)]
            row["image_not_finite"] = int(image.numel() - finite.numel())
            row["image_range"] = [float(finite.min()), float(finite.max())] if finite.numel() else None
        if "label" in tensors:
            row["label_values"] = [float(v) for v in tensors["label"][i].unique()[:10]]
        return row
