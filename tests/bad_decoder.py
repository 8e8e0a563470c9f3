"""A decoder that files can make crash, spin, eat memory or talk nonsense, by how they end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from lookalike.server import decoder_process, frames

CRASH, EXIT, SPIN, HOG, BABBLE = b"<crash>", b"<exit>", b"<spin>", b"<hog>", b"<babble>"
MARKS = (CRASH, EXIT, SPIN, HOG, BABBLE)


def image(data: bytes, asked: Mapping[str, Any]) -> decoder_process.Answer:
    if data.endswith(CRASH):
        os.kill(os.getpid(), signal.SIGSEGV)
    if data.endswith(EXIT):
        os._exit(0)
    if data.endswith(HOG):
        bytearray(10 << 30)
    if data.endswith(BABBLE):
        os.write(0, frames.LENGTHS.pack(9, 0) + b"not JSON!")
    while data.endswith(SPIN):
        pass
    return decoder_process.image(data, asked)


if __name__ == "__main__":
    decoder_process.TASKS = {**decoder_process.TASKS, "image": image}
    decoder_process.main(int(sys.argv[1]))
