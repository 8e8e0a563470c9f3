"""A pool of decoder processes with limits on time and memory.

A file that crashes, hangs or bloats its decoder fails only its own request: the process is killed
and replaced. So is one that was killed from outside, and its file is decoded again. Clients take
turns by the time that their images took so far. Of large images, which may take some 800 MB each,
one is decoded at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from enum import IntEnum
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np

from lookalike.cancellation import check_cancelled
from lookalike.errors import CancelledError, ImageError
from lookalike.images.formats import upload_formats
from lookalike.images.options import DEFAULT_OPTIONS, DecodeOptions
from lookalike.server import messages
from lookalike.server.admission import FairSlots, SharedBytes, current_client
from lookalike.server.decoder_process import MAX_SIDE
from lookalike.server.fair_queue import FairQueue
from lookalike.server.problems import too_many_requests
from lookalike.types import ImageArray

T = TypeVar("T")

_BUFFER = 1 << 20
_MAX_HEADER = 1 << 16
_MAX_PAYLOAD = 256 << 20

_CRASH_ERRORS = (EOFError, OSError, ValueError, KeyError, TypeError)
"""Raised when a decoder dies or sends an invalid response."""

_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "262144",  # a large image's memory is returned after it
}

_SECRET = re.compile("TOKEN|SECRET|PASSW|CREDENTIAL|_KEY", re.IGNORECASE)
"""In names of environment variables that decoders do not get."""

_ATTEMPTS = 2
"""Decoders that a file may crash: the first one may have been killed for another reason."""

_GRACE_SECONDS = 1.0
"""How long a decoder may go on with a request that was cancelled, before it is replaced."""

_POLL_SECONDS = 0.25
"""How often a waiting request looks whether it was cancelled."""

_EXPECTED_SECONDS = 0.02
_RESTART_SECONDS = 0.5
"""What a client is charged while its request runs, and for a decoder that had to be replaced."""

_SLOW_SECONDS = 0.25
_SLOW_DECAY = 0.8
_REMEMBERED = 1_000
"""A client is slow after an image that took so long, for some images. Slow clients together leave
a decoder to others."""

_IDLE_SECONDS = 60.0
"""After so long without work all decoders but one are ended: each takes some 37 MB."""

_MEDIA_TYPES = ("image/jpeg", "image/png", "image/webp")

UPLOAD_MEGAPIXELS = 50
"""Largest image in an upload or from a URL."""


def upload_options() -> DecodeOptions:
    """Return how files of strangers are decoded: few formats, up to 50 megapixels.

    Raises:
        SettingError: ``LOOKALIKE_FORMATS`` names an unknown format.
    """
    return DecodeOptions(max_megapixels=UPLOAD_MEGAPIXELS, formats=upload_formats())


def _environment() -> dict[str, str]:
    """Return the variables of a decoder, which has no use for tokens and passwords."""
    inherited = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
    return inherited | _ENVIRONMENT


class Priority(IntEnum):
    """Which images of one client are decoded first."""

    QUERY = 0
    THUMBNAIL = 1
    BATCH = 2


class _Budget:
    """The time that decoding the images of one request may still take together."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.left = seconds

    def check(self, name: str) -> None:
        """Return if there is time left for an image.

        Raises:
            ImageError: there is none.
        """
        if self.left <= 0:
            raise ImageError(
                f"{name}: not decoded, since the images before it in this request took "
                f"{self.seconds:g} s together, the limit; send fewer or smaller ones"
            )


_batch: ContextVar[_Budget | None] = ContextVar("lookalike-batch", default=None)


