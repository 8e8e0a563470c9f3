"""Work of ingest on a Ray cluster: one actor for each core, or each GPU, of its machines.

The source is listed here and handed out in pieces, a few to each actor. An actor opens images by
their uris, so that they must be where it runs too, and its rows go straight into Milvus, or come
back to be written here. An actor that is lost, with its machine or by an image, is replaced, and
its pieces are done again by others: rows are replaced by id, so that nothing is there twice.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lookalike._version import __version__
from lookalike.config import forwarded, settings
from lookalike.encoders.base import encoder_files
from lookalike.errors import (
    LookalikeError,
    MissingDependencyError,
    SettingError,
    UnreachableError,
)
from lookalike.gallery.ingest import EncodeTask, ExistingRows, ItemResult
from lookalike.gallery.ray_driver import driver_restored, starting
from lookalike.gallery.ray_worker import ItemPayload, Worker, WorkerConfig, whole
from lookalike.sources import Item
from lookalike.stores.base import VectorStore
from lookalike.stores.milvus.store import MilvusStore

_UNDER_WAY = 2
"""Pieces that an actor has at a time: one it works on, and the next."""

_AHEAD = 4
"""Pieces for each actor that may be done before the one that is waited for."""

_LOSSES = 3
"""Actors that a piece may cost before its images are tried one by one, and then one of these."""

_NO_ACTOR_S = 120.0
_LOOK_S = 1.0
_REACH_S = 5.0


@dataclass(frozen=True, slots=True)
class RayRunner:
    """The machines of a Ray cluster, or this one if no address is given.

    ``address`` is Ray's: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``. ``workers`` are actors at
    most; as many as the cluster has cores, or GPUs where LOOKALIKE_DEVICE is ``cuda``, unless
    given.
    """

    address: str | None = None
    workers: int | None = None
    piece: int = 128

    def run(
        self, work: EncodeTask, pieces: Iterable[Sequence[Item]], store: VectorStore | None
    ) -> Iterator[list[ItemResult]]:
        """Yield what became of each piece, in their order.

        Raises:
            MissingDependencyError: Ray is not installed.
            UnreachableError: the cluster does not answer, or has no free cores.
            SettingError: a machine has another version of lookalike.
        """
        if work.encoder is None:
            raise SettingError("--runner ray: nothing is encoded in a dry run; leave it out")
        address = store.address if isinstance(store, MilvusStore) else None
        gone = {row: work.known.rows[row] for row in work.known.gone.values()}
        shared = WorkerConfig(
            encoder_files(work.encoder),
            {**forwarded(), "LOOKALIKE_THREADS": "1"},
            replace(work.known, rows=gone),
            address,
        )
        ray = _imported()
        with driver_restored():
            yield from self._run(ray, work.known, pieces, shared)

    def _run(
        self, ray: Any, known: ExistingRows, pieces: Iterable[Sequence[Item]], shared: WorkerConfig
    ) -> Iterator[list[ItemResult]]:
        _connect(ray, self.address)
        try:
            crew = _ActorPool(ray, shared, self._count(ray))
            try:
                yield from crew.results(known, pieces)
            finally:
                crew.dismiss()
        finally:
            ray.shutdown()

    def _count(self, ray: Any) -> int:
        device = _resource()
        there = int(ray.cluster_resources().get(device, 0))
        if there < 1:
            raise UnreachableError(f"the Ray cluster {self.address or ''} has no {device} to give")
        return min(there, self.workers or there)


def _resource() -> str:
    return "GPU" if settings().device == "cuda" else "CPU"


def _imported() -> Any:
    """Return Ray.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        with starting():
            import ray
    except ModuleNotFoundError:
        raise MissingDependencyError("ray", "--runner ray", "scale") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    """Connect to a cluster, or start one on this machine.

    Raises:
        UnreachableError: there is none at the address.
    """
    _check_reachable(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"include_dashboard": False, "num_cpus": settings().threads}
    try:
        with starting():
            ray.init(address=address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        if any("InvalidAuthToken" in str(each) for each in _chain(error)):
            raise UnreachableError(
                f"--address {address}: this Ray cluster asks for its token; set "
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to it (ray get-auth-token says it on the "
                "cluster)"
            ) from error
        raise _no_cluster(address, error) from error


def _check_reachable(address: str | None) -> None:
    """See that something listens at an address with a port, since Ray takes long to say so.

    Raises:
        UnreachableError: nothing does.
    """
    host, _, port = (address or "").rpartition("//")[2].rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_S).close()
    except OSError as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str | None, error: Exception) -> UnreachableError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if address is None:
        return UnreachableError(f"--runner ray: Ray does not start on this machine ({reason})")
    return UnreachableError(
        f"--address {address}: no Ray cluster answers there ({reason}); start one with "
        "ray start --head, or leave --address out for this machine alone"
    )


@dataclass(slots=True)
class _Piece:
    """Items handed out together: of which piece, from where in it, and actors lost over them."""

    number: int
    start: int
    sent: Sequence[ItemPayload]
    losses: int = 0


