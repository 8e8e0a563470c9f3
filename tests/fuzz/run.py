"""Fuzz targets, each in a process of its own whose memory is limited."""

from __future__ import annotations

import argparse
import contextlib
import mmap
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz import engine
from tests.fuzz.engine import Crash, Outcome, mutations, mutations_for
from tests.fuzz.targets import CASES, TARGETS, target

MAX_MEMORY = 6_000_000_000
"""Bytes of addresses that a process may use; what its libraries map at once is about half."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz targets; return 1 if there was a crash."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="targets [default: all]")
    parser.add_argument("--list", action="store_true", help="list the targets")
    parser.add_argument("--seconds", type=float, default=600, help="time for each [default: 600]")
    parser.add_argument("--count", type=int, help="mutations of each, instead of a time")
    parser.add_argument("--seed", type=int, default=0, help="random seed [default: 0]")
    options = parser.parse_args(arguments)
    if options.list:
        sys.stdout.write("".join(f"{name}\n" for name in TARGETS))
        return 0
    unknown = [name for name in options.targets if name not in TARGETS]
    if unknown:
        parser.error(f"no target {unknown[0]}; list them with --list")
    crashed = 0
    for name in options.targets or TARGETS:
        outcome = fuzz(name, seconds=options.seconds, count=options.count, seed=options.seed)
        sys.stdout.write(outcome.summary() + "\n")
        for crash in outcome.crashes:
            path = CASES / name / crash.file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(crash.data)
            sys.stdout.write(f"  {crash.reason}\n    {path}\n")
        sys.stdout.flush()
        crashed += len(outcome.crashes)
    return 1 if crashed else 0


def fuzz(name: str, *, seconds: float, count: int | None = None, seed: int = 0) -> Outcome:
    """Fuzz one target in another process; if that is ended, its last input is a crash.

    Args:
        name: of the target.
        seconds: time for it, unless there is a ``count``.
        count: of mutations.
        seed: random seed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="lookalike-fuzz-") as folder:
        last = Path(folder) / "input"
        last.write_bytes(bytes(_LAST_BYTES))
        work = context.Process(target=_work, args=(name, seconds, count, seed, sender, last))
        work.start()
        sender.close()
        outcome = None
        with contextlib.suppress(EOFError):
            outcome = receiver.recv()
        work.join()
        if isinstance(outcome, Outcome):
            return outcome
        data = last.read_bytes()
    size = int.from_bytes(data[:_LENGTH], "big")
    if not size or work.exitcode == 1:  # not the parser: its exceptions are caught
        raise RuntimeError(f"{name}: the process ended with {work.exitcode}; see its traceback")
    reason = f"the process ended with {work.exitcode}"
    crash = Crash(data[_LENGTH : _LENGTH + size], reason, reason)
    return Outcome(name, crashes=[crash], crashed=1)


_LENGTH = 8
_LAST_BYTES = 1 << 20


def _work(name: str, seconds: float, count: int | None, seed: int, sender: Any, last: Path) -> None:
    with contextlib.suppress(ImportError):  # no such limits on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with last.open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:

        def note(data: bytes) -> None:
            shared[:_LENGTH] = len(data).to_bytes(_LENGTH, "big")
            shared[_LENGTH : _LENGTH + len(data)] = data

        engine.on_input = note
        chosen = target(name)
        if count is None:
            sender.send(mutations_for(chosen, seconds, seed))
        else:
            sender.send(mutations(chosen, count, seed))
