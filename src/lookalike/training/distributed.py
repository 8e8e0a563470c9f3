"""Training on several processes that torch's own launcher started (``torchrun``).

Each process reads the source itself and takes its share of each batch of the recipe, so that steps,
schedule and learning rate are those of one process. After each step all processes have the same
weights, bit for bit: gradients, the loss and the running statistics of batch norm are averaged over
them, by their shares. Batch norm itself sees the process's share of a batch alone (torch's
SyncBatchNorm knows GPUs only, and a recipe is to be the same thing everywhere).

This is the other place besides ``config.py`` where the environment is read: ``torchrun`` speaks to
the processes through it, and torch itself reads most of it.
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


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes that train together, as one of them sees it; alone unless told.

    What all of them call, they call in the same order. With one process each method gives back
    what it was given.

    Args:
        rank: which one this is, from 0 on over all machines.
        count: how many there are.
        local_rank: which one this is on its machine.
        local_count: how many there are on this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes, and speaks."""
        return self.rank == 0

    @property
    def threads(self) -> int:
        """Threads for this process: what was set, or its share of the machine's cores."""
        if self.local_count == 1 or os.environ.get("LOOKALIKE_THREADS"):
            return settings().threads
        return max(1, settings().threads // self.local_count)

    def device(self, name: str) -> str:
        """Return this process's device: of several GPUs, ``cuda`` is one for each process."""
        return f"cuda:{self.local_rank}" if name == "cuda" and self.count > 1 else name

    def share(self, rows: Tensor) -> Tensor:
        """Return this process's part of the rows of a batch; parts differ by one row at most."""
        return rows[self._part(len(rows))]

    def gathered(self, own: Tensor, of: int) -> Tensor:
        """Return what all processes have of a batch of ``of`` rows, with its gradient.

        Args:
            own: ``(k, n, d)``, of the n rows that are this process's share.
            of: how many rows all have.

        Returns:
            ``(k, of, d)``. A loss of it is the same on all processes; its gradients, averaged by
            :meth:`averaged`, are those of one process that has all rows.
        """
        if self.count == 1:
            return own
        gathered: Tensor = _Gathered.apply(own, self._part(of), of)  # type: ignore[no-untyped-call]
        return gathered

    @torch.no_grad()
    def averaged(self, model: nn.Module, loss: Tensor, of: int) -> float:
        """Average gradients and running statistics, in place, and the loss, which is returned.

        ``of`` are the rows of the whole batch: each process counts by its share of them.
        """
        if self.count == 1:
            return loss.item()
        part = self._part(of)
        statistics = ("running_mean", "running_var")
        tensors = [
            *(p.grad for p in model.parameters() if p.grad is not None),
            *(value for name, value in model.named_buffers() if name.endswith(statistics)),
            loss.detach(),
        ]
        flat = torch.cat([each.reshape(-1) for each in tensors]) * ((part.stop - part.start) / of)
        distributed.all_reduce(flat)
        parts = flat.split([each.numel() for each in tensors])
        for each, values in zip(tensors, parts, strict=True):
            each.copy_(values.view(each.shape))
        return loss.item()

    def summed(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the sum of all processes' arrays, each zero where another one has computed."""
        if self.count == 1:
            return values
        total = torch.from_numpy(values)
        distributed.all_reduce(total)
        return np.asarray(total.numpy())

    def most(self, *values: float) -> tuple[float, ...]:
        """Return the largest that any process says of each value."""
        if self.count == 1:
            return values
        said = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(said, distributed.ReduceOp.MAX)
        return tuple(said.tolist())

    @contextmanager
    def together(self) -> Iterator[None]:
        """Raise on all processes what any of them raises in the block."""
        failed = None
        try:
            yield
        except LookalikeError as error:
            if self.count == 1:
                raise
            failed = error
        said = self._everyones(failed and str(failed))
        if failed is not None:
            raise failed
        for number, text in enumerate(said):
            if text is not None:
                raise LookalikeError(f"process {number} of {self.count}: {text}")

    def from_first(self, make: Callable[[], T]) -> T:
        """Return on all processes what the first one makes, or raise what it raises."""
        made = None
        with self.together():
            made = make() if self.first else None
        listed = [made]
        if self.count > 1:
            distributed.broadcast_object_list(listed)
        return listed[0]  # type: ignore[return-value]

    def check_data(self, identity: str) -> None:
        """See that all processes have read the same images.

        Raises:
            SourceError: they have not.
        """
        if len(set(self._everyones(identity))) > 1:
            raise SourceError(
                f"the {self.count} processes have read different images; give each the same source"
            )

    def _part(self, of: int) -> slice:
        whole, more = divmod(of, self.count)
        start = self.rank * whole + min(self.rank, more)
        return slice(start, start + whole + (self.rank < more))

    def _everyones(self, value: T) -> list[T]:
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values


class _Gathered(torch.autograd.Function):
    """``(k, n, d)`` of each process put together to ``(k, of, d)``."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, part: slice, of: int) -> Tensor:
        ctx.part, ctx.of = part, of
        whole = own.new_zeros(own.shape[0], of, own.shape[2])
        whole[:, part] = own
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # The loss is whole on each process, so nobody else holds a part of this gradient. It is
        # averaged by shares later on, where the parts of one process are to add up instead.
        part: slice = ctx.part
        return gradient[:, part] * (ctx.of / (part.stop - part.start)), None, None


ALONE = Processes()


def current() -> Processes:
    """Return the processes that this one has joined, or itself alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return ALONE
    rank, count = distributed.get_rank(), distributed.get_world_size()
    if count == 1:
        return ALONE
    local_count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Processes(rank, count, distributed.get_node_local_rank(0), local_count)


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the other processes while the block runs, if ``torchrun`` started this one.

    Within a block of one's own, or where the program has joined them already, nothing is joined
    and nothing left.
    """
    launched = distributed.is_available() and distributed.is_torchelastic_launched()
    if not launched or distributed.is_initialized():
        yield current()
        return
    # What is on the CPU goes through gloo on GPUs too: errors, flags, the preparations. Where there
    # is no GPU the device is refused later, with what to do.
    gpu = device.partition(":")[0] == "cuda" and torch.cuda.is_available()
    distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
    try:
        yield current()
    finally:
        distributed.destroy_process_group()