@contextlib.contextmanager
def decoding_batch(seconds: float) -> Iterator[None]:
    """Let the images that this block asks for be decoded last among those of their client.

    Args:
        seconds: of the decoders' processors, for all of them; further images are errors.
    """
    token = _batch.set(_Budget(seconds))
    try:
        yield
    finally:
        _batch.reset(token)


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    """A request that waits for a decoder, and the bytes that its result may have."""

    client: str
    size: int
    worker: _Worker | None = None
    _wake: asyncio.Future[None] | None = None

    async def wait(self, seconds: float) -> None:
        """Wait until there is a decoder, at most some seconds."""
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        timer = loop.call_later(seconds, self.wake)
        try:
            await self._wake
        finally:
            timer.cancel()

    def wake(self) -> None:
        """End the waiting."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """The use of a decoder by a request, and what is counted when it ends."""

    worker: _Worker
    client: str
    size: int
    budget: _Budget | None
    since: float
    starts: int


class DecoderPool:
    """Decoder processes, each handling one request at a time. Use as ``async with``.

    ``restarts`` counts processes that had to be replaced.

    Args:
        count: processes.
        seconds: time to decode one image.
        memory: address space of a process, in bytes.
        queue_seconds: time to wait for a process.
        image_bytes: decoded images that are in memory at a time, half of them of one client;
            further ones wait, but not those of clients that have none.
        idle_seconds: without work, after which all processes but one are ended; they start again
            when images wait.
        module: that is run.

    Raises:
        SettingError: ``LOOKALIKE_FORMATS`` names an unknown format.
    """

    def __init__(  # noqa: PLR0913 - options with names
        self,
        count: int,
        *,
        seconds: float,
        memory: int,
        queue_seconds: float = 20.0,
        image_bytes: int = 128 << 20,
        idle_seconds: float = _IDLE_SECONDS,
        module: str = "lookalike.server.decoder_process",
    ) -> None:
        self.seconds = seconds
        self.restarts = 0
        self._queue_seconds = queue_seconds
        self._held = SharedBytes(image_bytes)
        self._large = FairSlots(1)
        command = (sys.executable, "-m", module, str(memory))
        self._workers = [_Worker(command) for _ in range(count)]
        self._uploads = asdict(upload_options())
        self._idle: list[_Worker] = []
        self._ended: list[_Worker] = []
        self._starting = 0
        self._idle_seconds = idle_seconds
        self._queue: FairQueue[_Job] = FairQueue()
        self._running: Counter[str] = Counter()
        self._paces: OrderedDict[str, float] = OrderedDict()
        self._background: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        await asyncio.gather(*(worker.start() for worker in self._workers))
        self._idle += self._workers
        for worker in self._workers:
            worker.idle_since = time.monotonic()
        self._in_background(self._end_idle())
        return self

    def kill(self) -> None:
        """End all processes at once, in any thread, since this process is about to end."""
        self._closed = True
        for worker in self._workers:
            worker.kill()

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        for task in list(self._background):
            task.cancel()
        for worker in self._workers:
            worker.kill(wait=True)

    async def _end_idle(self) -> None:
        """End processes that have nothing to do, for as long as the service runs."""
        while True:
            await asyncio.sleep(self._idle_seconds / 2)
            before = time.monotonic() - self._idle_seconds
            for worker in list(self._idle):  # the one that worked last is at the end
                is_last = len(self._ended) + 1 >= len(self._workers)
                if worker.idle_since <= before and not is_last and not self._starting:
                    self._idle.remove(worker)
                    worker.kill()
                    self._ended.append(worker)

    def _start_ended(self) -> None:
        """Start as many of the ended processes again as images wait, in the background."""
        while self._ended and not self._idle and self._starting < len(self._queue):
            if self._closed:
                return
            self._starting += 1
            self._in_background(self._start(self._ended.pop()))

    async def _start(self, worker: _Worker) -> None:
        """Start a process; images are sent to others until it is ready."""
        try:
            async with asyncio.timeout(self.seconds):
                await worker.start()
                await worker.request({"task": "ready"}, b"")
        except _CRASH_ERRORS:
            worker.kill()  # started again by the first image that it gets
        finally:
            self._starting -= 1
        self._release(worker)

    @property
    def waiting(self) -> int:
        """Requests that wait for a process."""
        return len(self._queue)

    @property
    def held_bytes(self) -> int:
        """Bytes of decoded images that are in memory, or may be at the end of their decoding."""
        return self._held.total

    async def image(  # noqa: PLR0913 - options with names
        self,
        image: bytes | ImageArray,
        name: str,
        box: Sequence[int] | None = None,
        *,
        options: DecodeOptions | None = None,
        page: int = 0,
        side: int = MAX_SIDE,
        priority: Priority = Priority.QUERY,
    ) -> ImageArray:
        """Decode an image file, ``(H, W)`` or ``(H, W, 3)`` uint8.

        Args:
            image: the file, or its pixels.
            name: of the image, in errors.
            box: crops the image first.
            options: of its source, for a file of the gallery; default the limits of uploads.
            page: of the file.
            side: largest width and height of the result; at most 2,048.
            priority: among the images of the same client.

        Raises:
            ImageError: the file is not an image, exceeds the limits, or those of its batch.
            ProblemError: no process was free in time.
            CancelledError: the request was cancelled, or its time is over.
        """
        side = min(side, MAX_SIDE)
        request: dict[str, Any] = {"task": "image", "name": name, "box": box, "side": side}
        request |= {"options": self._uploads if options is None else asdict(options), "page": page}
        return await self._run(
            image, request, partial(self._image_of, side), priority, size=3 * side**2
        )

    async def features(
        self,
        image: bytes | ImageArray,
        name: str,
        *,
        options: DecodeOptions = DEFAULT_OPTIONS,
        page: int = 0,
    ) -> ImageArray:
        """Return a file or array of the gallery as local features need it, gray ``(H, W)`` uint8.

        See :func:`lookalike.images.local_features.reduce_image`.

        Raises:
            ImageError, ProblemError, CancelledError: as of :meth:`image`.
        """
        request: dict[str, Any] = {
            "task": "features",
            "name": name,
            "options": asdict(options),
            "page": page,
        }
        return await self._run(image, request, partial(self._image_of, MAX_SIDE), Priority.QUERY)

    async def thumbnail(
        self,
        image: bytes | ImageArray,
        name: str,
        size: int,
        *,
        options: DecodeOptions = DEFAULT_OPTIONS,
        page: int = 0,
        webp: bool = False,
    ) -> tuple[str, bytes]:
        """Return the media type and bytes of a thumbnail of a file or array of the gallery.

        It is at most ``size`` pixels wide and high, of a page decoded with the options of its
        source; WebP, else JPEG or, if tiny, PNG.

        Raises:
            ImageError, ProblemError, CancelledError: as of :meth:`image`.
        """
        request: dict[str, Any] = {"task": "thumbnail", "name": name, "size": size, "webp": webp}
        request |= {"options": asdict(options), "page": page}
        return await self._run(image, request, _file_of, Priority.THUMBNAIL)

    async def png(self, image: ImageArray, name: str) -> bytes:
        """Return pixels as the bytes of a PNG.

        Raises:
            ImageError, ProblemError, CancelledError: as of :meth:`image`.
        """
        request = {"task": "png", "name": name}
        return (await self._run(image, request, _file_of, Priority.THUMBNAIL))[1]

    async def _run(
        self,
        image: bytes | ImageArray,
        request: dict[str, Any],
        read: Callable[[Mapping[str, Any], bytes], T],
        priority: Priority,
        *,
        size: int = 0,
    ) -> T:
        """Send a request to a decoder once it is this client's turn; ``read`` its response."""
        client, budget = current_client(), _batch.get()
        priority = priority if budget is None else Priority.BATCH
        if not isinstance(image, bytes):
            request["shape"] = image.shape
            image = np.ascontiguousarray(image).tobytes()
        worker = await self._take(client, priority, size, request["name"], budget)
        use = _Use(
            worker=worker,
            client=client,
            size=size,
            budget=budget,
            since=time.monotonic(),
            starts=worker.starts,
        )
        try:
            value, seconds = await self._attempts(worker, request, image, read)
        except asyncio.CancelledError:
            self._in_background(self._abandon(use))
            raise
        except BaseException:
            self._finish(use)
            raise
        self._finish(use, seconds)
        check_cancelled()
        return value

    async def _take(
        self, client: str, priority: Priority, size: int, name: str, budget: _Budget | None
    ) -> _Worker:
        """Wait for a decoder and for room for the result."""
        job = _Job(client=client, size=size)
        self._queue.put(client, priority, job)
        self._dispatch()
        deadline = time.monotonic() + self._queue_seconds
        try:
            while job.worker is None:
                if time.monotonic() > deadline:
                    raise too_many_requests(f"{self.waiting} images wait to be decoded")
                await job.wait(_POLL_SECONDS)
                check_cancelled()
            if budget is not None:
                budget.check(name)
        except BaseException:
            if job.worker is None:
                self._queue.remove(client, priority, job)
            else:
                self._settle(client, size, 0.0)
                self._release(job.worker)
            raise
        return job.worker

    def _dispatch(self) -> None:
        """Give the idle decoders to those whose turn it is.

        One client leaves a decoder to others, and so do all clients with slow images together.
        """
        shared = max(1, len(self._workers) - 1)

        def fits(job: _Job) -> bool:
            if job.client and self._running[job.client] >= shared:
                return False
            if self._is_slow(job.client):
                running = sum(n for name, n in self._running.items() if self._is_slow(name))
                if running >= shared:
                    return False
            return self._held.fits(job.client, job.size)

        while self._idle and (taken := self._queue.take(fits)) is not None:
            client, job = taken
            self._held.add(client, job.size)
            self._running[client] += 1
            self._queue.charge(client, _EXPECTED_SECONDS)
            job.worker = self._idle.pop()
            job.wake()
        self._start_ended()

    def _release(self, worker: _Worker) -> None:
        worker.idle_since = time.monotonic()
        self._idle.append(worker)
        if not self._closed:
            self._dispatch()

    def _settle(self, client: str, size: int, seconds: float) -> None:
        """Count the time that a request really took, and free what was held for its result."""
        self._held.add(client, -size)
        self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]
        self._queue.charge(client, seconds - _EXPECTED_SECONDS)
        self._paces[client] = max(seconds, _SLOW_DECAY * self._paces.pop(client, 0.0))
        if len(self._paces) > _REMEMBERED:
            self._paces.popitem(last=False)

    def _is_slow(self, client: str) -> bool:
        return client != "" and self._paces.get(client, 0.0) > _SLOW_SECONDS

    async def _attempts(
        self,
        worker: _Worker,
        request: dict[str, Any],
        data: bytes,
        read: Callable[[Mapping[str, Any], bytes], T],
    ) -> tuple[T, float]:
        """Return the result of a decoder, of a fresh one if it crashes, and its processor's time.

        If this is cancelled, the decoder may still be at work.
        """
        name, start = request["name"], time.monotonic()
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                async with asyncio.timeout(self.seconds) as timer:
                    if worker.stopped or worker.crashed:  # while it was idle
                        await self._restart(worker)
                    header, payload = await worker.request(request, data)
                    if header.get("large"):
                        header, payload = await self._go_on(worker, timer)
                    error = header.get("error")
                    value = read(header, payload) if error is None else None
                    seconds = min(float(header["seconds"]), time.monotonic() - start)
            except TimeoutError:
                await self._restart(worker)
                limit = f"{self.seconds:g} s"
                raise ImageError(f"{name}: decoding took longer than {limit}") from None
            except _CRASH_ERRORS:
                await self._restart(worker)
                if not attempts_left:
                    raise ImageError(f"{name}: broken image (it crashed the decoder)") from None
            else:
                if value is None:
                    raise ImageError(str(error)).about(*header.get("about", ()))
                return value, seconds
        raise AssertionError

    async def _go_on(self, worker: _Worker, timer: asyncio.Timeout) -> messages.Message:
        """Let a decoder go on with a large image, when no other one does; return its response."""
        timer.reschedule(None)
        async with self._large.slot():
            timer.reschedule(asyncio.get_running_loop().time() + self.seconds)
            return await worker.request({}, b"")

    async def _restart(self, worker: _Worker) -> None:
        """Replace the process of a decoder; the new one gets ready in the background."""
        worker.kill()
        self.restarts += 1
        if self._closed:
            raise CancelledError("the service stops")
        with contextlib.suppress(OSError):  # tried again at the next request
            await worker.start()

    async def _abandon(self, use: _Use) -> None:
        """Let a decoder end what nobody waits for any more, soon: starting one takes longer."""
        try:
            async with asyncio.timeout(_GRACE_SECONDS):
                header, _ = await use.worker.response()
            is_ready = not header.get("large")  # else it waits for its turn
        except _CRASH_ERRORS:
            is_ready = False
        try:
            if not is_ready:
                with contextlib.suppress(CancelledError):
                    await self._restart(use.worker)
        finally:
            self._finish(use)

    def _finish(self, use: _Use, seconds: float | None = None) -> None:
        """Release a decoder after a request, for which its processor took some seconds."""
        if seconds is None:
            seconds = time.monotonic() - use.since
        seconds += _RESTART_SECONDS * (use.worker.starts - use.starts)
        if use.budget is not None:
            use.budget.left -= seconds
        self._settle(use.client, use.size, seconds)
        self._release(use.worker)

    def _image_of(self, side: int, header: Mapping[str, Any], payload: bytes) -> ImageArray:
        """Return the pixels of a response, and count their bytes as long as they are used.

        Raises:
            ValueError: they are not those of an image.
        """
        shape = tuple(int(length) for length in header["shape"])
        valid = len(shape) in (2, 3) and shape[2:] in ((), (3,))
        if not valid or not 0 < min(shape[:2]) <= max(shape[:2]) <= side:
            raise ValueError(f"unexpected shape {shape}")
        pixels = np.frombuffer(payload, np.uint8)
        image = pixels.reshape(shape)
        client = current_client()
        self._held.add(client, len(payload))
        loop = asyncio.get_running_loop()
        free = weakref.finalize(pixels, self._free, loop, client, len(payload))
        free.atexit = False
        return image

    def _free(self, loop: asyncio.AbstractEventLoop, client: str, size: int) -> None:
        """Count an image that is no longer used; called in any thread."""

        def free() -> None:
            self._held.add(client, -size)
            self._dispatch()

        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(free)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _file_of(header: Mapping[str, Any], payload: bytes) -> tuple[str, bytes]:
    """Return the media type and bytes of an encoded image.

    Raises:
        ValueError: it is no image.
    """
    if header["type"] not in _MEDIA_TYPES:
        raise ValueError(f"unexpected media type {header['type']}")
    return header["type"], payload


