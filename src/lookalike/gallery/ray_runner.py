"""Ingest on a Ray cluster: one actor for each core, or each GPU, of its machines.

The driver lists the source and hands out chunks of items, a few to each actor. An actor opens
images by their uris, which must be readable on its machine. It writes rows to Milvus itself, or
returns them to the driver, which writes them. An actor that crashes, with its machine or because of
an image, is replaced, and its chunks are processed again; rows are replaced by id, so that none is
duplicated.
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
from lookalike.config import lookalike_variables, settings
from lookalike.encoders.external import has_function
from lookalike.encoders.persistence import encoder_files
from lookalike.errors import (
    LookalikeError,
    SettingError,
    UnreachableError,
    requiring,
)
from lookalike.gallery.ingest import EncodeTask, ExistingRows, ItemResult
from lookalike.gallery.ray_driver import preserve_driver_state, starting
from lookalike.gallery.ray_worker import ItemPayload, Worker, WorkerConfig, join_embeddings
from lookalike.sources import Item
from lookalike.stores.base import VectorStore
from lookalike.stores.milvus.store import MilvusStore

_CHUNKS_PER_ACTOR = 2
"""Chunks that an actor has at a time: the one it works on, and the next."""

_CHUNKS_AHEAD = 4
"""Chunks per actor that may be finished before the one that is waited for."""

_MAX_CRASHES = 3
"""Crashes over a chunk before its images are tried one by one, and then over one image."""

_NO_ACTOR_S = 120.0
_POLL_S = 1.0
_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class RayRunner:
    """Runs tasks on a Ray cluster.

    Args:
        address: Ray's: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``; by default a cluster is
            started on this machine.
        workers: maximum number of actors; by default one for each core of the cluster, or each GPU
            where LOOKALIKE_DEVICE is ``cuda``.
        chunk_size: items handed out together.
    """

    address: str | None = None
    workers: int | None = None
    chunk_size: int = 128

    def run(
        self, task: EncodeTask, chunks: Iterable[Sequence[Item]], store: VectorStore | None
    ) -> Iterator[list[ItemResult]]:
        """Yield the results of each chunk, in order.

        Raises:
            MissingDependencyError: Ray is not installed.
            UnreachableError: the cluster does not answer, or has no free cores.
            SettingError: a machine has another version of lookalike, or the encoder is a function,
                which is not sent to others.
        """
        assert task.encoder is not None
        if has_function(task.encoder):
            raise SettingError(
                f"encoder {task.encoder.name!r} is made of a function, which cannot be sent to the "
                "machines of a Ray cluster; encode without {runner}",
                runner=None,
            )
        existing = task.existing
        moved = {row_id: existing.rows[row_id] for row_id in existing.moved_from.values()}
        config = WorkerConfig(
            encoder_files(task.encoder),
            {**lookalike_variables(), "LOOKALIKE_THREADS": "1"},
            replace(existing, rows=moved),
            task.columns,
            store.address if isinstance(store, MilvusStore) else None,
        )
        ray = _import_ray()
        with preserve_driver_state():
            yield from self._run(ray, existing, chunks, config)

    def _run(
        self,
        ray: Any,
        existing: ExistingRows,
        chunks: Iterable[Sequence[Item]],
        config: WorkerConfig,
    ) -> Iterator[list[ItemResult]]:
        _connect(ray, self.address)
        try:
            pool = _ActorPool(ray, config, self._actor_count(ray))
            try:
                yield from pool.results(existing, chunks)
            finally:
                pool.shutdown()
        finally:
            ray.shutdown()

    def _actor_count(self, ray: Any) -> int:
        device = _device()
        available = int(ray.cluster_resources().get(device, 0))
        if available < 1:
            raise UnreachableError(f"the Ray cluster {self.address or ''} has no free {device}")
        return min(available, self.workers or available)


def _device() -> str:
    return "GPU" if settings().device == "cuda" else "CPU"


def _import_ray() -> Any:
    """Return the module ray.

    Raises:
        MissingDependencyError: it is not installed.
    """
    with requiring("ray", "the Ray runner", "scale"), starting():
        import ray
    return ray


def _connect(ray: Any, address: str | None) -> None:
    """Connect to a cluster, or start one on this machine.

    Raises:
        UnreachableError: no cluster answers at the address.
    """
    _check_port(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"include_dashboard": False, "num_cpus": settings().threads}
    try:
        with starting():
            ray.init(address=address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        if any("InvalidAuthToken" in str(each) for each in _chain(error)):
            raise UnreachableError(
                "{address}: this Ray cluster requires a token; set RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN (printed on the cluster by: ray get-auth-token)",
                address=address,
            ) from error
        raise _no_cluster(address, error) from error


def _check_port(address: str | None) -> None:
    """Check that something listens at an address with a port: Ray takes long to find out.

    Raises:
        UnreachableError: nothing does.
    """
    host, _, port = (address or "").rpartition("//")[2].rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str | None, error: Exception) -> UnreachableError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if address is None:
        return UnreachableError(f"Ray does not start on this machine ({reason})")
    return UnreachableError(
        f"{{address}}: no Ray cluster answers ({reason}); start one with: ray start --head, or "
        "remove the address to use this machine alone",
        address=address,
    )


@dataclass(slots=True)
class _Chunk:
    """Items handed out together: a part of chunk ``number`` that begins at ``start``."""

    number: int
    start: int
    payloads: Sequence[ItemPayload]
    crashes: int = 0

    @property
    def weight(self) -> int:
        """How much of an actor it takes; what has crashed one is processed alone."""
        return _CHUNKS_PER_ACTOR if self.crashes else 1


class _ActorPool:
    """Actors, and the chunks that they work on."""

    def __init__(self, ray: Any, config: WorkerConfig, count: int) -> None:
        self._ray = ray
        self._config = ray.put(config)
        resources = {"num_gpus": 1} if _device() == "GPU" else {"num_cpus": 1}
        self._actor_class = ray.remote(**resources, max_restarts=0)(Worker)
        self._count = count
        self._starting: dict[Any, Any] = {}  # actors by the call that they answer first
        self._load: dict[Any, int] = {}  # chunks by actor
        self._running: dict[Any, tuple[_Chunk, Any]] = {}  # chunks and actors by call
        self._queue: deque[_Chunk] = deque()
        self._results: dict[int, list[ItemResult | None]] = {}  # by number of the chunk
        self._failed_starts = 0
        self._last_actor = time.monotonic()
        for _ in range(count):
            self._start_actor()

    def results(
        self, existing: ExistingRows, chunks: Iterable[Sequence[Item]]
    ) -> Iterator[list[ItemResult]]:
        """Yield the results of each chunk, in order."""
        numbered = enumerate(chunks)
        first, more, max_open = 0, True, _CHUNKS_AHEAD * self._count
        while more or self._results:
            while more and len(self._queue) < self._count and len(self._results) < max_open:
                number, items = next(numbered, (0, None))
                more = items is not None
                if items is not None:
                    self._results[number] = [None] * len(items)
                    payloads = [ItemPayload.of(item, existing) for item in items]
                    self._queue.append(_Chunk(number, 0, payloads))
            self._assign()
            if self._results:
                self._collect()
            while first in self._results and None not in self._results[first]:
                yield [result for result in self._results.pop(first) if result is not None]
                first += 1

    def shutdown(self) -> None:
        """End all actors."""
        for actor in {*self._starting.values(), *self._load}:
            self._ray.kill(actor)

    def _start_actor(self) -> None:
        actor = self._actor_class.remote()
        self._starting[actor.hello.remote()] = actor

    def _assign(self) -> None:
        """Hand out chunks, each to the actor with the fewest."""
        while self._queue and self._load:
            actor = min(self._load, key=lambda each: self._load[each])
            if self._load[actor] + self._queue[0].weight > _CHUNKS_PER_ACTOR:
                return
            chunk = self._queue.popleft()
            self._running[actor.process.remote(chunk.payloads)] = chunk, actor
            self._load[actor] += chunk.weight

    def _collect(self) -> None:
        """Take the results of actors; chunks of crashed ones are queued again.

        Raises:
            LookalikeError: what an actor raised.
            UnreachableError: there has been no actor for two minutes, or all crash on start.
        """
        calls = [*self._starting, *self._running]
        ready, _ = self._ray.wait(calls, num_returns=1, timeout=_POLL_S)
        for call in ready:
            try:
                answer = self._ray.get(call)
            except self._ray.exceptions.RayTaskError as error:
                raise _cause(error) from error
            except self._ray.exceptions.RayError as error:
                if call in self._starting:
                    self._handle_failed_start(call, error)
                else:
                    self._handle_crash(call)
                continue
            if call in self._starting:
                self._continue_start(call, answer)
                continue
            chunk, actor = self._running.pop(call)
            if actor in self._load:
                self._load[actor] -= chunk.weight
            self._store_results(chunk, join_embeddings(*answer))
        if self._load:
            self._last_actor = time.monotonic()
        elif time.monotonic() - self._last_actor > _NO_ACTOR_S:
            raise UnreachableError(
                f"the Ray cluster has started no worker for {_NO_ACTOR_S:.0f} s; check with "
                f"ray status that it has a free {_device()}"
            )

    def _store_results(self, chunk: _Chunk, results: Sequence[ItemResult]) -> None:
        self._results[chunk.number][chunk.start : chunk.start + len(results)] = results

    def _continue_start(self, call: Any, answer: tuple[str, str] | None) -> None:
        """Check an actor's version and have it prepare; a prepared one can take chunks."""
        actor = self._starting.pop(call)
        if answer is None:
            self._load[actor] = 0
            self._failed_starts = 0
            return
        version, machine = answer
        if version != __version__:
            raise SettingError(
                f"{machine}: has lookalike {version}, this machine has {__version__}; install the "
                "same version on all machines of the cluster"
            )
        self._starting[actor.prepare.remote(self._config)] = actor

    def _handle_failed_start(self, call: Any, error: Exception) -> None:
        """Replace an actor that crashed before it could take chunks."""
        del self._starting[call]
        self._failed_starts += 1
        if self._failed_starts >= _MAX_CRASHES * self._count and not self._load:
            raise UnreachableError(
                f"workers of the Ray cluster crash on start ({_last_line(error)}); check that "
                "lookalike is installed on all its machines"
            ) from error
        self._start_actor()

    def _handle_crash(self, call: Any) -> None:
        """Replace an actor that crashed; a chunk that crashes several is halved."""
        actor = self._running[call][1]
        calls = [each for each, (_, other) in self._running.items() if other is actor]
        chunk, *not_begun = [self._running.pop(each)[0] for each in calls]
        self._queue.extendleft(reversed(not_begun))
        if self._load.pop(actor, None) is not None:
            self._start_actor()
        chunk.crashes += 1
        if chunk.crashes < _MAX_CRASHES:
            self._queue.appendleft(chunk)
        elif len(chunk.payloads) > 1:
            middle = len(chunk.payloads) // 2
            halves = ((middle, chunk.payloads[middle:]), (0, chunk.payloads[:middle]))
            for start, payloads in halves:
                crashes = _MAX_CRASHES - 1 if len(payloads) > 1 else 1
                self._queue.appendleft(_Chunk(chunk.number, chunk.start + start, payloads, crashes))
        else:
            [payload] = chunk.payloads
            reason = f"the process that read it crashed {_MAX_CRASHES} times"
            self._store_results(chunk, [payload.failed(reason)])


def _cause(error: Any) -> Exception:
    """Return the error of lookalike that an actor raised, or Ray's own."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, LookalikeError) else error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
