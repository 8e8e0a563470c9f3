"""Image formats: which are read, how they are recognized, and what reads the others.

A file's first bytes decide its format, not its suffix. Two kinds have no signature of their own and
need the suffix too: raw photographs, most of which begin like a TIFF, and TGA.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import PurePath
from types import MappingProxyType

from lookalike.config import UPLOAD_FORMATS, settings

HEADER_BYTES = 512
"""How much of a file :func:`detect_format` looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """An image format.

    Args:
        name: Pillow's name, where Pillow has one.
        suffixes: of its files, in lower case; the first one is given to new files.
        media_type: for HTTP.
        matches: whether a file that begins with these bytes may be of this format.
        package: module that reads it, if Pillow alone cannot.
        extra: of lookalike, with that package.
        uploads: whether the service accepts it in uploads without being asked to.
        web: whether browsers show it.
    """

    name: str
    suffixes: tuple[str, ...]
    media_type: str
    matches: Callable[[bytes], bool]
    package: str | None = None
    extra: str | None = None
    uploads: bool = False
    web: bool = False

    @property
    def is_readable(self) -> bool:
        """Whether the package that reads it is installed."""
        return self.package is None or _is_installed(self.package)


def _starts(*prefixes: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(prefixes)


def _brand(*brands: bytes) -> Callable[[bytes], bool]:
    """Match the major brand of an ISO base media file."""
    return lambda data: data[4:8] == b"ftyp" and data[8:12] in brands


def _is_svg(data: bytes) -> bool:
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    return text.startswith(b"<svg") or (text.startswith((b"<?xml", b"<!")) and b"<svg" in text)


def _is_pcx(data: bytes) -> bool:
    return data[:1] == b"\x0a" and data[1:2] in b"\0\2\3\5" and data[2:3] == b"\1"


def _is_netpbm(data: bytes) -> bool:
    return data[:1] == b"P" and data[1:2] in b"123456fF" and data[2:3] in b" \t\r\n"


def _is_dib(data: bytes) -> bool:
    size = int.from_bytes(data[:4], "little")
    return len(data) >= 16 and size in (12, 40, 52, 56, 64, 108, 124) and data[12:14] == b"\1\0"


def _is_tga(data: bytes) -> bool:
    kinds = (1, 2, 3, 9, 10, 11)
    return len(data) > 18 and data[1] in (0, 1) and data[2] in kinds and data[16] in (8, 16, 24, 32)


_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_JXL = b"\0\0\0\x0cJXL \r\n\x87\n"
_RAW = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"\0MRM", b"FOVb")

RAW_SUFFIXES = (
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".nrw"),
    *(".sr2", ".srf", ".crw", ".raw", ".rwl", ".iiq", ".3fr", ".fff", ".erf", ".mef", ".mos"),
    *(".mrw", ".kdc", ".dcr", ".x3f"),
)
"""Of raw photographs."""

