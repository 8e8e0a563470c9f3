"""A decoder that crashes, hangs, bloats or sends garbage, depending on the end of the file."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookalike.server import decoder_process, messages

CRASH, EXIT, HANG, BLOAT, GARBAGE = b"<crash>", b"<exit>", b"<hang>", b"<bloat>", b"<garbage>"
ONCE = b"<once>"
"""Killed as if from outside, the first time; the file ends with the path of a note of that."""

EXTRA = b"<extra>"
"""A response besides the one that was asked for."""

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
    if data.endswith(EXTRA):
        fields = {"shape": [1, 1], "seconds": 0, "number": request["number"]}
        header = json.dumps(fields).encode()
        os.write(0, messages.LENGTHS.pack(len(header), 1) + header + b"\xff")
    if ONCE in data:
        note = Path(data.rpartition(ONCE)[2].decode())
        if not note.exists():
            note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return decoder_process.image(data, request)


if __name__ == "__main__":
    decoder_process.TASKS = {**decoder_process.TASKS, "image": image}
    decoder_process.main(int(sys.argv[1]))
