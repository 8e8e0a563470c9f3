"""Repair of image files that are cut off or have errors: decoders read as far as they go."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFile

PARTIAL_FORMATS = frozenset(("PNG", "GIF", "BMP", "DIB", "TIFF", "TGA", "PCX", "PPM"))
"""Formats whose decoders write rows as they read them."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_MAX_TEXT = 1 << 20
_MAX_PROFILE = 16 << 20
_PNG_DATA = (b"IDAT", b"fdAT")

_SOI, _EOI, _SOS = b"\xff\xd8", b"\xff\xd9", 0xDA


def repaired_png(data: bytes) -> tuple[bytes, bytes | None, bool]:
    """Return a PNG without what keeps decoders from its pixels.

    Checksums are corrected; text after the first megabyte, profiles that unpack to over 16 MB,
    ancillary chunks with a wrong checksum and what follows the end of the file are left out.

    Returns:
        The file, its color profile if it is too large for Pillow, and whether it was damaged.
    """
    chunks, damaged, position, profile = [_PNG_SIGNATURE], False, len(_PNG_SIGNATURE), None
    text = 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        stored = data[position + 8 + length : position + 12 + length]
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        wrong = stored != checksum
        damaged |= wrong
        if not kind.isalpha() or (len(body) < length and kind not in _PNG_DATA):
            break
        text += _text_bytes(kind, body)
        if kind == b"iCCP" and not wrong and _is_large_profile(body):
            profile = _unpacked(_profile_in(body), _MAX_PROFILE)
        elif (kind not in _TEXT_CHUNKS or text <= _MAX_TEXT) and not (wrong and kind[0] & 0x20):
            chunks += [struct.pack(">I", len(body)), kind, body, checksum]
        position += 12 + length
        if kind == b"IEND":
            break
    return b"".join(chunks), profile, damaged


def _text_bytes(kind: bytes, body: bytes) -> int:
    """Return the bytes of a chunk of text when it is unpacked, or more than are allowed."""
    if kind not in _TEXT_CHUNKS or kind == b"tEXt" or len(body) > _MAX_TEXT:
        return len(body) if kind in _TEXT_CHUNKS else 0
    start = body.find(b"\0") + 2 if kind == b"zTXt" else _itxt_start(body)
    unpacked = _unpacked(body[start:], _MAX_TEXT)
    return len(body) + (_MAX_TEXT if unpacked is None else len(unpacked))


def _itxt_start(body: bytes) -> int:
    """Return where the text of an iTXt chunk starts: after keyword, language and translation."""
    keyword = body.find(b"\0")
    language = body.find(b"\0", keyword + 3)
    return body.find(b"\0", language + 1) + 1


def _profile_in(body: bytes) -> bytes:
    return body[body.find(b"\0") + 2 :]


def _is_large_profile(body: bytes) -> bool:
    """Return whether a profile is too large for Pillow."""
    return _unpacked(_profile_in(body), _MAX_TEXT) is None


def _unpacked(packed: bytes, limit: int) -> bytes | None:
    """Return unpacked data, empty if it is not packed, or None if it exceeds a limit."""
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(packed, limit)
    except zlib.error:
        return b""
    return None if stream.unconsumed_tail else data


def ended_jpeg(data: bytes) -> tuple[bytes, int] | None:
    """Return a JPEG ended after its last whole segment, and its bytes of compressed pixels.

    None if it breaks off before its pixels.
    """
    position, pixels, in_scan = len(_SOI), 0, False
    while (marker := data.find(b"\xff", position)) >= 0 and marker + 4 <= len(data):
        code = data[marker + 1]
        if in_scan:
            pixels += marker - position
        if code in (0x00, 0xFF) or 0xD0 <= code <= 0xD7:  # stuffing, fill byte, restart
            position = marker + (1 if code == 0xFF else 2)
            continue
        if code == _EOI[1]:
            return data[: marker + 2], pixels
        length = int.from_bytes(data[marker + 2 : marker + 4], "big")
        if marker + 2 + length > len(data):
            return (data[:marker] + _EOI, pixels) if pixels else None
        in_scan = code == _SOS
        position = marker + 2 + length
    if in_scan:
        pixels += len(data) - position
    return (data + _EOI, pixels) if pixels else None


def load_partially(open_image: Callable[[], ImageFile.ImageFile]) -> Image.Image:
    """Decode an image as far as it goes; what is missing gets the median color of the rest.

    It is decoded twice, over black and over white: pixels that differ were not decoded.

    Args:
        open_image: opens the file anew.

    Raises:
        ValueError: nothing could be decoded.
    """
    black, white = (_decoded_over(open_image(), level) for level in (0, 255))
    first, second = np.asarray(black), np.asarray(white)
    missing = first != second
    missing = missing if missing.ndim == 2 else missing.any(axis=2)
    blank = bool((first == first.flat[0]).all()) if first.ndim == 2 else bool(np.ptp(first) == 0)
    if missing.all() or (blank and not missing.any()):
        raise ValueError("no pixels can be decoded")
    if not missing.any():
        return black
    decoded = first[~missing]  # (n,) or (n, bands)
    middle = np.bincount(decoded).argmax() if black.mode == "P" else np.median(decoded, axis=0)
    if black.mode.startswith("I;16"):  # in which Pillow cannot paste one color through a mask
        filled = first.copy()
        filled[missing] = np.asarray(middle).astype(first.dtype)
        black.paste(Image.fromarray(filled))
        return black
    number: type[float] | type[int] = float if black.mode == "F" else int
    color = tuple(number(each) for each in np.atleast_1d(middle))
    black.paste(color if len(color) > 1 else color[0], None, Image.fromarray(missing))
    return black


def _decoded_over(image: ImageFile.ImageFile, level: int) -> Image.Image:
    """Decode an image into one that is filled already, and return it even if decoding fails."""
    bands = len(image.getbands())
    image.im = Image.new(image.mode, image.size, (level,) * bands if bands > 1 else level).im
    try:
        image.load()
    except Exception:  # noqa: BLE001 - whatever ends it, the pixels before it are there
        image.tile = []
    return image
