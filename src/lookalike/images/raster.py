"""What decoders return, what they are asked for, and how their errors become those of an image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from lookalike.errors import CancelledError, ImageError
from lookalike.formatting import format_count
from lookalike.images.formats import Format, install_command
from lookalike.images.intensity import Window
from lookalike.images.options import FURTHER_FRAMES, FURTHER_PAGES, DecodeOptions
from lookalike.process_state import IgnoreWarnings, MuteLoggers

LARGE = 50_000_000
"""Images of more pixels are reduced by a whole factor once they are decoded."""

CONVERSION_BYTES = 12
"""Bytes per pixel of the copies in which colors, transparency and orientation are converted."""


class RefusedError(Exception):
    """The file is not broken, but cannot be read here; the message says why, without its name."""


Reserve = Callable[[int, int, int], None]
"""Called before decoding with width, height and the bytes of memory it takes; may refuse them."""

ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How images are turned upright, by EXIF orientation."""

_TOO_LARGE = IgnoreWarnings(Image.DecompressionBombWarning)  # limits are checked here
_BAD_METADATA = IgnoreWarnings(UserWarning, module=r"PIL\.")  # metadata is not needed
_LOGGED_ERRORS = MuteLoggers("PIL.TiffImagePlugin")  # Pillow raises these errors, too


@dataclass(frozen=True, slots=True, kw_only=True)
class Raster:
    """A decoded image before its conversion to gray or RGB of 8 bits.

    Args:
        image: of at most 8 bits per channel, in any of Pillow's modes; None if there are
        values: ``(H, W)`` or ``(H, W, 2..4)`` of more than 8 bits; the second or fourth channel is
            transparency.
        window: the values that the file states to be black and white.
        bits: that the values may take, of which transparency is a fraction.
        inverted: the largest value is black.
        has_alpha: whether transparency of ``image`` is meant as such.
        orientation: of EXIF, 1 to 8.
        profile: ICC profile.
        notes: as those of :mod:`lookalike.images.options`.
        pages: pages or frames of the file.
    """

    image: Image.Image | None = None
    values: NDArray[Any] | None = None
    window: Window | None = None
    bits: int = 8
    inverted: bool = False
    has_alpha: bool = True
    orientation: int = 1
    profile: bytes | None = None
    notes: tuple[str, ...] = ()
    pages: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to read of a file.

    ``reserve`` is called once before pixels are decoded. ``page`` counts from 0.
    """

    data: bytes
    kind: Format
    options: DecodeOptions
    reserve: Reserve
    page: int = 0
    full_size: bool = False


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return an image turned as its EXIF orientation says."""
    method = ORIENTATIONS.get(orientation)
    return image if method is None else image.transpose(method)


@contextlib.contextmanager
def decoder_errors(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into an ImageError with the name of the image.

    Raises:
        ImageError: instead of any other exception.
    """
    try:
        with _TOO_LARGE, _BAD_METADATA, _LOGGED_ERRORS:
            yield
    except (ImageError, CancelledError):
        raise
    except RefusedError as error:
        raise ImageError(f"{name}: {error}") from None
    except MemoryError:
        raise ImageError(f"{name}: decoding needs more memory than allowed") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: too many pixels ({error})") from None
    except Exception as error:  # a broken file must not end the batch
        first = error.args[0] if error.args else ""
        text = first.decode("utf-8", "replace") if isinstance(first, bytes) else str(error)
        detail = text or type(error).__name__
        raise ImageError(f"{name}: broken image ({detail})") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of decoders in Rust
            raise
        raise ImageError(f"{name}: broken image ({error})") from None


def check_readable(kind: Format) -> None:
    """Refuse a format whose package is not installed.

    Raises:
        RefusedError: with the command that installs it.
    """
    if not kind.is_readable:
        raise RefusedError(
            f"reading {kind.name} needs {kind.package}; run: {install_command(kind)}"
        )


def select_page(pages: tuple[int, ...], request: Request) -> int:
    """Return the frame of the page that is asked for.

    Raises:
        RefusedError: there is none.
    """
    if not 0 <= request.page < len(pages):
        raise RefusedError(
            f"has {format_count(len(pages), 'page')}; there is no page {request.page + 1}, counted "
            "from 1"
        )
    return pages[request.page]


def page_notes(kind: Format, pages: int, page: int) -> tuple[str, ...]:
    """Return the note that there are further pages or frames than the first, if it is read."""
    if pages == 1 or page:
        return ()
    return (FURTHER_PAGES if kind.name == "TIFF" else FURTHER_FRAMES,)