_ALL = (
    Format(
        name="JPEG",
        suffixes=(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
        media_type="image/jpeg",
        matches=_starts(b"\xff\xd8\xff"),
        uploads=True,
        web=True,
    ),
    Format(
        name="PNG",
        suffixes=(".png", ".apng"),
        media_type="image/png",
        matches=_starts(b"\x89PNG\r\n"),
        uploads=True,
        web=True,
    ),
    Format(
        name="WEBP",
        suffixes=(".webp",),
        media_type="image/webp",
        matches=lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP",
        uploads=True,
        web=True,
    ),
    Format(
        name="GIF",
        suffixes=(".gif",),
        media_type="image/gif",
        matches=_starts(b"GIF87a", b"GIF89a"),
        uploads=True,
        web=True,
    ),
    Format(
        name="BMP",
        suffixes=(".bmp",),
        media_type="image/bmp",
        matches=_starts(b"BM"),
        uploads=True,
        web=True,
    ),
    Format(
        name="AVIF",
        suffixes=(".avif", ".avifs"),
        media_type="image/avif",
        matches=_brand(b"avif", b"avis"),
        web=True,
    ),
    Format(
        name="TIFF",
        suffixes=(".tif", ".tiff"),
        media_type="image/tiff",
        matches=_starts(*_TIFF),
    ),
    Format(
        name="JPEG2000",
        suffixes=(".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c"),
        media_type="image/jp2",
        matches=_starts(_JP2, b"\xff\x4f\xff\x51"),
    ),
    Format(
        name="ICO",
        suffixes=(".ico",),
        media_type="image/vnd.microsoft.icon",
        matches=_starts(b"\0\0\1\0"),
    ),
    Format(
        name="PPM",
        suffixes=(".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
        media_type="image/x-portable-anymap",
        matches=_is_netpbm,
    ),
    Format(name="PCX", suffixes=(".pcx",), media_type="image/vnd.zbrush.pcx", matches=_is_pcx),
    Format(name="DIB", suffixes=(".dib",), media_type="image/bmp", matches=_is_dib),
    Format(
        name="HEIF",
        suffixes=(".heic", ".heif", ".hif"),
        media_type="image/heic",
        matches=_brand(*_HEIC),
        package="pi_heif",
        extra="heif",
        uploads=True,
    ),
    Format(
        name="RAW",
        suffixes=RAW_SUFFIXES,
        media_type="image/x-dcraw",
        matches=lambda data: data.startswith(_RAW) or _brand(b"crx ")(data),
        package="rawpy",
        extra="raw",
    ),
    Format(
        name="JXL",
        suffixes=(".jxl",),
        media_type="image/jxl",
        matches=_starts(b"\xff\x0a", _JXL),
        package="pyjpegxl",
        extra="jxl",
    ),
    Format(
        name="SVG",
        suffixes=(".svg",),
        media_type="image/svg+xml",
        matches=_is_svg,
        package="resvg_py",
        extra="svg",
    ),
    Format(name="TGA", suffixes=(".tga",), media_type="image/x-tga", matches=_is_tga),
)

FORMATS: Mapping[str, Format] = MappingProxyType({each.name: each for each in _ALL})
"""Every format that can be read, by name, in the order in which they are tried."""

_UNREADABLE = (
    *(".psd", ".psb", ".xcf", ".kra", ".ai", ".eps", ".ps", ".pdf", ".svgz", ".cdr", ".emf"),
    *(".wmf", ".exr", ".hdr", ".dds", ".qoi", ".icns", ".cur", ".sgi", ".rgb", ".ras", ".xbm"),
    *(".xpm", ".fits", ".fit", ".dcm", ".nii", ".czi", ".lif", ".nd2", ".svs", ".bpg", ".flif"),
    *(".jxr", ".wdp", ".hdp", ".djvu", ".avci", ".cin", ".dpx"),
)

IMAGE_SUFFIXES = frozenset(_UNREADABLE).union(*(each.suffixes for each in _ALL))
"""File suffixes of images in lower case, also of formats that are never read."""

_DEVELOPED = frozenset((*FORMATS["JPEG"].suffixes, *FORMATS["HEIF"].suffixes))


def supported_formats() -> tuple[str, ...]:
    """Return the names of the formats that are read with the packages installed here."""
    return tuple(each.name for each in _ALL if each.is_readable)


def upload_formats() -> tuple[str, ...]:
    """Return the names of the formats that the service reads in uploads and from URLs.

    Few decoders meet files of strangers: the usual formats of the web and HEIC, and others only if
    ``LOOKALIKE_FORMATS`` names them.

    Raises:
        SettingError: ``LOOKALIKE_FORMATS`` names an unknown format.
    """
    named = settings().formats
    return tuple(
        each.name for each in _ALL if each.is_readable and (each.uploads or each.name in named)
    )


def upload_hint(kind: Format) -> str:
    """Return what to set so that the service reads a format in uploads, after a semicolon."""
    if kind.name not in UPLOAD_FORMATS:
        return ""
    return f"; set LOOKALIKE_FORMATS={kind.name.lower()}"


def supported_suffixes() -> frozenset[str]:
    """Return the file suffixes of the formats that are read here, in lower case."""
    return frozenset().union(*(each.suffixes for each in _ALL if each.is_readable))


def format_of_suffix(suffix: str) -> Format | None:
    """Return the format of files with a suffix, in any case of letters, such as ``.HEIC``."""
    lower = suffix.lower()
    return next((each for each in _ALL if lower in each.suffixes), None)


def how_to_read(suffix: str) -> str | None:
    """Return what to run to have files with a suffix read here; None if nothing does, or needs to.

    Files of any suffix without a format, such as ``.psd``, have to be converted.
    """
    known = format_of_suffix(suffix)
    return None if known is None or known.is_readable else install_command(known)


def install_command(kind: Format) -> str:
    """Return the command that installs what reads a format."""
    return f"pip install 'lookalike[{kind.extra}]'"


def detect_format(header: bytes, name: str = "") -> Format | None:
    """Return the format of a file, readable here or not.

    Args:
        header: its first :data:`HEADER_BYTES`, or the whole file.
        name: of the file, for formats that share a signature.
    """
    header = header[:HEADER_BYTES]
    suffix = PurePath(name).suffix.lower()
    if suffix in RAW_SUFFIXES and header[:4] in _TIFF:
        return FORMATS["RAW"]
    for each in _ALL:
        if each.matches(header) and (each.name not in _WEAK or suffix in each.suffixes):
            return each
    return None


_WEAK = frozenset(("TGA", "DIB", "PCX"))
"""Formats whose few first bytes occur in other files too."""


def media_type(data: bytes, name: str = "") -> str | None:
    """Return the media type of a file in a format that is read here, by its first bytes."""
    kind = detect_format(data, name)
    return kind.media_type if kind is not None and kind.is_readable else None


def file_suffix(data: bytes) -> str:
    """Return the suffix of a file in a format that is read here, by its first bytes; else empty."""
    kind = detect_format(data)
    return kind.suffixes[0] if kind is not None and kind.is_readable else ""


def developed_raws(names: Collection[str]) -> dict[str, str]:
    """Map each raw photograph to the JPEG or HEIC of the same stem, which counts instead of it.

    Args:
        names: of the files in one folder. Case is ignored: ``IMG_1.CR2`` belongs to ``img_1.jpg``.
    """
    developed: dict[str, str] = {}
    readable = supported_suffixes() & _DEVELOPED
    for name in sorted(names, reverse=True):
        path = PurePath(name)
        if path.suffix.lower() in readable:
            developed[path.stem.lower()] = name
    return {
        name: developed[stem]
        for name in names
        if PurePath(name).suffix.lower() in RAW_SUFFIXES
        and (stem := PurePath(name).stem.lower()) in developed
    }


@cache
def _is_installed(package: str) -> bool:
    return find_spec(package) is not None
