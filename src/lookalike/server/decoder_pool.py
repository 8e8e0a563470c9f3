"""A pool of decoder processes with limits on time and memory.

A file that crashes, hangs or bloats its decoder fails only its own request: the process is killed
and replaced.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Self

import numpy as np

from lookalike.errors import ImageError
from lookalike.images.formats import upload_formats
from lookalike.images.options import DEFAULT_OPTIONS, DecodeOptions
from lookalike.server import messages
from lookalike.types import ImageArray

_BUFFER = 1 << 20
_CRASH_ERRORS = (asyncio.IncompleteReadError, BrokenPipeError, ConnectionResetError, ValueError)
"""Raised when a decoder dies or sends an invalid response."""


UPLOAD_MEGAPIXELS = 50
"""Largest image in an upload or from a URL."""


def upload_options() -> DecodeOptions:
    """Return how files of strangers are decoded: few formats, up to 50 megapixels.

    Raises:
        SettingError: ``LOOKALIKE_FORMATS`` names an unknown format.
    """
    return DecodeOptions(max_megapixels=UPLOAD_MEGAPIXELS, formats=upload_formats())


class DecoderPool:
    """Decoder processes, each handling one request at a time. Use as ``async with``.

    ``restarts`` counts processes that had to be replaced.
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

    async def image(
        self,
        data: bytes,
        name: str,
        box: Sequence[int] | None = None,
        *,
        options: DecodeOptions | None = None,
        page: int = 0,
    ) -> ImageArray:
        """Decode an image file, to at most 2,048 pixels a side.

        Args:
            data: the file.
            name: of the image, in errors.
            box: crops the image first.
            options: of its source, for a file of the gallery; default the limits of uploads.
            page: of the file.

        Raises:
            ImageError: the file is not an image, or exceeds the limits.
        """
        decoding = {"options": asdict(options or upload_options()), "page": page}
        header, pixels = await self._request(data, task="image", name=name, box=box, **decoding)
        return np.frombuffer(pixels, np.uint8).reshape(header["shape"])

    async def thumbnail(
        self,
        image: bytes | ImageArray,
        name: str,
        size: int,
        *,
        options: DecodeOptions = DEFAULT_OPTIONS,
        page: int = 0,
    ) -> tuple[str, bytes]:
        """Return the media type and bytes of a thumbnail of a file or array of the gallery.

        It is at most ``size`` pixels wide and high, of a page decoded with the options of its
        source.

        Raises:
            ImageError: the file is not an image, or exceeds the limits.
        """
        request: dict[str, Any] = {"task": "thumbnail", "name": name, "size": size}
        request |= {"options": asdict(options), "page": page}
        if not isinstance(image, bytes):
            request["shape"] = image.shape
            image = np.ascontiguousarray(image).tobytes()
        header, data = await self._request(image, **request)
        return header["type"], data

    async def _request(self, data: bytes, **request: Any) -> messages.Message:
        worker = await self._idle.get()
        if worker.crashed:  # while it was idle
            worker.kill()
            self.restarts += 1
        try:
            async with asyncio.timeout(self.seconds):
                header, payload = await worker.request(request, data)
        except TimeoutError:
            worker.kill()
            limit = f"{self.seconds:g} s"
            raise ImageError(f"{request['name']}: decoding took longer than {limit}") from None
        except _CRASH_ERRORS:
            worker.kill()
            raise ImageError(f"{request['name']}: broken image (it crashed the decoder)") from None
        except BaseException:
            worker.kill()  # it may be in the middle of a message
            raise
        finally:
            if worker.stopped:
                self.restarts += 1
            self._idle.put_nowait(worker)
        if "error" in header:
            raise ImageError(header["error"])
        return header, payload


class _Worker:
    """One decoder process, started again on the next request if it was killed.

    It communicates over a socket pair. The process is started by ``Popen`` and not by the event
    loop, which may run fork handlers of libraries (such as Lance's warning) before the exec.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

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
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        self._streams = await asyncio.open_connection(sock=ours, limit=_BUFFER)

    async def request(self, request: dict[str, Any], data: bytes) -> messages.Message:
        if self._streams is None:
            await self.start()
        assert self._streams is not None
        reader, writer = self._streams
        writer.writelines((messages.preamble(request, len(data)), data))
        await writer.drain()
        lengths = messages.LENGTHS.unpack(await reader.readexactly(messages.LENGTHS.size))
        header, payload = [await reader.readexactly(length) for length in lengths]
        return json.loads(header), payload

    def kill(self) -> None:
        process, streams = self._process, self._streams
        self._process = self._streams = None
        if streams is not None:
            streams[1].transport.abort()
        if process is not None:
            process.kill()
            process.wait()  # immediate, since SIGKILL cannot be ignored