class _Worker:
    """One decoder process; ``starts`` counts how often it was started.

    ``idle_since`` is the time (of ``time.monotonic``) when it had nothing more to do.

    It communicates over a socket pair. The process is started by ``Popen`` and not by the event
    loop, which may run fork handlers of libraries before the exec.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: _Connection | None = None
        self.starts = 0
        self.idle_since = 0.0

    @property
    def stopped(self) -> bool:
        return self._process is None

    @property
    def crashed(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    async def start(self) -> None:
        ours, theirs = socket.socketpair()
        for each in (ours, theirs):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        with theirs:
            self._process = subprocess.Popen(
                self._command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                start_new_session=True,  # Ctrl-C in the shell goes to the service only
                env=_environment(),
            )
        loop = asyncio.get_running_loop()
        _, self._connection = await loop.create_connection(_Connection, sock=ours)
        self.starts += 1

    async def request(self, request: dict[str, Any], data: bytes) -> messages.Message:
        """Send a request and return its response.

        Raises:
            EOFError, OSError: the process ended.
            ValueError, TypeError: what it sent is no response.
        """
        if self._connection is not None:
            self._connection.send(request, data)
        return await self.response()

    async def response(self) -> messages.Message:
        """Return the response to the last request, also if that was cancelled.

        Raises:
            EOFError, OSError, ValueError, TypeError: as of :meth:`request`.
        """
        if self._connection is None:
            raise EOFError("it could not be started")
        return await self._connection.response()

    def kill(self, *, wait: bool = False) -> None:
        """End the process; ``wait`` until it is gone, which may take as long as its memory does."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            connection.abort()
        if process is not None:
            process.kill()
            if wait:
                process.wait()
            else:
                threading.Thread(target=process.wait, name="reap-decoder", daemon=True).start()


