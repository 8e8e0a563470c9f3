"""Image files without their metadata: position, camera, comments, previews and appended data.

Pixels are not decoded: what makes up the image is copied from the file as it is, with its color
profile and orientation. Only files that follow their format strictly are handled, since what one
reader skips, another one may show.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

from lookalike.cancellation import check_cancelled

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Part = bytes | range
"""Bytes, or the offsets of bytes to copy from the file."""

_CHUNK = 1 << 20
_PIECE = 1 << 16
_FIRST_CHUNK = 1 << 10
_MAX_PARTS = 100_000
_MAX_READS = 2_000_000
_READS_PER_CHECK = 4_096
_ORIENTATION = 0x0112
_NO_ORIENTATION = 1


class _InvalidError(ValueError):
    """The file does not follow its format."""


def strip_metadata(file: BinaryIO, kind: str) -> list[Part] | None:
    """Return the parts of a file without metadata, in their order.

    Kept are orientation, color profile, transparency and animation. Removed are EXIF, XMP, IPTC,
    comments and other texts, previews, further images (MPF) and whatever follows the end.

    Args:
        file: opened for reading, with a position.
        kind: name of its format.

    Returns:
        None if the file does not follow its format strictly, or is in another one than JPEG, PNG,
        WebP, GIF and BMP; such a file has to be encoded anew.
    """
    parse = _PARSERS.get(kind)
    if parse is None:
        return None
    file.seek(0)
    try:
        return _merged(parse(_Reader(file)))
    except _InvalidError:
        return None


def size_of(parts: Iterable[Part]) -> int:
    """Return the bytes of parts together."""
    return sum(map(len, parts))


def open_parts(file: BinaryIO, parts: Sequence[Part]) -> BinaryIO:
    """Return a file of the parts of another one, which is closed with it.

    Reading it raises an OSError if the other file is shorter than it was.
    """
    return io.BufferedReader(_PartsReader(file, parts), _PIECE)


class _PartsReader(io.RawIOBase):
    def __init__(self, file: BinaryIO, parts: Sequence[Part]) -> None:
        self._file = file
        self._parts = iter(parts)
        self._part: Part = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._part:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._part = part
        view = memoryview(buffer)
        piece, self._part = self._part[: len(view)], self._part[len(view) :]
        if isinstance(piece, range):
            self._file.seek(piece.start)
            data = self._file.read(len(piece))
            if len(data) < len(piece):
                raise OSError("the file has become shorter")
            piece = data
        view[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Reader:
    """Reads a file from its start; its end is an error, and so are too many small reads."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._reads = 0
        self.position = 0

    def read(self, size: int) -> bytes:
        data = self.read_at_most(size)
        if len(data) < size:
            raise _InvalidError
        return data

    def read_at_most(self, size: int) -> bytes:
        self._reads += 1
        if self._reads > _MAX_READS:
            raise _InvalidError
        if not self._reads % _READS_PER_CHECK:
            check_cancelled()
        data = self._file.read(size)
        self.position += len(data)
        return data

    def number(self, kind: str) -> int:
        (value,) = struct.unpack(kind, self.read(struct.calcsize(kind)))
        return int(value)

    def skip(self, size: int) -> range:
        """Skip bytes that are in the file; return their offsets."""
        start = self.position
        if size:
            self.seek(start + size - 1)
            self.read(1)
        return range(start, start + size)

    def seek(self, position: int) -> None:
        self._file.seek(position)
        self.position = position


def _merged(parts: Iterable[Part]) -> list[Part]:
    """Return parts with adjacent ones joined."""
    merged: list[Part] = []
    for part in parts:
        last = merged[-1] if merged else None
        if isinstance(part, range) and isinstance(last, range) and last.stop == part.start:
            merged[-1] = range(last.start, part.stop)
        elif isinstance(part, bytes) and isinstance(last, bytes):
            merged[-1] = last + part
        else:
            merged.append(part)
        if len(merged) > _MAX_PARTS:
            raise _InvalidError
    return merged


