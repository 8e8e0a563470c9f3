"""A process that decodes images of strangers: ``python -m lookalike.server.decoder_process BYTES``.

It answers messages on its standard input until that ends. A file that crashes the decoder, or asks
for more memory than ``BYTES``, costs this process and not the service.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from lookalike.errors import InputError
from lookalike.images.decode import decode, shrink_image
from lookalike.images.foreground import Box
from lookalike.server import frames
from lookalike.types import ImageArray

LARGEST_SIDE = 2048
"""Larger images go on smaller: no encoder looks at more, and so they can be held by the dozen."""

Answer = tuple[dict[str, Any], bytes | memoryview]


def image(data: bytes, asked: Mapping[str, Any]) -> Answer:
    """Decode to pixels; ``box`` names the part of the image that is wanted."""
    box = asked.get("box")
    found = decode(data, name=asked["name"], full_size=box is not None)
    found = found if box is None else Box.from_sequence(box).crop(found)
    found = np.ascontiguousarray(shrink_image(found, LARGEST_SIDE))
    return {"shape": found.shape}, found.reshape(-1).data


def thumbnail(data: bytes, asked: Mapping[str, Any]) -> Answer:
    """Decode and write again, at most ``side`` pixels a side, as a JPEG or, if tiny, a PNG."""
    if "shape" in asked:
        found: ImageArray = np.frombuffer(data, np.uint8).reshape(asked["shape"])
    else:
        found = decode(data, name=asked["name"])
    found = shrink_image(found, asked["side"])
    small = max(found.shape[:2]) <= _TINY
    file = io.BytesIO()
    Image.fromarray(found).save(file, "PNG" if small else "JPEG", quality=85)
    return {"type": "image/png" if small else "image/jpeg"}, file.getvalue()


_TINY = 64

TASKS: Mapping[str, Callable[[bytes, Mapping[str, Any]], Answer]] = {
    "image": image,
    "thumbnail": thumbnail,
}


def answer(asked: Mapping[str, Any], data: bytes) -> Answer:
    """Do what is asked; what is wrong with an image is an answer too."""
    try:
        return TASKS[asked["task"]](data, asked)
    except InputError as error:
        return {"error": str(error)}, b""
    except MemoryError:
        return {"error": f"{asked['name']}: takes more memory to decode than is allowed"}, b""


def main(memory: int) -> None:
    """Answer until the standard input ends."""
    _confine(memory)
    asked_of, answers = _own_pipes()
    while (message := frames.read(asked_of)) is not None:
        frames.write(answers, *answer(*message))


def _confine(memory: int) -> None:
    """Limit the memory that may be asked for, and leave no core files; where the system can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return the standard input and output; what libraries print goes to the standard error."""
    asked_of, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return asked_of, answers


if __name__ == "__main__":
    main(int(sys.argv[1]))
