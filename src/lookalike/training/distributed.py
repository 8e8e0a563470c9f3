"""Data-parallel training on the processes that ``torchrun`` starts.

Each process reads the whole source and computes its shard of each batch, so that the number of
steps, the schedule and the learning rate are those of a single process. After each step all
processes hold the same weights, bit for bit: gradients, loss and the running statistics of batch
norm are averaged, weighted by shard size. Batch norm normalizes by the local shard only (torch's
SyncBatchNorm supports GPUs only, and a recipe must compute the same on every device).

Besides ``config.py`` this is the only module that reads the environment: ``torchrun`` passes rank
and world size to the processes through it, and torch reads most of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import lookalike.training.torch_state  # noqa: F401 - before torch is imported

# isort: split
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from lookalike.config import settings
from lookalike.errors import LookalikeError, SourceError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessGroup:
    """The processes that train together, as one of them sees them; by default a single process.

    Collective methods must be called by all processes in the same order. With one process they
    return their input.

    Args:
        rank: of this process, over all machines.
        world_size: number of processes, over all machines.
        local_rank: of this process on its machine.
        local_world_size: number of processes on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and reports progress."""
        return self.rank == 0

    @property
    def threads(self) -> int:
        """Threads for this process: ``LOOKALIKE_THREADS``, or its share of the machine's cores."""
        if self.local_world_size == 1 or os.environ.get("LOOKALIKE_THREADS"):
            return settings().threads
        return max(1, settings().threads // self.local_world_size)

    def device(self, name: str) -> str:
        """Return the device of this process: with several, ``cuda`` becomes ``cuda:LOCAL_RANK``."""
        return f"cuda:{self.local_rank}" if name == "cuda" and self.world_size > 1 else name

    def shard(self, rows: Tensor) -> Tensor:
        """Return this process's part of a batch; sizes differ by at most one row."""
        return rows[self._shard_slice(len(rows))]

    def all_gather(self, shard: Tensor, batch_size: int) -> Tensor:
        """Return the shards of all processes as one batch, with its gradient.

        Args:
            shard: ``(k, n, d)``, the n rows of this process.
            batch_size: number of rows of all processes together.

        Returns:
            ``(k, batch_size, d)``. A loss of it is the same on all processes; its gradients,
            averaged by :meth:`average_step`, are those of one process with the whole batch.
        """
        if self.world_size == 1:
            return shard
        part = self._shard_slice(batch_size)
        gathered: Tensor = _AllGather.apply(shard, part, batch_size)  # type: ignore[no-untyped-call]
        return gathered

    @torch.no_grad()
    def average_step(self, model: nn.Module, loss: Tensor, batch_size: int) -> float:
        """Average gradients and batch norm's running statistics in place; return the mean loss.

        Each process is weighted by its shard's part of the ``batch_size`` rows.
        """
        if self.world_size == 1:
            return loss.item()
        part = self._shard_slice(batch_size)
        statistics = ("running_mean", "running_var")
        tensors = [
            *(p.grad for p in model.parameters() if p.grad is not None),
            *(value for name, value in model.named_buffers() if name.endswith(statistics)),
            loss.detach(),
        ]
        weight = (part.stop - part.start) / batch_size
        flat = torch.cat([each.reshape(-1) for each in tensors]) * weight
        distributed.all_reduce(flat)
        averages = flat.split([each.numel() for each in tensors])
        for each, average in zip(tensors, averages, strict=True):
            each.copy_(average.view(each.shape))
        return loss.item()

    def all_reduce_sum(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the sum of the arrays of all processes."""
        if self.world_size == 1:
            return values
        total = torch.from_numpy(values)
        distributed.all_reduce(total)
        return np.asarray(total.numpy())

    def all_reduce_max(self, *values: float) -> tuple[float, ...]:
        """Return the maximum over all processes of each value."""
        if self.world_size == 1:
            return values
        maxima = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(maxima, distributed.ReduceOp.MAX)
        return tuple(maxima.tolist())

    @contextmanager
    def shared_errors(self) -> Iterator[None]:
        """Raise a :class:`LookalikeError` of one process on all of them at the end of the block."""
        own_error = None
        try:
            yield
        except LookalikeError as error:
            if self.world_size == 1:
                raise
            own_error = error
        messages = self._all_gather_object(own_error and str(own_error))
        if own_error is not None:
            raise own_error
        for rank, message in enumerate(messages):
            if message is not None:
                raise LookalikeError(f"process {rank} of {self.world_size}: {message}")

    def broadcast(self, make: Callable[[], T]) -> T:
        """Call ``make`` on the main process only; return its result, or raise its error, on all."""
        result = None
        with self.shared_errors():
            result = make() if self.is_main else None
        results = [result]
        if self.world_size > 1:
            distributed.broadcast_object_list(results)
        return results[0]  # type: ignore[return-value]

    def check_same_data(self, digest: str) -> None:
        """Check that all processes have read the same images.

        Raises:
            SourceError: their digests differ.
        """
        if len(set(self._all_gather_object(digest))) > 1:
            raise SourceError(
                f"the {self.world_size} processes have read different images; give each the same "
                "source"
            )

    def _shard_slice(self, batch_size: int) -> slice:
        size, larger = divmod(batch_size, self.world_size)
        start = self.rank * size + min(self.rank, larger)
        return slice(start, start + size + (self.rank < larger))

    def _all_gather_object(self, value: T) -> list[T]:
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values


class _AllGather(torch.autograd.Function):
    """``(k, n, d)`` of each process to ``(k, batch_size, d)``."""

    @staticmethod
    def forward(ctx: Any, shard: Tensor, part: slice, batch_size: int) -> Tensor:
        ctx.part, ctx.batch_size = part, batch_size
        batch = shard.new_zeros(shard.shape[0], batch_size, shard.shape[2])
        batch[:, part] = shard
        distributed.all_reduce(batch)
        return batch

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # Each process computes the whole loss, so no other one holds a part of this gradient.
        # average_step will weight it by shard size; scaling by the inverse makes shards add up.
        part: slice = ctx.part
        return gradient[:, part] * (ctx.batch_size / (part.stop - part.start)), None, None


SINGLE_PROCESS = ProcessGroup()


def current_group() -> ProcessGroup:
    """Return the group that this process has joined, or itself alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return SINGLE_PROCESS
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    if world_size == 1:
        return SINGLE_PROCESS
    return ProcessGroup(
        rank=rank,
        world_size=world_size,
        local_rank=distributed.get_node_local_rank(0),
        local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
    )


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Join the other processes for the block, if ``torchrun`` started this one.

    A group that the program has joined before, as in a nested block, is used and left as it is.
    """
    launched = distributed.is_available() and distributed.is_torchelastic_launched()
    if not launched or distributed.is_initialized():
        yield current_group()
        return
    # Errors, flags and preparations are on the CPU and use gloo even when training on GPUs.
    # A missing GPU is reported later, when the options are checked.
    gpu = device.partition(":")[0] == "cuda" and torch.cuda.is_available()
    distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
    try:
        yield current_group()
    finally:
        distributed.destroy_process_group()
