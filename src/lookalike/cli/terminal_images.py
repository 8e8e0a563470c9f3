"""Images in terminals that can show them: the protocols of kitty and iTerm2, and sixel.

kitty: https://sw.kovidgoyal.net/kitty/graphics-protocol. iTerm2: https://iterm2.com. Sixel: DEC
STD 070, "Video Systems Reference Manual", 9. Each writes one image below the cursor.
"""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from lookalike.errors import UnknownNameError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from lookalike.types import ImageArray

AUTO = "auto"
OFF = "off"
_LINES = 7
"""Height of a preview in lines of text."""

_CELL = 8, 16
"""Width and height of a character in pixels, where the terminal does not say."""

_GAP = 6
"""Pixels between images."""

_KITTY_CHUNK = 4096
_SIXEL_COLORS = 128


def _kitty(strip: Image.Image) -> str:
    """Return the strip as PNG, in pieces; ``q=2`` lets the terminal not answer."""
    data = base64.b64encode(_png(strip)).decode()
    pieces = [data[i : i + _KITTY_CHUNK] for i in range(0, len(data), _KITTY_CHUNK)]
    text = ""
    for number, piece in enumerate(pieces):
        more = int(number < len(pieces) - 1)
        keys = f"a=T,f=100,q=2,r={_LINES},m={more}" if number == 0 else f"m={more}"
        text += f"\x1b_G{keys};{piece}\x1b\\"
    return text


def _iterm2(strip: Image.Image) -> str:
    data = _png(strip)
    keys = f"inline=1;size={len(data)};height={_LINES};preserveAspectRatio=1"
    return f"\x1b]1337;File={keys}:{base64.b64encode(data).decode()}\x07"


def _sixel(strip: Image.Image) -> str:
    """Return the strip in bands of six lines, each color of a band after the other."""
    import numpy as np

    indexed = strip.quantize(colors=_SIXEL_COLORS)
    palette = np.asarray(indexed.getpalette("RGB"), np.int64).reshape(-1, 3) * 100 // 255
    pixels = np.asarray(indexed)
    colors = "".join(f"#{i};2;{r};{g};{b}" for i, (r, g, b) in enumerate(palette.tolist()))
    bands = [_band(pixels[top : top + 6]) for top in range(0, len(pixels), 6)]
    width, height = strip.size
    return f'\x1bPq"1;1;{width};{height}{colors}{"-".join(bands)}\x1b\\'


def _band(rows: NDArray[np.uint8]) -> str:
    """Return up to six rows of indexes of colors: for each color a character a column."""
    import numpy as np

    bits = (1 << np.arange(len(rows)))[:, None]
    lines = []
    for color in np.unique(rows).tolist():
        column = ((rows == color) * bits).sum(axis=0) + 63
        starts = np.flatnonzero(np.diff(column, prepend=-1))
        lengths = np.diff(starts, append=len(column))
        runs = zip(column[starts].tolist(), lengths.tolist(), strict=True)
        lines.append(f"#{color}" + "".join(_run(chr(value), length) for value, length in runs))
    return "$".join(lines)


def _run(character: str, length: int) -> str:
    return character * length if length < 4 else f"!{length}{character}"


_PROTOCOLS: Mapping[str, Callable[[Image.Image], str]] = {
    "kitty": _kitty,
    "iterm2": _iterm2,
    "sixel": _sixel,
}

MODES = (AUTO, *_PROTOCOLS, OFF)


def choose_protocol(mode: str) -> str | None:
    """Return the protocol of this terminal, None for no previews.

    Args:
        mode: a protocol, whatever stdout is; ``off``; or ``auto``, which is a protocol only where
            stdout is a terminal that is known to support it.

    Raises:
        UnknownNameError: no such mode.
    """
    if mode not in MODES:
        raise UnknownNameError("preview", mode, MODES)
    if mode == AUTO:
        return _protocol_of(os.environ) if sys.stdout.isatty() else None
    return None if mode == OFF else mode


def _protocol_of(environment: Mapping[str, str]) -> str | None:
    """Return the protocol of the terminal that variables describe.

    A multiplexer such as tmux passes the variables of the terminal on, but not its images.
    """
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "TMUX" in environment or term.startswith(("screen", "tmux")) or term == "dumb":
        return None
    if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    if program == "ghostty" or "KONSOLE_VERSION" in environment:
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    if term.startswith(("foot", "mlterm", "contour")):
        return "sixel"
    return None


def print_images(images: Sequence[ImageArray | None], protocol: str) -> None:
    """Print images in a row, as many as fit; those that cannot be read are gray.

    Args:
        images: each ``(H, W)`` or ``(H, W, 3)`` uint8.
        protocol: as of :func:`choose_protocol`.
    """
    columns, (width, height) = _terminal()
    strip = _strip(images, _LINES * height, columns * width)
    print(_PROTOCOLS[protocol](strip), flush=True)


def _terminal() -> tuple[int, tuple[int, int]]:
    """Return the columns of the terminal, and the width and height of a character in pixels."""
    import shutil

    columns = shutil.get_terminal_size().columns
    try:
        import fcntl
        import struct
        import termios

        size = fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, bytes(8))
        rows, columns_now, width, height = struct.unpack("HHHH", size)
    except (ImportError, OSError, ValueError):
        return columns, _CELL
    if not (rows and columns_now and width and height):
        return columns, _CELL
    return columns_now, (max(1, width // columns_now), max(1, height // rows))


def _strip(images: Sequence[ImageArray | None], height: int, width: int) -> Image.Image:
    """Return images side by side, each as high as the strip, on a transparent ground."""
    from PIL import Image

    thumbnails: list[Image.Image] = []
    used = 0
    for pixels in images:
        if pixels is None:
            thumbnail = Image.new("RGB", (height, height), "gray")
        else:
            image = Image.fromarray(pixels).convert("RGB")
            scaled = max(1, round(image.width * height / image.height))
            thumbnail = image.resize((min(scaled, 3 * height), height))
        if thumbnails and used + thumbnail.width > width:
            break
        thumbnails.append(thumbnail)
        used += thumbnail.width + _GAP
    strip = Image.new("RGB", (max(1, min(used - _GAP, max(width, 1))), height), "black")
    left = 0
    for thumbnail in thumbnails:
        strip.paste(thumbnail, (left, 0))
        left += thumbnail.width + _GAP
    return strip


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
