"""A decoder that crashes, hangs, bloats or sends garbage, depending on the end of the file."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from lookalike.server import decoder_process, messages

CRASH, EXIT, HANG, BLOAT, GARBAGE = b"<crash>", b"<exit>", b"<hang>", b"<bloat>", b"<garbage>"
FAULTS = (CRASH, EXIT, HANG, BLOAT, GARBAGE)


def image(data: bytes, request: Mapping[str, Any]) -> decoder_process.Response:
    if data.endswith(CRASH):
        os.kill(os.getpid(), signal.SIGSEGV)
    if data.endswith(EXIT):
        os._exit(0)
    if data.endswith(BLOAT):
        bytearray(10 << 30)
    if data.endswith(GARBAGE):
        os.write(0, messages.LENGTHS.pack(9, 0) + b"not JSON!")
    while data.endswith(HANG):
        pass
    return decoder_process.image(data, request)


if __name__ == "__main__":
    decoder_process.TASKS = {**decoder_process.TASKS, "image": image}
    decoder_process.main(int(sys.argv[1]))
