# SPDX-License-Identifier: Apache-2.0
"""Training step as one CUDA graph: forward pass, loss, backward pass and optimizer are launched together, not kernel by kernel."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys

from .delayed_loss import DelayedLoss
from .distributed.processes import world_size

MODES = ("auto", True, False)
WARM_UP = 3  # steps before the capture, in which cuDNN chooses its kernels
logger = logging.getLogger(__name__)


def graphed_step(enabled: bool | str, device: Any) -> GraphedStep | None:
    """``iteration_update`` of MONAI's SupervisedTrainer, or None for its own.

    Args:
        enabled: "auto": on a GPU, when one process trains; True: the same, or an error; False: never.
        device: device of the training.

    Raises:
        ValueError: for another ``enabled``, or True where it cannot be.
    """
    enabled = {"true": True, "false": False}.get(str(enabled).lower(), enabled)  # the command line passes text
    if enabled not in MODES:
        raise ValueError(f"graphed_step: enabled={enabled!r}; must be auto, true or false.")
    if enabled is False:
        return None
    reason = None
    if torch.device(device).type != "cuda":
        reason = f"the device is {device}; must be a GPU"
    elif world_size() > 1:
        reason = "several processes train together"
    if reason is not None and enabled is True:
        raise ValueError(f"graphed_step: enabled=true: {reason}.")
    return GraphedStep() if reason is None else None


def unsupported(engine: SupervisedTrainer) -> str | None:
    """Reason why the step of a trainer cannot be captured, or None."""
    if engine.amp and engine.amp_kwargs.get("dtype", torch.float16) == torch.float16:
        return "float16 scales the loss by a factor that changes; use --amp_dtype '$torch.bfloat16' or --amp False"
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return "the training is distributed"
    if engine.accumulation_steps > 1:
        return "gradients are accumulated over several batches"
    if engine.compile:
        return "the network is compiled"
    return None


def release(optimizer: Any) -> None:
    """Undo in place what a capture changed in a loaded optimizer, so that a training resumes on any device."""
    for group in getattr(optimizer, "param_groups", ()):
        group["lr"] = float(group["lr"])
        if "capturable" in group and not group["params"][0].is_cuda:
            group["capturable"] = False


class GraphedStep:
    """Step of a trainer, captured after the first steps and replayed for every batch of the largest size so far.

    The batch is prepared (moved, randomised) outside the graph. Events within the step are fired while it is captured: what their
    handlers do on the device is repeated, their Python code is not. The reported loss is that of the step before, so that no step
    waits for the device; the last of an epoch reports its own. Where the capture fails, the reason is logged and the training goes
    on without it.

    Args:
        warm_up: ordinary steps before the capture.
    """

    def __init__(self, warm_up: int = WARM_UP) -> None:
        self.warm_up = warm_up
        self.image: torch.Tensor | None = None
        self.label: torch.Tensor | None = None
        self._output: dict[str, Any] = {}
        self._replay: Callable[[], None] | None = None
        self._steps, self._largest, self._failed = 0, 0, False
        self._loss = DelayedLoss()
        self._stream: Any = None

    def __call__(self, engine: SupervisedTrainer, batchdata: dict[str, Any]) -> Any:
        """Train on one batch and return the output of MONAI's trainer: image, label, prediction and loss."""
        if self._steps == 0 and (reason := unsupported(engine)) is not None:
            self._fail(reason)
        if self._failed:
            return engine._iteration(engine, batchdata)
        if self._steps == 0:
            self._prepare(engine)
        self._steps += 1
        image, label = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        self._largest = max(self._largest, len(image))
        if self._steps <= self.warm_up or len(image) < self._largest:  # the last batch of an epoch may be smaller
            return self._eager(engine, image, label)
        if self.image is None or image.shape != self.image.shape:
            engine.state.output = None  # its graph would keep the stream of the gradients
            try:
                self._replay = self._capture(engine, image, label)
            except Exception as error:
                self._fail((str(error).strip().splitlines() or [type(error).__name__])[0])
                engine.optimizer.zero_grad(set_to_none=True)
                return self._eager(engine, image, label)
        assert self.image is not None
        assert self.label is not None
        assert self._replay is not None
        self.image.copy_(image, non_blocking=True)
        self.label.copy_(label, non_blocking=True)
        self._replay()
        state = engine.state
        last = bool(state.epoch_length) and state.iteration % state.epoch_length == 0
        loss = self._loss(engine, self._output[Keys.LOSS], batchdata, wait=last)
        return self._finish(engine, {**self._output, Keys.LOSS: loss})

    def _fail(self, reason: str) -> None:
        logger.warning("training steps run without a CUDA graph: %s", reason)
        self._failed, self._replay = True, None

    @staticmethod
    def _prepare(engine: SupervisedTrainer) -> None:
        """Make the optimizer and the mixed precision of a trainer fit for a capture."""
        if engine.amp:
            engine.amp_kwargs = {**engine.amp_kwargs, "cache_enabled": False}
        for group in engine.optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = group["params"][0].is_cuda
            # The schedule fills a tensor in place; a number would be part of the graph.
            group["lr"] = torch.as_tensor(float(group["lr"]), device=engine.state.device)
        for state in engine.optimizer.state.values():  # of a resumed training
            if isinstance(state.get("step"), torch.Tensor):
                state["step"] = state["step"].to(engine.state.device)

    @staticmethod
    def _step(engine: SupervisedTrainer, image: torch.Tensor, label: torch.Tensor) -> dict[str, Any]:
        """MONAI's step on a prepared batch, without the event at its end, whose handlers read values on the host."""
        output = engine.state.output = {Keys.IMAGE: image, Keys.LABEL: label}
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(image.device.type, **engine.amp_kwargs) if engine.amp else nullcontext():
            output[Keys.PRED] = engine.inferer(image, engine.network)
            engine.fire_event(IterationEvents.FORWARD_COMPLETED)
            output[Keys.LOSS] = engine.loss_function(output[Keys.PRED], label).mean()
            engine.fire_event(IterationEvents.LOSS_COMPLETED)
        scaler, engine.scaler = engine.scaler, None  # bfloat16 has the range of float32: no handler has a factor to undo
        try:
            output[Keys.LOSS].backward()
            engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
            engine.optimizer.step()
        finally:
            engine.scaler = scaler
        return {k: v.detach() for k, v in output.items()}

    def _eager(self, engine: SupervisedTrainer, image: torch.Tensor, label: torch.Tensor) -> dict[str, Any]:
        with self._side_stream():
            output = self._step(engine, image, label)
        self._loss.forget(engine)
        return self._finish(engine, output)

    @staticmethod
    def _finish(engine: SupervisedTrainer, output: dict[str, Any]) -> Any:
        """Publish the output of a step and fire the event at its end."""
        engine.state.output = output
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _side_stream(self) -> AbstractContextManager:
        """Stream of all steps, as gradients belong to the stream of their first one."""
        if self._stream is None:
            self._stream = _SideStream()
        return self._stream

    def _capture(self, engine: SupervisedTrainer, image: torch.Tensor, label: torch.Tensor) -> Callable[[], None]:
        """Capture the step, without running it, and return its replay."""
        layout = torch.channels_last if image.ndim == 4 else torch.contiguous_format
        self.image, self.label = image.clone(memory_format=layout), label.clone()
        graph = torch.cuda.CUDAGraph()
        engine.optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=self._side_stream().stream, capture_error_mode="thread_local"):  # type: ignore[attr-defined]
            self._output = self._step(engine, self.image, self.label)
        logger.info("the training step is a CUDA graph from step %d on", self._steps)
        return graph.replay


class _SideStream(AbstractContextManager):
    """A CUDA stream that follows the current one when entered, and is followed by it when left."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()

    def __enter__(self) -> None:
        self.stream.wait_stream(torch.cuda.current_stream())
        self._context = torch.cuda.stream(self.stream)
        self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)
        torch.cuda.current_stream().wait_stream(self.stream)
