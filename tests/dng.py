"""Minimal raw photographs (DNG), as cameras write them: sensor values, and a preview or none."""

from __future__ import annotations

import struct

import numpy as np

_BYTE, _ASCII, _SHORT, _LONG, _SRATIONAL = 1, 2, 3, 4, 10
_SIZES = {_BYTE: 1, _ASCII: 1, _SHORT: 2, _LONG: 4, _SRATIONAL: 8}

Entry = tuple[int, int, bytes]
"""Tag, type and packed values."""


def _shorts(tag: int, *values: int) -> Entry:
    return tag, _SHORT, struct.pack(f"<{len(values)}H", *values)


def _longs(tag: int, *values: int) -> Entry:
    return tag, _LONG, struct.pack(f"<{len(values)}I", *values)


def _directory(entries: list[Entry], offset: int) -> bytes:
    """Return an image file directory that is written at an offset, with its values after it."""
    entries = sorted(entries)
    table, values = struct.pack("<H", len(entries)), b""
    after = offset + 2 + 12 * len(entries) + 4
    for tag, kind, packed in entries:
        table += struct.pack("<HHI", tag, kind, len(packed) // _SIZES[kind])
        if len(packed) <= 4:
            table += packed.ljust(4, b"\0")
        else:
            table += struct.pack("<I", after + len(values))
            values += packed + b"\0" * (len(packed) % 2)
    return table + struct.pack("<I", 0) + values


def dng(side: int, *, preview: bytes | None, orientation: int = 1) -> bytes:
    """Return a raw photograph of a bright left and a dark right half.

    Args:
        side: of the square sensor in pixels.
        preview: a JPEG.
        orientation: of EXIF.
    """
    sensor = np.full((side, side), 800, "<u2")
    sensor[:, : side // 2] = 14_000
    jpeg = preview or b""
    start = 8
    pixels_at = start + len(jpeg) + len(jpeg) % 2
    raw_at = pixels_at + sensor.nbytes
    raw = _directory(
        [
            _longs(254, 0),
            _longs(256, side),
            _longs(257, side),
            _shorts(258, 16),
            _shorts(259, 1),
            _shorts(262, 32803),
            _longs(273, pixels_at),
            _shorts(277, 1),
            _longs(278, side),
            _longs(279, sensor.nbytes),
            _shorts(33421, 2, 2),
            (33422, _BYTE, bytes((0, 1, 1, 2))),
            _longs(50717, 16_383),
        ],
        raw_at,
    )
    matrix = struct.pack("<18i", *(n for i in range(9) for n in (10_000 * (i % 4 == 0), 10_000)))
    main = [
        _longs(254, 1),
        _longs(256, side),
        _longs(257, side),
        (271, _ASCII, b"Maker\0"),
        (272, _ASCII, b"Model\0"),
        (306, _ASCII, b"2024:05:06 07:08:09\0"),
        _shorts(274, orientation),
        _longs(330, raw_at),
        (50706, _BYTE, bytes((1, 4, 0, 0))),
        (50707, _BYTE, bytes((1, 1, 0, 0))),
        (50708, _ASCII, b"Maker Model\0"),
        (50721, _SRATIONAL, matrix),
    ]
    if jpeg:
        main += [
            _shorts(258, 8, 8, 8),
            _shorts(259, 7),
            _shorts(262, 6),
            _longs(273, start),
            _shorts(277, 3),
            _longs(278, side),
            _longs(279, len(jpeg)),
        ]
    main_at = raw_at + len(raw)
    header = b"II*\0" + struct.pack("<I", main_at)
    body = jpeg + b"\0" * (len(jpeg) % 2) + sensor.tobytes() + raw
    return header + body + _directory(main, main_at)
