"""Import torch with threads that sleep while they wait, and restore its global state after use.

OpenMP threads spin while they wait for each other, by default. On a machine that runs anything
else, the thread that is waited for then gets no core: training steps took twice as long. OpenMP
reads the setting when torch is first imported, so modules that may import torch first import this
module before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lookalike.process_state import default_environment

with default_environment(OMP_WAIT_POLICY="PASSIVE"):
    import torch


@contextmanager
def preserve_torch_state() -> Iterator[None]:
    """Restore torch's number of threads and the state of its random generators after the block.

    These are the generator of the CPU and, if the program has used them, those of the GPUs.
    """
    gpus_used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpus = range(torch.cuda.device_count() if gpus_used else 0)
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(list(gpus)):
            yield
    finally:
        torch.set_num_threads(threads)


def seed_weights(seed: int) -> None:
    """Seed the generator of initial weights, that of the CPU.

    ``torch.manual_seed`` would also seed the GPUs, at once or when the program first uses them.
    Random numbers on a GPU come from separate generators.
    """
    torch.default_generator.manual_seed(seed)