class _ActorPool:
    """Actors, and the pieces that they are working on."""

    def __init__(self, ray: Any, shared: WorkerConfig, count: int) -> None:
        self._ray = ray
        self._shared = ray.put(shared)
        resources = {"num_gpus": 1} if _resource() == "GPU" else {"num_cpus": 1}
        self._kind = ray.remote(**resources, max_restarts=0)(Worker)
        self._count = count
        self._starting: dict[Any, Any] = {}
        self._idle: dict[Any, int] = {}
        self._doing: dict[Any, tuple[_Piece, Any]] = {}
        self._waiting: deque[_Piece] = deque()
        self._parts: dict[int, list[ItemResult | None]] = {}
        self._failures = 0
        self._seen = time.monotonic()
        for _ in range(count):
            self._start_actor()

    def results(
        self, known: ExistingRows, pieces: Iterable[Sequence[Item]]
    ) -> Iterator[list[ItemResult]]:
        """Yield what became of each piece, in their order."""
        numbered = enumerate(pieces)
        first, more, most = 0, True, _AHEAD * self._count
        while more or self._parts:
            while more and len(self._waiting) < self._count and len(self._parts) < most:
                number, items = next(numbered, (0, None))
                more = items is not None
                if items is not None:
                    self._parts[number] = [None] * len(items)
                    self._waiting.append(
                        _Piece(number, 0, [ItemPayload.of(item, known) for item in items])
                    )
            self._hand_out()
            if self._parts:
                self._look()
            while first in self._parts and None not in self._parts[first]:
                yield [done for done in self._parts.pop(first) if done is not None]
                first += 1

    def dismiss(self) -> None:
        """End all actors."""
        for actor in {*self._starting.values(), *self._idle}:
            self._ray.kill(actor)

    def _start_actor(self) -> None:
        actor = self._kind.remote()
        self._starting[actor.hello.remote()] = actor

    def _hand_out(self) -> None:
        """Give pieces to the actors that have the fewest."""
        while self._waiting and self._idle:
            actor = min(self._idle, key=lambda each: self._idle[each])
            if self._idle[actor] >= (1 if self._waiting[0].losses else _UNDER_WAY):
                return
            piece = self._waiting.popleft()
            self._doing[actor.do.remote(piece.sent)] = piece, actor
            self._idle[actor] += _UNDER_WAY if piece.losses else 1  # what may end it goes alone

    def _look(self) -> None:
        """Take up what actors have done; what lost ones were doing waits again.

        Raises:
            LookalikeError: what an actor raised.
            UnreachableError: there has been no actor for two minutes, or they end as they start.
        """
        there = [*self._starting, *self._doing]
        ready, _ = self._ray.wait(there, num_returns=1, timeout=_LOOK_S)
        for reference in ready:
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                raise _cause(error) from error
            except self._ray.exceptions.RayError as error:
                self._lost(reference, error)
                continue
            if reference in self._starting:
                self._started(reference, answer)
                continue
            piece, actor = self._doing.pop(reference)
            if actor in self._idle:
                self._idle[actor] -= _UNDER_WAY if piece.losses else 1
            self._take_up(piece, whole(*answer))
        if self._idle:
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > _NO_ACTOR_S:
            raise UnreachableError(
                f"the Ray cluster has started no worker for {_NO_ACTOR_S:.0f} s; see whether it "
                f"has a free {_resource()} (ray status)"
            )

    def _take_up(self, piece: _Piece, found: Sequence[ItemResult]) -> None:
        self._parts[piece.number][piece.start : piece.start + len(found)] = found

    def _started(self, reference: Any, answer: tuple[str, str] | None) -> None:
        """Have an actor of this version prepared; one that is prepared gets pieces."""
        actor = self._starting.pop(reference)
        if answer is None:
            self._idle[actor] = 0
            self._failures = 0
            return
        version, machine = answer
        if version != __version__:
            raise SettingError(
                f"{machine}: has lookalike {version}, here is {__version__}; install the "
                "same on all machines of the cluster"
            )
        self._starting[actor.prepare.remote(self._shared)] = actor

    def _lost(self, reference: Any, error: Exception) -> None:
        """Replace an actor that is lost. What costs several is tried in halves."""
        if reference in self._starting:
            del self._starting[reference]
            self._failures += 1
            if self._failures >= _LOSSES * self._count and not self._idle:
                raise UnreachableError(
                    f"workers of the Ray cluster end as they start ({_last_line(error)}); is "
                    "lookalike installed on all its machines?"
                ) from error
            self._start_actor()
            return
        actor = self._doing[reference][1]
        its = [each for each, (_, other) in self._doing.items() if other is actor]
        piece, *later = [self._doing.pop(each)[0] for each in its]
        self._waiting.extendleft(reversed(later))  # it had not begun these
        if self._idle.pop(actor, None) is not None:
            self._start_actor()
        piece.losses += 1
        if piece.losses < _LOSSES:
            self._waiting.appendleft(piece)
        elif len(piece.sent) > 1:
            middle = len(piece.sent) // 2
            for start, sent in ((middle, piece.sent[middle:]), (0, piece.sent[:middle])):
                losses = _LOSSES - 1 if len(sent) > 1 else 1
                half = _Piece(piece.number, piece.start + start, sent, losses)
                self._waiting.appendleft(half)
        else:
            [one] = piece.sent
            reason = f"the process that read it ended {_LOSSES} times"
            self._take_up(piece, [one.failed(reason)])


def _cause(error: Any) -> Exception:
    """Return the error of lookalike that an actor raised, or what Ray says of another."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, LookalikeError) else error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
