r"""Files: names that are no valid text or lead elsewhere, and reading that never waits.

A file name on Linux is a sequence of bytes. Python represents bytes that are not UTF-8 by lone
surrogates, which no store, JSON document or table can hold. IDs, URIs and specifications hold names
with such bytes escaped, as in ``caf\xe9.jpg``; :func:`unescape_name` returns the name again. They
are the same where the locale makes Python read names as ASCII.

A name that was read from an artifact or from a server becomes part of a path only through
:func:`bare_name`, and files of an artifact are opened with ``follow=False``: whoever made the
artifact could otherwise name any file of the user.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from collections.abc import Collection
from pathlib import Path

from lookalike.errors import ArtifactError, InputError
from lookalike.texts import normalized

_TO_ESCAPE = re.compile(r"\\(?=x(?:5c|[89a-f][0-9a-f]))|[\udc80-\udcff]")
_ESCAPED = re.compile(r"\\x(5c|[89a-f][0-9a-f])")

_LONGEST_NAME = 200
_LONGEST_SHOWN = 80

_READ_ONLY = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def as_path(value: object, argument: str) -> Path:
    """Return an argument that is a path.

    Raises:
        InputError: it is something else, or empty.
    """
    if isinstance(value, Path) or (isinstance(value, str | os.PathLike) and os.fspath(value)):
        path = Path(value)
        if (problem := _path_problem(path)) is not None:
            raise InputError(f"{{{argument}}} {problem}", **{argument: None})
        return path
    shown = repr(value) if isinstance(value, str) else type(value).__name__
    raise InputError(f"{{{argument}}} must be a path, not {shown}", **{argument: None})


def _path_problem(path: Path) -> str | None:
    """Return why the system can have no such path, None if it can."""
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return "is too long for a path"
    except ValueError:  # NUL, or half of a surrogate pair
        return "has characters that no path can have"
    return None


def expand_home(path: str | os.PathLike[str]) -> str:
    """Return a path without ``~``; as it is, if there is no such user."""
    return os.path.expanduser(path)  # noqa: PTH111 - that of Path raises for unknown users


def is_url(text: str) -> bool:
    """Return whether a URI is the URL of an image, not the path of a file."""
    return text[:8].lower().startswith(("http://", "https://"))


def escape_name(name: str) -> str:
    r"""Return a file name or path as valid text, from which :func:`unescape_name` restores it.

    A byte that is not UTF-8 becomes ``\xNN``. A backslash that would read as such an escape
    becomes ``\x5c``, so that different names stay different. All other names are unchanged.
    """
    if os.name == "nt":  # where names are Unicode and a backslash separates folders
        return name
    return _TO_ESCAPE.sub(
        lambda match: "\\x5c" if match[0] == "\\" else f"\\x{ord(match[0]) - 0xDC00:02x}",
        _read_as_utf8(name),
    )


def _read_as_utf8(name: str) -> str:
    """Return a name whose bytes Python read as ASCII as UTF-8; any other one unchanged."""
    if name.isascii():
        return name
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return name


def unescape_name(text: str) -> str:
    """Return the file name or path that :func:`escape_name` made a text of."""
    if os.name == "nt":
        return text
    name = _ESCAPED.sub(
        lambda match: "\\" if match[1] == "5c" else chr(0xDC00 + int(match[1], 16)), text
    )
    try:
        return os.fsdecode(name.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return name


class AnchoredPath:
    """A path that stays where it was when it was given, whatever the working directory becomes."""

    def __init__(self, path: str | Path) -> None:
        self._given = Path(path)
        self._folder = None if self._given.is_absolute() else os.getcwd()  # noqa: PTH109 - a text
        self._absolute = self._given.absolute()

    @property
    def path(self) -> Path:
        """The path as it was given, as long as that leads to the same place; else absolute."""
        try:
            is_there = self._folder is None or os.getcwd() == self._folder  # noqa: PTH109 - fast
        except OSError:  # the working directory is gone
            return self._absolute
        return self._given if is_there else self._absolute


def normalize_name(name: str) -> str:
    """Return the form that different spellings of a path share: Unicode NFC, with slashes."""
    return normalized("NFC", name.replace("\\", "/"))


def valid_text(text: str) -> str:
    r"""Return a text without lone surrogates: escaped as file names, or else as ``\udNNN``."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return escape_name(text).encode("utf-8", "backslashreplace").decode()
    return text