def _orientation(tiff: bytes) -> int:
    """Return the orientation, 1 to 8, that EXIF data (a TIFF) states for the image; or 1."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return _NO_ORIENTATION
    try:
        (offset,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, offset)
        for index in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, offset + 2 + 12 * index)
            if tag == _ORIENTATION and kind == 3 and 1 <= value <= 8:
                return int(value)
    except struct.error:
        pass
    return _NO_ORIENTATION


def _exif(orientation: int) -> bytes:
    """Return EXIF data (a TIFF) with nothing but an orientation."""
    entry = struct.pack(">HHIHH", _ORIENTATION, 3, 1, orientation, 0)
    return b"MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)


_APP0, _APP1, _APP2, _APP14, _APP15, _COM = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE
_SOS, _EOI = 0xDA, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_TABLES = frozenset((0xC4, 0xCC, 0xDB, 0xDC, 0xDD))
_NEXT_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")


def _jpeg(reader: _Reader) -> Iterator[Part]:
    """Yield the parts of a JPEG: tables, frames and scans, and reduced application segments."""
    if reader.read(2) != b"\xff\xd8":
        raise _InvalidError
    yield b"\xff\xd8"
    has_frame = has_scan = False
    kept: set[int] = set()
    while (marker := _jpeg_marker(reader)) != _EOI:
        start = reader.position - 2
        size = reader.number(">H") - 2
        if size < 0:
            raise _InvalidError
        if marker == _COM or _APP0 <= marker <= _APP15:
            content = reader.read(size)
            if marker == _APP2 and content.startswith(b"ICC_PROFILE\0"):
                yield range(start, reader.position)
            elif marker not in kept and (segment := _jpeg_segment(marker, content)) is not None:
                kept.add(marker)
                yield segment
            continue
        if marker not in _FRAMES | _TABLES | {_SOS}:
            raise _InvalidError
        reader.skip(size)
        has_frame |= marker in _FRAMES
        if marker == _SOS:
            has_scan = True
            _skip_scan(reader)
        yield range(start, reader.position)
    if not (has_frame and has_scan):
        raise _InvalidError
    yield b"\xff\xd9"


def _jpeg_marker(reader: _Reader) -> int:
    """Return the next marker, which fill bytes may precede."""
    if reader.read(1) != b"\xff":
        raise _InvalidError
    marker = 0xFF
    while marker == 0xFF:
        marker = reader.number("B")
    return marker


def _jpeg_segment(marker: int, content: bytes) -> bytes | None:
    """Return what is kept of the first application segment of a kind; None of any other kind."""
    if marker == _APP0 and content.startswith(b"JFIF\0") and len(content) >= 14:
        content = content[:12] + b"\0\0"  # without the thumbnail
    elif marker == _APP1 and content.startswith(b"Exif\0\0"):
        orientation = _orientation(content[6:])
        if orientation == _NO_ORIENTATION:
            return b""
        content = b"Exif\0\0" + _exif(orientation)
    elif marker == _APP14 and content.startswith(b"Adobe") and len(content) >= 12:
        content = content[:12]
    else:
        return None
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _skip_scan(reader: _Reader) -> None:
    """Skip entropy-coded data, up to the next marker."""
    size = _FIRST_CHUNK  # there may be many scans, and what is read too far is read again
    while True:
        start = reader.position
        chunk = reader.read_at_most(size)
        if not chunk:
            raise _InvalidError
        while chunk.endswith(b"\xff"):
            chunk += reader.read(1)
        found = _NEXT_MARKER.search(chunk)
        if found is not None:
            reader.seek(start + found.start())
            return
        size = min(2 * size, _CHUNK)


_PNG_KEPT = frozenset(
    b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB iCCP cICP mDCV cLLI sBIT bKGD pHYs hIST sPLT acTL "
    b"fcTL fdAT".split()
)


def _png(reader: _Reader) -> Iterator[Part]:
    """Yield the chunks of a PNG that make up the image."""
    if reader.read(8) != b"\x89PNG\r\n\x1a\n":
        raise _InvalidError
    yield range(8)
    kind, first, has_exif = b"", True, False
    while kind != b"IEND":
        start = reader.position
        size, kind = reader.number(">I"), reader.read(4)
        if not kind.isalpha() or (kind == b"IHDR") != first or (kind == b"IEND" and size):
            raise _InvalidError
        first = False
        if kind == b"eXIf" and not has_exif and size < _CHUNK:
            has_exif = True
            orientation = _orientation(reader.read(size))
            reader.skip(4)
            if orientation != _NO_ORIENTATION:
                yield _png_chunk(b"eXIf", _exif(orientation))
            continue
        reader.skip(size + 4)
        if kind in _PNG_KEPT:
            yield range(start, reader.position)
        elif kind[:1].isupper():  # an image that needs it cannot be shown without it
            raise _InvalidError


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


_GIF_IMAGE, _GIF_EXTENSION, _GIF_END = 0x2C, 0x21, 0x3B
_GIF_CONTROL, _GIF_APPLICATION = 0xF9, 0xFF
_GIF_APPLICATIONS = (b"NETSCAPE2.0", b"ANIMEXTS1.0", b"ICCRGBG1012")


def _gif(reader: _Reader) -> Iterator[Part]:
    """Yield the images of a GIF and how they are animated."""
    if reader.read(6) not in (b"GIF87a", b"GIF89a"):
        raise _InvalidError
    reader.skip(4)
    flags = reader.number("B")
    reader.skip(2)
    _skip_color_table(reader, flags)
    yield range(reader.position)
    while (block := reader.number("B")) != _GIF_END:
        start = reader.position - 1
        if block == _GIF_IMAGE:
            reader.skip(8)
            flags = reader.number("B")
            _skip_color_table(reader, flags)
            reader.skip(1)
            _skip_blocks(reader)
            yield range(start, reader.position)
        elif block == _GIF_EXTENSION:
            label = reader.number("B")
            application = b""
            if label == _GIF_APPLICATION:
                application = reader.read(reader.number("B"))
            _skip_blocks(reader)
            if label == _GIF_CONTROL or application in _GIF_APPLICATIONS:
                yield range(start, reader.position)
        else:
            raise _InvalidError
    yield b"\x3b"


def _skip_color_table(reader: _Reader, flags: int) -> None:
    if flags & 0x80:
        reader.skip(3 << ((flags & 7) + 1))


def _skip_blocks(reader: _Reader) -> None:
    """Skip data in blocks of up to 255 bytes, which an empty one ends."""
    while size := reader.number("B"):
        reader.read(size)


_WEBP_KEPT = frozenset((b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP"))
_WEBP_IMAGES = frozenset((b"VP8 ", b"VP8L", b"ANMF"))
_WEBP_FRAME = frozenset((b"VP8 ", b"VP8L", b"ALPH"))
_WEBP_EXIF, _WEBP_XMP = 0x08, 0x04


def _webp(reader: _Reader) -> Iterator[Part]:
    """Yield the chunks of a WebP that make up the image, with a new header."""
    if reader.read(4) != b"RIFF":
        raise _InvalidError
    end = 8 + reader.number("<I")
    if reader.read(4) != b"WEBP":
        raise _InvalidError
    chunks = list(islice(_riff_chunks(reader, end), _MAX_PARTS))
    if reader.position < end:
        raise _InvalidError
    kinds = [kind for kind, _ in chunks]
    extended = kinds[:1] == [b"VP8X"]
    kept = chunks[1:] if extended else chunks[:1]
    kept = [(kind, content) for kind, content in kept if kind in _WEBP_KEPT]
    if not any(kind in _WEBP_IMAGES for kind, _ in kept):
        raise _InvalidError
    for kind, content in kept:
        if kind == b"ANMF":
            _check_frame(reader, content)
    parts: list[Part] = [
        range(content.start - 8, content.stop + len(content) % 2) for _, content in kept
    ]
    if extended:
        places = [content for kind, content in chunks if kind == b"EXIF"]
        exif = _webp_orientation(reader, places[0]) if places else b""
        flags = bytearray(_read_range(reader, chunks[0][1]))
        if len(flags) != 10:
            raise _InvalidError
        flags[0] = flags[0] & ~(_WEBP_EXIF | _WEBP_XMP) | (_WEBP_EXIF if exif else 0)
        parts = [_riff_chunk(b"VP8X", bytes(flags)), *parts, exif]
    yield b"RIFF" + struct.pack("<I", 4 + size_of(parts)) + b"WEBP"
    yield from parts


def _webp_orientation(reader: _Reader, place: range) -> bytes:
    """Return a chunk with the orientation that EXIF data states, empty if it is the usual one."""
    if len(place) > _CHUNK:
        return b""
    orientation = _orientation(_read_range(reader, place).removeprefix(b"Exif\0\0"))
    if orientation == _NO_ORIENTATION:
        return b""
    return _riff_chunk(b"EXIF", _exif(orientation))


def _riff_chunks(reader: _Reader, end: int) -> Iterator[tuple[bytes, range]]:
    """Yield the type of each chunk up to a position, and where its content is."""
    while reader.position < end:
        kind, size = reader.read(4), reader.number("<I")
        content = reader.skip(size)
        after = content.stop + size % 2
        if after > end:
            raise _InvalidError
        if size % 2:
            reader.skip(1)
        yield kind, content
        reader.seek(after)


def _riff_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _read_range(reader: _Reader, part: range) -> bytes:
    if len(part) > _CHUNK:
        raise _InvalidError
    reader.seek(part.start)
    return reader.read(len(part))


def _check_frame(reader: _Reader, frame: range) -> None:
    """Check that a frame of an animation has nothing but an image."""
    if len(frame) < 16:
        raise _InvalidError
    reader.seek(frame.start + 16)
    for kind, _ in _riff_chunks(reader, frame.stop):
        if kind not in _WEBP_FRAME:
            raise _InvalidError


def _bmp(reader: _Reader) -> Iterator[Part]:
    """Yield a BMP as long as its header says; it has no metadata."""
    if reader.read(2) != b"BM":
        raise _InvalidError
    size = reader.number("<I")
    if size < 26:
        raise _InvalidError
    reader.seek(0)
    yield reader.skip(size)


_PARSERS: Mapping[str, Callable[[_Reader], Iterator[Part]]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "GIF": _gif,
    "BMP": _bmp,
}
