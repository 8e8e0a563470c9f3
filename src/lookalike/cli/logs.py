"""Log lines on stderr and in files: one line each, nothing that steers a terminal, no floods."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import TYPE_CHECKING

from lookalike.artifacts import storage_error
from lookalike.cli.console import note, progress
from lookalike.errors import SettingError
from lookalike.formatting import format_count, printable, without_url_secrets

if TYPE_CHECKING:
    from lookalike.types import ProgressCallback

log = logging.getLogger(__name__)

_WINDOW_S = 60.0
_LINES = 20
_KINDS = 1_000
_MAX_CHARACTERS = 2_000


@contextlib.contextmanager
def notices() -> Iterator[None]:
    """Print to stderr what :func:`lookalike.progress.notice` says while the block runs."""
    logger = logging.getLogger("lookalike.notice")
    handler = _Notices()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


class _Notices(logging.Handler):
    """Prints each message as a line of the command."""

    as_json = False

    def emit(self, record: logging.LogRecord) -> None:
        note(JsonFormatter().format(record) if self.as_json else record.getMessage())


def log_to_stderr(level: int, layout: str) -> None:
    """Log to stderr from ``level`` on, as :class:`LineFormatter` writes it.

    Nothing changes if logging is configured already.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(layout))
    handler.addFilter(RepeatFilter())
    logging.basicConfig(level=level, handlers=[handler])


@contextlib.contextmanager
def service_logs(level: str, *, as_json: bool) -> Iterator[Announcer]:
    """Log to stderr from a level on while the block runs, with times and IDs of requests.

    Other packages log warnings and errors only. ``--verbose`` is at least the level "info" here.

    Args:
        level: such as "info".
        as_json: an object of JSON a line, also for notices.
    """
    root, own, notes = (logging.getLogger(name) for name in ("", "lookalike", "lookalike.notice"))
    replaced = [each for each in root.handlers if isinstance(each.formatter, LineFormatter)]
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if as_json else _ServiceFormatter())
    handler.addFilter(RepeatFilter())
    levels = root.level, own.level
    chosen = logging.getLevelName(level.upper())
    if replaced:
        chosen = min(chosen, logging.INFO)
    root.handlers = [*(each for each in root.handlers if each not in replaced), handler]
    root.setLevel(max(logging.WARNING, chosen))
    own.setLevel(chosen)
    printers = [each for each in notes.handlers if as_json and isinstance(each, _Notices)]
    for each in printers:
        each.as_json = True
    try:
        yield Announcer(as_json)
    finally:
        for each in printers:
            each.as_json = False
        root.handlers = [*(each for each in root.handlers if each is not handler), *replaced]
        root.level, own.level = levels


@dataclass(frozen=True, slots=True)
class Announcer:
    """Prints lines about a service itself, whatever the level of its log is."""

    as_json: bool

    def __call__(self, text: str, level: int = logging.INFO) -> None:
        """Print a line: as it is, as a warning, or as an object of JSON."""
        if self.as_json:
            record = logging.LogRecord("lookalike.serve", level, "", 0, "%s", (text,), None)
            note(JsonFormatter().format(record))
        else:
            note(f"warning: {text}" if level == logging.WARNING else text)

    def progress(self) -> contextlib.AbstractContextManager[ProgressCallback]:
        """Show progress, but not between lines of JSON."""
        from lookalike.types import ignore_progress

        return contextlib.nullcontext(ignore_progress) if self.as_json else progress()


def log_to_file(name: str, path: Path) -> None:
    """Append the fields that one logger logs to a file instead, which only its owner can read.

    The file is opened again when it was renamed, as programs do that rotate logs.

    Raises:
        StorageError: the file cannot be written.
        SettingError: it is not a regular file.
    """
    if path.exists() and not path.is_file():
        raise SettingError(f"{path}: not a regular file, so nothing can be appended to it")
    try:
        handler = _PrivateFile(path)
    except OSError as error:
        raise storage_error(path, error) from error
    handler.setFormatter(JsonFormatter(envelope=False))
    handler.addFilter(RepeatFilter())
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    logger.propagate = False


