"""Messages between the service and its decoders: a JSON header and bytes, each with its length."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

LENGTHS = struct.Struct("!IQ")
"""Bytes of the header, bytes of the payload."""

Message = tuple[dict[str, Any], bytes]


def head(header: Mapping[str, Any], size: int) -> bytes:
    """Return what goes before ``size`` bytes of payload."""
    text = json.dumps(header).encode()
    return LENGTHS.pack(len(text), size) + text


def read(file: BinaryIO) -> Message | None:
    """Read one message; None at the end of the file."""
    lengths = file.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    header, payload = LENGTHS.unpack(lengths)
    return json.loads(file.read(header)), file.read(payload)


def write(file: BinaryIO, header: Mapping[str, Any], payload: bytes | memoryview) -> None:
    """Write one message."""
    file.write(head(header, len(payload)))
    file.write(payload)
    file.flush()
