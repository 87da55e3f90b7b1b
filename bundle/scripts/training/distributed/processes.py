# SPDX-License-Identifier: Apache-2.0
"""Process group of a training that ``torchrun`` started: rank, device, shards, errors."""

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

from ...core.errors import InputError, first_line
from ...data.datalist import load_datalist

CONFIG = "configs/multi_gpu_train.yaml"
# Messages of gloo when another process ended.
LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Socket closed")


def rank() -> int:
    """Rank of this process in the process group; 0 without a group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes in the group; 1 without a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """True for the process that writes the files of the run."""
    return rank() == 0


def local_device() -> torch.device:
    """Return the GPU of this process, or the CPU without GPUs.

    Raises:
        InputError: when there are more processes than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= gpus:
        count = os.environ.get("LOCAL_WORLD_SIZE", local_rank + 1)
        raise InputError(
            f"torchrun started {count} processes on this machine, which has {gpus} GPU(s); "
            f"set --nproc_per_node={gpus}, or --device cpu"
        )
    return torch.device("cuda", local_rank)


def start(device: str | torch.device, backend: str | None = None, timeout: float = 7200.0) -> None:
    """Initialise the process group; afterwards only the first process logs more than warnings, and an error names its process.

    Args:
        device: device of this process.
        backend: "nccl" or "gloo"; None: NCCL for a GPU, else gloo.
        timeout: longest time that a process waits for the others, seconds; they wait while the first checks the data.

    Raises:
        InputError: when ``torchrun`` did not start this process, or the group cannot be initialised.
    """
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise InputError(
            f"{CONFIG}: is for several processes, which torchrun starts; run torchrun --nproc_per_node=2 -m monai.bundle run "
            "training … in place of python -m monai.bundle run training …, or leave out this file"
        )
    device = torch.device(device)
    backend = backend or ("nccl" if device.type == "cuda" else "gloo")
    if backend not in ("nccl", "gloo") or (backend == "nccl" and device.type != "cuda"):
        raise InputError(
            f"backend={backend!r}, device={device}: must be nccl for GPUs, gloo for any device, or null for the default"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    bound = {"device_id": device} if backend == "nccl" and device.index is not None else {}
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout), **bound)
    except Exception as error:  # of the network or of the backend
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise InputError(
            f"could not initialise the process group at {address} ({first_line(error)[:160]}); see docs/clusters.md"
        ) from None
    sys.excepthook = _report_rank
    if not is_main():
        logging.disable(logging.INFO)


def stop() -> None:
    """Destroy the process group at the end of a run."""
    logging.disable(logging.NOTSET)
    sys.excepthook = sys.__excepthook__
    if dist.is_initialized():
        dist.destroy_process_group()


def _report_rank(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error and, as the last line, its first cause and its process; ``torchrun`` prints its own report afterwards."""
    cause = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    name = f"process {rank()} of {world_size()} on {socket.gethostname()}"
    if any(words in str(cause) for words in LOST_PEER):
        print(f"{name}: another process ended, see its error", file=sys.stderr, flush=True)
        return
    traceback.print_exception(kind, error, trace)
    print(f"{name}: ended by {type(cause).__name__}: {first_line(cause)}", file=sys.stderr, flush=True)


def volumes_per_process(batch_size: int, slices_per_volume: int) -> int:
    """Return the number of volumes in a batch of one process.

    Args:
        batch_size: slices per step over all processes.
        slices_per_volume: slices drawn from a volume.

    Raises:
        InputError: when the volumes of a step cannot be shared equally.
    """
    volumes, count = max(batch_size // slices_per_volume, 1), world_size()
    if volumes % count:
        fitting = slices_per_volume * count * max(round(volumes / count), 1)
        raise InputError(
            f"batch_size={batch_size} with slices_per_volume={slices_per_volume}: {volumes} volume(s) per step cannot "
            f"be shared equally by {count} processes; set --batch_size {fitting} or another number of processes"
        )
    return volumes // count


def shard(items: Sequence[Any]) -> list[Any]:
    """Return this process's part of the items.

    With fewer items than processes, every process has all of them: MONAI's metrics would wait for a process without items, and a
    mean over all processes does not change.
    """
    if len(items) < world_size():
        return list(items)
    return list(items[rank() :: world_size()])


def load_shard(path: str, section: str) -> list[dict[str, str]]:
    """Return this process's part of a section of the datalist, see ``scripts.data.datalist.load_datalist`` and ``shard``."""
    return shard(load_datalist(path, section))


class NullSummaryWriter:
    """TensorBoard writer of the other processes: it accepts every call and writes nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def summary_writer(log_dir: str) -> Any:
    """Return TensorBoard's writer for a folder in the first process, ``NullSummaryWriter`` in the others."""
    if not is_main():
        return NullSummaryWriter()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir)