class LineFormatter(logging.Formatter):
    """Writes a message as one line of printable text; the lines of a traceback are indented.

    Control characters are escaped, and queries and passwords are cut from URLs.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and those of a traceback."""
        record.message = _clean(record.getMessage())
        suppressed = getattr(record, "suppressed", 0)
        if suppressed:
            count = format_count(suppressed, "line")
            record.message += f" ({count} like this left out in the last minute)"
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        lines = [self.formatMessage(record)]
        if record.exc_info and record.exc_info[0] is not None:
            for text in traceback.format_exception(*record.exc_info):
                lines += [f"  {_clean(line)}" for line in text.rstrip("\n").split("\n")]
        return "\n".join(lines)


class _ServiceFormatter(LineFormatter):
    """A line with the time, and with the ID of the request that it is about."""

    def __init__(self) -> None:
        super().__init__("%(utc)s %(levelname)s %(name)s: %(message)s%(request)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - its name in logging
        """Return the line without a traceback."""
        from lookalike.server.request_ids import current_request_id

        identity = "" if hasattr(record, "fields") else current_request_id()
        record.utc = _time(record)
        record.request = f" request_id={identity}" if identity else ""
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """Writes a record as one line: an object of JSON in ASCII.

    Args:
        envelope: also write the level and the name of the logger; else only time and fields.
    """

    def __init__(self, *, envelope: bool = True) -> None:
        super().__init__()
        self._envelope = envelope

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        from lookalike.server.request_ids import current_request_id

        values: dict[str, object] = {"time": _time(record)}
        if self._envelope:
            values |= {"level": record.levelname.lower(), "logger": record.name}
        fields: dict[str, object] | None = getattr(record, "fields", None)
        if fields is None:
            values["message"] = _clean(record.getMessage())
            values |= {"request_id": identity} if (identity := current_request_id()) else {}
        else:
            values |= fields
        if suppressed := getattr(record, "suppressed", 0):
            values["suppressed"] = suppressed
        if record.exc_info and record.exc_info[0] is not None:
            text = "".join(traceback.format_exception(*record.exc_info))
            values["traceback"] = [_clean(line) for line in text.rstrip("\n").split("\n")]
        return json.dumps(values)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _clean(text: str) -> str:
    cut = text[:_MAX_CHARACTERS] + ("..." if len(text) > _MAX_CHARACTERS else "")
    return printable(without_url_secrets(cut.rstrip()))


@dataclass(slots=True)
class _Window:
    """What was written of one kind of lines since a moment, and how many were not."""

    started: float
    lines: set[int] = field(default_factory=set)
    suppressed: int = 0


class RepeatFilter(logging.Filter):
    """Passes the same line once a minute, and 20 lines a minute that differ in their values only.

    The next line of that kind says how many were left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self._windows: dict[tuple[object, ...], _Window] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a record; its ``suppressed`` is how many before it were not.

        A record whose ``each`` is true is always written.
        """
        if getattr(record, "each", False):
            return True
        kind: tuple[object, ...] = (record.name, record.levelno, str(record.msg)[:_MAX_CHARACTERS])
        if record.exc_info and record.exc_info[0] is not None:
            frames = traceback.extract_tb(record.exc_info[2], limit=-1)
            kind += (record.exc_info[0], *((frame.filename, frame.lineno) for frame in frames))
        line = hash(record.getMessage())
        now = time.monotonic()
        with self._lock:
            window = self._windows.get(kind)
            if window is None or now - window.started >= _WINDOW_S:
                record.suppressed = 0 if window is None else window.suppressed
                self._forget(now)
                self._windows[kind] = _Window(now, {line})
                return True
            if line not in window.lines and len(window.lines) < _LINES:
                window.lines.add(line)
                return True
            window.suppressed += 1
            return False

    def _forget(self, now: float) -> None:
        """Keep a bounded number of kinds in mind."""
        if len(self._windows) < _KINDS:
            return
        old = [key for key, each in self._windows.items() if now - each.started >= _WINDOW_S]
        for key in old or list(self._windows)[: _KINDS // 2]:
            del self._windows[key]


class _PrivateFile(WatchedFileHandler):
    """A log file for its owner only."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, mode="a", encoding="utf-8", errors="backslashreplace")

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=_open_private)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name in logging
        """Log a line instead of a traceback for each record, and keep the record with it."""
        log.error("%s cannot be written; not written: %s", self.baseFilename, record.getMessage())


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
