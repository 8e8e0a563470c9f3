"""A sandboxed decoder: ``python -m lookalike.server.decoder_process MEMORY_BYTES``.

It handles requests from standard input until that is closed. A file that crashes the decoder, or
needs more memory than ``MEMORY_BYTES``, ends this process and not the service. Images that are too
large for the service's own process are encoded here too.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from lookalike.errors import InputError
from lookalike.images.decode import Reduction, decode, shrink_image, shrink_to
from lookalike.images.foreground import Box
from lookalike.images.inline import thumbnail_file
from lookalike.images.local_features import reduce_decoded
from lookalike.images.memory import BUDGET
from lookalike.images.options import DecodeOptions
from lookalike.images.pillow import DRAFT_SIDE
from lookalike.server import messages
from lookalike.types import ImageArray

MAX_SIDE = 2048
"""Larger images are scaled down: no encoder needs more pixels, and many are held in memory."""

Response = tuple[dict[str, Any], bytes | memoryview]


def image(data: bytes, request: Mapping[str, Any]) -> Response:
    """Decode to pixels, at most ``side`` wide and high; ``box`` crops the image first."""
    box, side = request.get("box"), request.get("side", MAX_SIDE)
    if box is None:
        return _response(_pixels(data, request, reduce=shrink_to(side)))
    whole = _pixels(data, request, full_size=True)
    return _response(shrink_image(Box.from_sequence(box).crop(whole), side))


def features(data: bytes, request: Mapping[str, Any]) -> Response:
    """Decode to what local features need of an image."""
    return _response(_pixels(data, request, reduce=reduce_decoded))


def thumbnail(data: bytes, request: Mapping[str, Any]) -> Response:
    """Decode and encode at most ``size`` pixels wide and high.

    As WebP if ``webp``, else as JPEG or, if tiny, as PNG.
    """
    size = request["size"]
    reduce = shrink_to(size, sharp=True)
    pixels = _pixels(data, request, full_size=size > DRAFT_SIDE, reduce=reduce)
    media_type, file = thumbnail_file(pixels, webp=request.get("webp", False))
    return {"type": media_type}, file


def ready(data: bytes, request: Mapping[str, Any]) -> Response:
    """Return nothing: this process has started."""
    del data, request
    return {}, b""


def png(data: bytes, request: Mapping[str, Any]) -> Response:
    """Encode pixels as they are."""
    return _file(_pixels(data, request), "PNG")


def _pixels(
    data: bytes,
    request: Mapping[str, Any],
    *,
    full_size: bool = False,
    reduce: Reduction | None = None,
) -> ImageArray:
    """Return the pixels that were sent, or those of the file that was."""
    if "shape" in request:
        pixels = np.frombuffer(data, np.uint8).reshape(request["shape"])
        return decode(pixels, reduce=reduce)
    return decode(
        data,
        name=request["name"],
        full_size=full_size,
        options=DecodeOptions(**request["options"]),
        page=request["page"],
        reduce=reduce,
    )


def _response(pixels: ImageArray) -> Response:
    pixels = np.ascontiguousarray(pixels)
    return {"shape": pixels.shape}, pixels.reshape(-1).data


def _file(pixels: ImageArray, kind: str) -> Response:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=85)
    return {"type": Image.MIME[kind]}, file.getvalue()


_PR_SET_PDEATHSIG = 1

TASKS: Mapping[str, Callable[[bytes, Mapping[str, Any]], Response]] = {
    "image": image,
    "features": features,
    "thumbnail": thumbnail,
    "png": png,
    "ready": ready,
}


def handle(request: Mapping[str, Any], data: bytes) -> Response:
    """Handle one request; an invalid image is reported in the response."""
    try:
        return TASKS[request["task"]](data, request)
    except InputError as error:
        return {"error": str(error), "about": error.parameters}, b""
    except MemoryError:
        return {"error": f"{request['name']}: decoding needs more memory than allowed"}, b""


def main(memory: int) -> None:
    """Handle requests until standard input is closed; ``memory`` in bytes."""
    _limit_resources(memory)
    _end_with_service()
    requests, responses = _take_over_pipes()
    while (message := messages.read(requests)) is not None:
        turn = _Turn(requests, responses, message[0]["number"])
        BUDGET.before_large = turn.wait
        before = time.process_time()
        header, payload = handle(*message)
        header |= {"seconds": time.process_time() - before, "number": turn.number}
        messages.write(responses, header, payload)
        del message, payload


class _Turn:
    """The turn of this process among those that decode large images, for one request.

    Attributes:
        number: of the request, then of the message that gave the turn.
    """

    def __init__(self, requests: BinaryIO, responses: BinaryIO, number: int) -> None:
        self.number = number
        self._requests = requests
        self._responses = responses
        self._is_ours = False

    def wait(self) -> None:
        """Wait for the turn, once; it ends with the response."""
        if not self._is_ours:
            self._is_ours = True
            messages.write(self._responses, {"large": True, "number": self.number}, b"")
            message = messages.read(self._requests)
            if message is None:
                sys.exit()
            self.number = message[0]["number"]


def _limit_resources(memory: int) -> None:
    """Limit the address space and disable core dumps, where the system supports it."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with_service() -> None:
    """End when the service does, however it ends, also in the middle of a file (Linux only)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _take_over_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return standard input and output; anything that libraries print goes to standard error."""
    requests, responses = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return requests, responses


if __name__ == "__main__":
    main(int(sys.argv[1]))