class _Connection(asyncio.Protocol):
    """The socket of a decoder, which sends one response for each request, with its number."""

    def __init__(self) -> None:
        self._number = 0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._response: asyncio.Future[messages.Message] = self._loop.create_future()
        self._is_pending = False
        self._parts: list[bytes] = []
        self._size = 0
        self._expected = messages.LENGTHS.size

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, request: dict[str, Any], data: bytes) -> None:
        """Send a request."""
        assert self._transport is not None
        self._response = self._loop.create_future()
        self._is_pending = True
        self._number += 1
        if self._transport.is_closing():
            self._end(EOFError("it ended"))
        else:
            numbered = {**request, "number": self._number}
            self._transport.writelines((messages.preamble(numbered, len(data)), data))

    async def response(self) -> messages.Message:
        """Return the response to the last request."""
        if self._response.cancelled():
            self._response = self._loop.create_future()
        return await self._response

    def data_received(self, data: bytes) -> None:
        """Collect the bytes of a response."""
        if not self._is_pending:
            self.abort()  # or it would be taken for the response to the next request
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size < self._expected:
            return
        content = b"".join(self._parts)
        lengths = messages.LENGTHS.unpack_from(content)
        if lengths[0] > _MAX_HEADER or lengths[1] > _MAX_PAYLOAD:
            self._end(ValueError("the response is too long"))
            return
        start = messages.LENGTHS.size + lengths[0]
        self._expected = start + lengths[1]
        self._parts = [content]
        if self._size < self._expected:
            return
        if self._size > self._expected:
            self._end(ValueError("there is more than a response"))
            return
        self._parts, self._size, self._expected = [], 0, messages.LENGTHS.size
        try:
            header = dict(json.loads(content[messages.LENGTHS.size : start]))
        except (ValueError, TypeError) as error:
            self._end(error)
            return
        if header.get("number") != self._number:
            self._end(ValueError("it is a second response to an earlier request"))
            return
        self._resolve((header, content[start:]))

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end of the process to who waits for it."""
        self._end(exc or EOFError("it ended"))

    def abort(self) -> None:
        """Close the connection."""
        assert self._transport is not None
        self._transport.abort()

    def _end(self, error: Exception) -> None:
        self.abort()
        self._resolve(error)

    def _resolve(self, result: messages.Message | Exception) -> None:
        """Let the response be waited for, now or later."""
        if not self._is_pending:
            return
        self._is_pending = False
        if self._response.cancelled():
            self._response = self._loop.create_future()
        if isinstance(result, Exception):
            self._response.set_exception(result)
            self._response.exception()  # nobody may wait for it
        else:
            self._response.set_result(result)
