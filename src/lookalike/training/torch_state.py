"""torch, imported with threads that sleep while they wait, and left as it was by what uses it.

OpenMP's threads, where they wait for each other, spin unless told not to. On a machine that does
anything else, the one that is waited for then gets no core: steps took twice as long. OpenMP reads
this when torch is first imported, so modules that may be the first to do so import this one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lookalike.process_state import default_environment

with default_environment(OMP_WAIT_POLICY="PASSIVE"):
    import torch


@contextmanager
def torch_state_restored() -> Iterator[None]:
    """Restore torch's number of threads and the state of its random numbers after the block.

    The latter is that of the CPU and, where the program has used them, of the GPUs.
    """
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpus = range(torch.cuda.device_count() if used else 0)
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(list(gpus)):
            yield
    finally:
        torch.set_num_threads(threads)


def seed_weights(seed: int) -> None:
    """Seed what first weights are drawn from.

    That is the CPU's generator alone: ``torch.manual_seed`` would also seed the GPUs, at once or
    when the program first uses them. What is drawn on a GPU has generators of its own.
    """
    torch.default_generator.manual_seed(seed)
