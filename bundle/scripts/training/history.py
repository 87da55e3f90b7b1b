# SPDX-License-Identifier: Apache-2.0
"""Loss, learning rate and metrics of every epoch: a line in the log, table, figure and TensorBoard scalars."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from ..core.files import atomic_write, write_table
from .distributed.processes import is_main
from .validation_score import FRACTURED_MARKED, TRAINING, VALIDATION, marked_fractions

logger = logging.getLogger(__name__)


def loss_of(output: Any) -> float | None:
    """Loss in the output of a step of MONAI's trainers, or None."""
    output = output[0] if isinstance(output, list) and output else output
    loss = output.get("loss") if isinstance(output, dict) else None
    return None if loss is None else float(loss[0] if isinstance(loss, list) else loss)


def epoch_line(row: Mapping[str, float], epochs: int | None, score: str | None = None) -> str:
    """One line of a log for an epoch: loss, score, learning rate, seconds, and in how many cases something was marked.

    Args:
        row: row of ``history.csv``; without a score where no validation took place.
        epochs: epochs of the training.
        score: name of the key metric.
    """
    parts = [f"loss {row['train_loss']:.4f}"]
    if score is not None and score in row:
        parts.append(f"{score} {row[score]:.4f}")
    parts += [f"rate {row['learning_rate']:.3g}", f"{row['seconds']:.1f} s"]
    if (marked := marked_fractions(row)) is not None:
        where = "validation" if VALIDATION + FRACTURED_MARKED in row else "training"
        parts.append(f"marked {marked[0]:.0%} of the fractured and {marked[1]:.0%} of the healthy {where} cases")
    return f"epoch {row['epoch']:.0f} of {epochs}: {', '.join(parts)}"


class EpochScalars:
    """``epoch_event_writer`` of MONAI's TensorBoard handler: learning rate and training metrics of every epoch.

    Args:
        optimizer: optimizer whose learning rate is written.
    """

    def __init__(self, optimizer) -> None:
        self.optimizer = optimizer

    def __call__(self, engine: Engine, writer) -> None:
        """Write the scalars of an epoch."""
        writer.add_scalar("learning_rate", float(self.optimizer.param_groups[0]["lr"]), engine.state.epoch)
        for name, value in engine.state.metrics.items():
            if isinstance(value, (int, float)):
                writer.add_scalar(name, value, engine.state.epoch)
        writer.flush()


class TrainingHistory:
    """Handler of a trainer that logs a line and writes ``history.csv`` and ``training_curve.png`` after every epoch.

    Drawing takes about as long as a few small steps, so short epochs share a figure; the last epoch always has one. Attach it
    after the ``ValidationHandler``, whose metrics it reads.

    Args:
        output_dir: folder of the files.
        evaluator: engine that validates, or None.
        optimizer: optimizer whose learning rate is a column of the table.
        metric: name of the metric in the figure; None for the key metric of the evaluator.
        picture_interval: shortest time between two figures, seconds.
    """

    def __init__(
        self, output_dir: str, evaluator: Engine | None, optimizer, metric: str | None = None, picture_interval: float = 15.0
    ) -> None:
        self.output_dir, self.evaluator, self.optimizer, self.metric = Path(output_dir), evaluator, optimizer, metric
        self.picture_interval = picture_interval
        self.rows: list[dict[str, float]] = []
        self._loss_sum, self._loss_n = 0.0, 0  # of the current epoch
        self._start, self._before = time.perf_counter(), 0.0
        self._drawn, self._validated = -math.inf, False

    def state_dict(self) -> dict[str, Any]:
        """Return the table and the sums of the current epoch."""
        seconds = self._before + time.perf_counter() - self._start if self._loss_n else 0.0
        return {"rows": [dict(r) for r in self.rows], "sum": self._loss_sum, "n": self._loss_n, "seconds": seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the table and the sums of an epoch."""
        self.rows = [dict(row) for row in state["rows"]]
        self._loss_sum, self._loss_n, self._before = state["sum"], state["n"], state["seconds"]
        self._start = time.perf_counter()

    def attach(self, engine: Engine) -> None:
        """Register at a trainer, as its ``history``, by which ``TrainingState`` finds it."""
        engine.history = self  # type: ignore[attr-defined]
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        engine.add_event_handler(Events.COMPLETED, self._draw)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self._mark_validated)

    def _mark_validated(self, engine: Engine) -> None:
        self._validated = True

    def _begin(self, engine: Engine) -> None:
        self._start, self._validated = time.perf_counter(), False

    def _iteration(self, engine: Engine) -> None:
        value = loss_of(engine.state.output)
        if value is not None:
            self._loss_sum += value
            self._loss_n += 1

    def _epoch(self, engine: Engine) -> None:
        row: dict[str, float] = {
            "epoch": engine.state.epoch,
            "train_loss": self._loss_sum / max(self._loss_n, 1),
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "seconds": round(self._before + time.perf_counter() - self._start, 2),
        }
        self._loss_sum, self._loss_n, self._before = 0.0, 0, 0.0
        # Between validations the evaluator still holds the metrics of the last one.
        if self.evaluator is not None and self._validated:
            row.update({k: float(v) for k, v in self.evaluator.state.metrics.items() if isinstance(v, (int, float))})
        self.rows.append(row)
        logger.info("%s", epoch_line(row, engine.state.max_epochs, self._score()))
        if is_main():
            self._write_table(self.output_dir / "history.csv")
        if time.monotonic() - self._drawn >= self.picture_interval:
            self._draw(engine)

    def _score(self) -> str | None:
        """Name of the metric in the figure and in the log."""
        return self.metric or getattr(getattr(self.evaluator, "state", None), "key_metric_name", None)

    def _draw(self, engine: Engine) -> None:
        if not self.rows or not is_main():
            return
        try:
            self._write_picture(self.output_dir / "training_curve.png")
        except ImportError as error:  # matplotlib is absent from MONAI Label's environment
            logger.warning("training_curve.png was not drawn: %s; pip install matplotlib", error)
        self._drawn = time.monotonic()

    def _write_table(self, path: Path) -> None:
        names = list(dict.fromkeys(k for row in self.rows for k in row))
        write_table(path, self.rows, names)

    def _write_picture(self, path: Path) -> None:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(7, 4), layout="constrained")
        left = figure.subplots()
        epochs = [row["epoch"] for row in self.rows]
        left.plot(epochs, [row["train_loss"] for row in self.rows], color="tab:blue", marker=".", label="training loss")
        left.set(xlabel="epoch", ylabel="training loss")
        left.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        right = left.twinx()
        name = self._score() or ""
        cases = "training cases" if name.startswith(TRAINING) else "validation"
        points = [(row["epoch"], row[name]) for row in self.rows if name in row]
        if points:
            right.plot(*zip(*points, strict=True), color="tab:orange", marker=".", label=f"DSC, {cases}")
        right.set(ylabel=f"DSC, {cases}", ylim=(-0.02, 1.02))  # points at 0 are visible
        handles = [*left.get_lines(), *right.get_lines()]
        left.legend(
            handles, [str(h.get_label()) for h in handles], loc="upper center", ncols=2, frameon=False, bbox_to_anchor=(0.5, -0.12)
        )
        left.set_title("Training")
        with atomic_write(path) as temporary:
            figure.savefig(temporary, dpi=120)
