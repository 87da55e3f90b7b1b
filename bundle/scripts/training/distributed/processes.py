# SPDX-License-Identifier: Apache-2.0
"""The processes that ``torchrun`` started: which of them this one is, what each does alone, and what they end with."""

from __future__ import annotations

import logging
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from ...core.errors import InputError
from ...data.datalist import load_datalist

CONFIG = "configs/multi_gpu_train.yaml"
# What gloo says when another process ended.
LOST = ("Connection closed by peer", "Connection reset by peer", "Socket closed")


def rank() -> int:
    """Number of this process, 0 where there is only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes the files of the run."""
    return rank() == 0


def own_device() -> torch.device:
    """Return the GPU of this process, or the CPU where there is none.

    Raises:
        InputError: when there are more processes than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= there:
        count = os.environ.get("LOCAL_WORLD_SIZE", local + 1)
        raise InputError(
            f"torchrun started {count} processes on this machine, which has {there} GPU(s); "
            f"give --nproc_per_node={there}, or --device cpu"
        )
    return torch.device("cuda", local)


def start(device: str | torch.device, backend: str | None = None, timeout: float = 7200.0) -> None:
    """Meet the other processes; from here on only the first one logs more than warnings, and an error names its process.

    Args:
        device: of this process.
        backend: "nccl" or "gloo"; None takes NCCL for a GPU, else gloo.
        timeout: seconds that a process waits for the others before it gives up. While the first checks the data, the others wait.

    Raises:
        InputError: when ``torchrun`` did not start this process, or the processes cannot meet.
    """
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise InputError(
            f"{CONFIG}: is for several processes, which torchrun starts; give torchrun --nproc_per_node=2 -m monai.bundle run "
            "training … in place of python -m monai.bundle run training …, or leave this file out"
        )
    device = torch.device(device)
    backend = backend or ("nccl" if device.type == "cuda" else "gloo")
    if backend not in ("nccl", "gloo") or (backend == "nccl" and device.type != "cuda"):
        raise InputError(
            f"backend={backend!r}, device={device}: give nccl for GPUs, gloo for any device, or null to choose"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    bound = {"device_id": device} if backend == "nccl" and device.index is not None else {}
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout), **bound)
    except Exception as error:  # of the network or of the backend
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise InputError(f"the processes could not meet at {address} ({reason[:160]}); see docs/scaling.md") from None
    sys.excepthook = _report_rank
    if not is_main():
        logging.disable(logging.INFO)


def stop() -> None:
    """Part from the other processes at the end of a run."""
    logging.disable(logging.NOTSET)
    sys.excepthook = sys.__excepthook__
    if dist.is_initialized():
        dist.destroy_process_group()


def _report_rank(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error and, as the last line, its first cause and whose it is: ``torchrun`` prints a page of its own behind it."""
    cause = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    name = f"process {rank()} of {world_size()} on {socket.gethostname()}"
    if any(words in str(cause) for words in LOST):
        print(f"{name}: another process ended; its own error says why", file=sys.stderr, flush=True)
        return
    text = (str(cause).strip().splitlines() or ["no message"])[0]
    traceback.print_exception(kind, error, trace)
    print(f"{name}: ended by {type(cause).__name__}: {text}", file=sys.stderr, flush=True)


def volumes_per_process(batch_size: int, slices_per_volume: int) -> int:
    """Return how many volumes a process draws its slices of a step from.

    Args:
        batch_size: slices per step over all processes.
        slices_per_volume: slices drawn from a volume.

    Raises:
        InputError: when the processes cannot share the volumes of a step equally.
    """
    volumes, count = max(batch_size // slices_per_volume, 1), world_size()
    if volumes % count:
        fitting = slices_per_volume * count * max(round(volumes / count), 1)
        raise InputError(
            f"batch_size={batch_size} with slices_per_volume={slices_per_volume}: {volumes} volume(s) a step are not to be "
            f"shared equally by {count} processes; give --batch_size {fitting} or another number of processes"
        )
    return volumes // count


def share(items: Sequence[Any]) -> list[Any]:
    """Return this process's part of the items.

    With fewer items than processes every process gets all of them: none is left without, which MONAI's metrics would wait for
    in vain, and a mean over all processes stays what it is.
    """
    if len(items) < world_size():
        return list(items)
    return list(items[rank() :: world_size()])


def load_share(path: str, section: str) -> list[dict[str, str]]:
    """Return this process's part of a section of the datalist, see ``scripts.data.datalist.load_datalist`` and ``share``."""
    return share(load_datalist(path, section))


class NullSummaryWriter:
    """What the other processes have in place of TensorBoard's writer: it takes every call and writes nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def summary_writer(log_dir: str) -> Any:
    """Return TensorBoard's writer for the folder in the first process, ``NullSummaryWriter`` in the others."""
    if not is_main():
        return NullSummaryWriter()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir)
