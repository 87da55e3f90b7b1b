# SPDX-License-Identifier: Apache-2.0
"""Score by which a training selects its weights, and the fractions of cases in which something is marked."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from monai.handlers import IgniteMetricHandler
from monai.metrics import CumulativeIterationMetric

FRACTURE = 1  # channel of a one-hot mask
VALIDATION, TRAINING = "val_", "train_"
FRACTURED_MARKED, HEALTHY_MARKED = "fractured_marked", "healthy_marked"
logger = logging.getLogger(__name__)


def _fracture(mask: Any) -> torch.Tensor:
    """Voxels of the fracture (B, N) of a one-hot mask (B, C, *size)."""
    return torch.as_tensor(mask)[:, FRACTURE].flatten(1).double()


class FractureDice(CumulativeIterationMetric):
    """Mean DSC of the cases that have a fracture or in which something is marked.

    A fractured case without a mark scores 0, and so does a healthy case with one; a healthy case without a mark is left out. The
    usual mean, in which such a case scores 1, is won by a network that marks nothing where most cases are healthy. Where no case
    has a fracture there is nothing to find: the score is the fraction of cases without a mark.
    """

    warned = False

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """DSC, NaN for a healthy case without a mark, and presence of a fracture (B, 2) of one-hot masks (B, C, *size)."""
        prediction, reference = _fracture(y_pred), _fracture(y)
        size = prediction.sum(1) + reference.sum(1)
        dice = 2 * (prediction * reference).sum(1) / size.clamp_min(1e-12)
        dice = torch.where(size > 0, dice, torch.full_like(dice, math.nan))
        return torch.stack([dice, (reference > 0).any(1).double()], dim=1)

    def aggregate(self) -> torch.Tensor:
        """Return the mean over the cases so far, of all processes; 0 without any."""
        values = self.get_buffer()
        if values is None or not len(values):
            return _mean(None)
        dice, fractured = torch.as_tensor(values, dtype=torch.float64).T
        if fractured.any():
            return _mean(dice)
        if not self.warned:
            logger.warning(
                "no scored case has a fracture: weights are chosen by false positives alone; add fractured cases to `validation`"
            )
        self.warned = True
        return _mean(dice.nan_to_num(nan=1.0))


class MarkedFraction(CumulativeIterationMetric):
    """Fraction of the fractured cases, or of the healthy ones, in which something is marked.

    Args:
        healthy: count the cases without a fracture.
    """

    def __init__(self, healthy: bool = False) -> None:
        super().__init__()
        self.healthy = healthy

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """1 or 0 (B, 1) of one-hot masks (B, C, *size); NaN for a case that does not count."""
        marked = (_fracture(y_pred) > 0.5).any(1).double()
        counts = (_fracture(y) > 0).any(1) != self.healthy
        return torch.where(counts, marked, torch.full_like(marked, math.nan))[:, None]

    def aggregate(self) -> torch.Tensor:
        """Return the fraction over the cases so far, of all processes; 0 without any."""
        return _mean(self.get_buffer())


def _mean(values: Any) -> torch.Tensor:
    """Mean of the values that are not NaN; 0 without any."""
    values = torch.as_tensor(values if values is not None else [], dtype=torch.float64)
    values = values[~values.isnan()]
    return values.mean() if len(values) else values.new_zeros(())


class FractureDiceHandler(IgniteMetricHandler):
    """``FractureDice`` as a metric of an evaluator.

    Args:
        output_transform: prediction and reference of an output of the evaluator, one-hot masks (C, *size).
    """

    def __init__(self, output_transform: Callable = lambda output: output) -> None:
        super().__init__(metric_fn=FractureDice(), output_transform=output_transform)


class MarkedHandler(IgniteMetricHandler):
    """``MarkedFraction`` as a metric of an evaluator.

    Args:
        output_transform: prediction and reference of an output of the evaluator, one-hot masks (C, *size).
        healthy: count the cases without a fracture.
    """

    def __init__(self, output_transform: Callable = lambda output: output, healthy: bool = False) -> None:
        super().__init__(metric_fn=MarkedFraction(healthy), output_transform=output_transform)


def named(metrics: Mapping[str, Any], cases: Sequence) -> dict[str, Any]:
    """Metrics by names that state where they were measured: without validation cases they are those of training cases.

    Args:
        metrics: metrics by names that begin with ``val_``.
        cases: validation cases.
    """
    if cases:
        return dict(metrics)
    return {TRAINING + name.removeprefix(VALIDATION): metric for name, metric in metrics.items()}


def key_score(engine: Engine) -> float:
    """Score of the last validation, by the key metric of an evaluator; 0 where it is NaN."""
    value = float(engine.state.metrics[engine.state.key_metric_name])  # type: ignore[attr-defined]
    return 0.0 if math.isnan(value) else value


def marked_fractions(metrics: Mapping[str, Any]) -> tuple[float, float] | None:
    """Fractions of fractured and of healthy cases in which something is marked; None where they were not measured."""
    for prefix in (VALIDATION, TRAINING):
        values = [metrics.get(prefix + name) for name in (FRACTURED_MARKED, HEALTHY_MARKED)]
        if values[0] is not None and values[1] is not None:
            return float(values[0]), float(values[1])
    return None
