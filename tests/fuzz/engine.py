"""Running a parser on mutated inputs: what was taken, refused, or a crash."""

from __future__ import annotations

import contextlib
import hashlib
import random
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType

from lookalike.cancellation import Cancellation, cancellable
from lookalike.errors import LookalikeError
from tests.fuzz.mutators import Mutator, mutate_bytes

_MAX_POOL = 300
_MAX_CRASHES = 20


class TooSlowError(BaseException):
    """An input took longer than its target may; no handler of errors catches this by mistake."""


@dataclass(frozen=True)
class Target:
    """A parser and how to attack it.

    Args:
        name: of the target.
        run: parses an input. It may raise LookalikeError and what ``refuses`` has.
        seeds: valid inputs to start from.
        mutate: makes other inputs of them.
        refuses: other documented exceptions.
        seconds: the longest that one input may take.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: Sequence[bytes]
    mutate: Mutator = mutate_bytes
    refuses: tuple[type[Exception], ...] = ()
    seconds: float = 5.0


@dataclass(frozen=True)
class Crash:
    """An input that a parser fails on, and how, in one line and as a traceback."""

    data: bytes
    reason: str
    detail: str

    @property
    def file_name(self) -> str:
        """A name for the input: the same for the same bytes."""
        return hashlib.sha256(self.data).hexdigest()[:16]


@dataclass
class Outcome:
    """What became of the inputs of a target."""

    target: str
    inputs: int = 0
    taken: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    crashes: list[Crash] = field(default_factory=list)
    crashed: int = 0
    slowest: float = 0.0

    def summary(self) -> str:
        """Return the figures in one line."""
        refused = ", ".join(f"{count:,} {name}" for name, count in self.refused.most_common())
        return (
            f"{self.target}: {self.inputs:,} inputs, {self.taken:,} taken, "
            f"{self.refused.total():,} refused ({refused or 'none'}), {self.crashed:,} crashes, "
            f"slowest {self.slowest * 1000:.0f} ms"
        )


def mutations(target: Target, count: int, seed: int = 0) -> Outcome:
    """Run a parser on its seeds and ``count`` mutations of them, the same ones for the same seed.

    Inputs that are refused in a new way are mutated further.
    """
    return _run(target, seed, lambda done: done < count)


def mutations_for(target: Target, seconds: float, seed: int = 0) -> Outcome:
    """Run a parser on mutations for some time."""
    end = time.monotonic() + seconds
    return _run(target, seed, lambda _: time.monotonic() < end)


def replay(target: Target, data: bytes) -> str:
    """Run one input; return how the parser fails on it, empty if it does not."""
    outcome = Outcome(target.name)
    _try(target, data, outcome)
    return outcome.crashes[0].detail if outcome.crashes else ""


on_input: Callable[[bytes], None] | None = None
"""Called with each input before it is run, to know which one ended the process."""


def _run(target: Target, seed: int, goes_on: Callable[[int], bool]) -> Outcome:
    rng = random.Random(f"{target.name} {seed}")
    pool = list(target.seeds)
    outcome = Outcome(target.name)
    ways = {_try(target, data, outcome) for data in target.seeds}
    done = 0
    while goes_on(done):
        done += 1
        # The seeds as often as what came of them, else mutations of mutations drift away.
        parent = rng.choice(target.seeds if rng.random() < 0.5 else pool)
        data = target.mutate(parent, rng, pool)
        way = _try(target, data, outcome)
        if way not in ways:
            ways.add(way)
            if len(pool) < _MAX_POOL:
                pool.append(data)
    return outcome


def _try(target: Target, data: bytes, outcome: Outcome) -> tuple[object, ...]:
    """Run one input and count what became of it; return the way it went."""
    if on_input is not None:
        on_input(data)
    started = time.perf_counter()
    failure: BaseException | None = None
    try:
        with _time_limit(target.seconds), cancellable(Cancellation(target.seconds)):
            target.run(data)
    except (Exception, TooSlowError, RecursionError) as error:  # noqa: BLE001 - what is looked for
        failure = error
    seconds = time.perf_counter() - started
    outcome.slowest = max(outcome.slowest, seconds)
    outcome.inputs += 1
    if failure is None and seconds <= target.seconds:
        outcome.taken += 1
        return ("taken",)
    way = _way(failure)
    slow = seconds > target.seconds
    if failure is not None and isinstance(failure, (LookalikeError, *target.refuses)) and not slow:
        outcome.refused[type(failure).__name__] += 1
        return way
    outcome.crashed += 1
    reason = f"{type(failure).__name__}: {failure}"[:200] if not slow else f"{seconds:.1f} s"
    known = {crash.reason.partition(":")[0] + str(way) for crash in outcome.crashes}
    if reason.partition(":")[0] + str(way) not in known and len(outcome.crashes) < _MAX_CRASHES:
        lines = traceback.format_exception(failure) if failure is not None else [reason]
        outcome.crashes.append(Crash(data, reason, "".join(lines)))
    return way


def _way(failure: BaseException | None) -> tuple[object, ...]:
    """Return where and as what an error was raised."""
    if failure is None:
        return ("slow",)
    frames = traceback.extract_tb(failure.__traceback__)[-2:]
    return (type(failure), *((frame.filename, frame.lineno) for frame in frames))


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Interrupt the block after twice the time; what is slower is reported anyway."""
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise TooSlowError(f"over {2 * seconds:g} s")

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 2 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
