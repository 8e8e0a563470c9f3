"""Images decoded in processes of their own, with limits on time and memory.

A decoder that crashes, spins or eats memory costs the one request that it works for: it is killed
and another takes its place.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from lookalike.errors import ImageError
from lookalike.server import frames
from lookalike.types import ImageArray

_BUFFER = 1 << 20
_DIED = (asyncio.IncompleteReadError, BrokenPipeError, ConnectionResetError, ValueError)
"""What reading from a decoder raises that died, or that talks nonsense."""


class Decoders:
    """A few decoder processes; each works for one request at a time.

    Use as ``async with``. ``restarts`` counts processes that had to be replaced.
    """

    def __init__(
        self,
        count: int,
        *,
        seconds: float,
        memory: int,
        module: str = "lookalike.server.decoder_process",
    ) -> None:
        self.seconds = seconds
        self.restarts = 0
        command = (sys.executable, "-m", module, str(memory))
        self._workers = [_Worker(command) for _ in range(count)]
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        await asyncio.gather(*(worker.start() for worker in self._workers))
        for worker in self._workers:
            self._idle.put_nowait(worker)
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()

    async def image(self, data: bytes, name: str, box: Sequence[int] | None = None) -> ImageArray:
        """Decode a file's bytes, at most 2,048 pixels a side; ``box`` cuts a part out before.

        Raises:
            ImageError: it cannot be decoded within the limits, or was not an image.
        """
        header, pixels = await self._ask(data, task="image", name=name, box=box)
        return np.frombuffer(pixels, np.uint8).reshape(header["shape"])

    async def thumbnail(self, image: bytes | ImageArray, name: str, side: int) -> tuple[str, bytes]:
        """Return the media type and the bytes of a small version of a file or an array.

        Raises:
            ImageError: it cannot be decoded within the limits, or was not an image.
        """
        asked: dict[str, Any] = {"task": "thumbnail", "name": name, "side": side}
        if not isinstance(image, bytes):
            asked["shape"] = image.shape
            image = np.ascontiguousarray(image).tobytes()
        header, data = await self._ask(image, **asked)
        return header["type"], data

    async def _ask(self, data: bytes, **asked: Any) -> frames.Message:
        worker = await self._idle.get()
        if worker.died:  # while nobody asked it anything
            worker.kill()
            self.restarts += 1
        try:
            async with asyncio.timeout(self.seconds):
                header, payload = await worker.ask(asked, data)
        except TimeoutError:
            worker.kill()
            limit = f"{self.seconds:g} s"
            raise ImageError(f"{asked['name']}: took longer than {limit} to decode") from None
        except _DIED:
            worker.kill()
            raise ImageError(f"{asked['name']}: broken image (it crashed the decoder)") from None
        except BaseException:
            worker.kill()  # in the middle of a message
            raise
        finally:
            if worker.dead:
                self.restarts += 1
            self._idle.put_nowait(worker)
        if "error" in header:
            raise ImageError(header["error"])
        return header, payload


class _Worker:
    """One decoder process, started again on the next request if it is dead.

    It is talked to over a pair of sockets. ``Popen`` starts it, since event loops may run the fork
    handlers of libraries, Lance's warning among them, though a new program follows at once.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def dead(self) -> bool:
        return self._process is None

    @property
    def died(self) -> bool:
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
                start_new_session=True,  # Ctrl-C in the shell is for the service
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        self._streams = await asyncio.open_connection(sock=ours, limit=_BUFFER)

    async def ask(self, asked: dict[str, Any], data: bytes) -> frames.Message:
        if self._streams is None:
            await self.start()
        assert self._streams is not None
        back, to = self._streams
        to.writelines((frames.head(asked, len(data)), data))
        await to.drain()
        lengths = frames.LENGTHS.unpack(await back.readexactly(frames.LENGTHS.size))
        header, payload = [await back.readexactly(length) for length in lengths]
        return json.loads(header), payload

    def kill(self) -> None:
        process, streams = self._process, self._streams
        self._process = self._streams = None
        if streams is not None:
            streams[1].transport.abort()
        if process is not None:
            process.kill()
            process.wait()  # at once, since it cannot be ignored