def bare_name(name: object, place: str, *, allowed: Collection[str] = ()) -> str:
    """Return a file name that was read from an artifact or a server, if it is nothing but a name.

    Args:
        name: as it was read.
        place: the artifact or address, for messages.
        allowed: the names that may occur there; without any, every bare name may.

    Raises:
        ArtifactError: it is not a text, leads to another folder, has characters that a name cannot
            have on every system, or is not allowed.
    """
    if (
        not isinstance(name, str)
        or name in ("", ".", "..")
        or not name.isprintable()
        or any(character in '/\\:*?"<>|' for character in name)
        or name[-1] in ". "
        or len(name) > _LONGEST_NAME
    ):
        raise ArtifactError(
            f"{place}: names the file {_shorten(name)}, which is not a plain file name; it is "
            "damaged, or was made to reach other files"
        )
    if allowed and name not in allowed:
        raise ArtifactError(
            f"{place}: names the file {_shorten(name)}, which does not belong there; expected "
            f"{', '.join(sorted(allowed))}"
        )
    return name


def _shorten(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."


def check_no_link(path: Path, *, what: str) -> None:
    """Check that a file or folder inside an artifact is not a link, which could lead anywhere.

    Args:
        path: may be missing.
        what: the artifact, with its article.

    Raises:
        ArtifactError: it is a link.
    """
    if path.is_symlink():
        raise ArtifactError(
            f"{path}: is a link, but {what} has files of its own; replace it by what it leads to"
        )


def check_regular(path: str | Path) -> None:
    """Check that a path is a regular file: reading a pipe, socket or device could wait for ever.

    Raises:
        OSError: it is not, or does not exist; ``strerror`` says so.
    """
    _check_mode(os.stat(path).st_mode, path)  # noqa: PTH116 - half the cost of Path.stat


def read_regular(path: str | Path, *, limit: int | None = None, follow: bool = True) -> bytes:
    """Return the bytes of a regular file; anything else is refused without waiting.

    Args:
        path: the file.
        limit: of its size, in bytes: a file may be much larger than what it takes on the disk.
        follow: also if the path is a link to a file.

    Raises:
        OSError: it is not a regular file, is larger, or cannot be read; ``strerror`` says why.
    """
    with open_regular(path, follow=follow) as file:
        if limit is not None and os.fstat(file.fileno()).st_size > limit:
            raise OSError(errno.EFBIG, f"larger than {limit / 1e6:,.0f} MB", str(path))
        return file.read(-1 if limit is None else limit)


def open_regular(path: str | Path, *, follow: bool = True) -> io.BufferedReader:
    """Open a regular file for reading; anything else is refused without waiting.

    Args:
        path: the file.
        follow: also if the path is a link to a file.

    Raises:
        OSError: it is not a regular file, or cannot be opened; ``strerror`` says why.
    """
    if not follow and os.path.islink(path):  # noqa: PTH114 - a text, too
        raise OSError(errno.ELOOP, "is a link", str(path))
    check_regular(path)  # opening alone may already have an effect on a device
    file = open(path, "rb", opener=_opener if follow else _opener_of_no_link)  # noqa: SIM115
    try:
        _check_mode(os.fstat(file.fileno()).st_mode, path)
    except OSError:
        file.close()
        raise
    return file


def _opener(path: str, flags: int) -> int:
    """Open a file without waiting for the writer of a pipe that has just taken its place."""
    return os.open(path, flags | _READ_ONLY)


def _opener_of_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | _READ_ONLY | getattr(os, "O_NOFOLLOW", 0))


def _check_mode(mode: int, path: str | Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
