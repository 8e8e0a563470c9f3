"""Output of all commands: results on stdout, progress and notes on stderr."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from lookalike.formatting import format_count, printable

if TYPE_CHECKING:
    from lookalike.sources import Skipped
    from lookalike.types import Failure, ProgressCallback

_ESCAPE = "backslashreplace"
"""How characters are printed that the console's encoding lacks."""

_ASCII_HEAD = "    \n    \n -- \n" + 5 * "    \n"
"""Rich's ``SIMPLE_HEAD`` in ASCII: a line below the head of a table."""

_STEERING = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What steers a terminal or no console can write, and JSON escapes only in ASCII."""

_NUMERIC = re.compile(r"[-+\d.,:%\[\] ]*")

_LISTED = 20
"""Failures that are listed, at most."""

_PIPED_WIDTH = 200
"""Columns of a table where stdout is no terminal."""


@contextlib.contextmanager
def any_encoding() -> Iterator[None]:
    r"""Let stdout and stderr escape what their encoding lacks while the block runs.

    A file name may have any character, and on Linux bytes that are none; the console may be one of
    ``cp1252`` or ``ascii``. They are printed as ``\u0142`` where they would end the command.
    """
    with contextlib.ExitStack() as restored:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                restored.callback(stream.reconfigure, errors=stream.errors)
                stream.reconfigure(errors=_ESCAPE)
        yield


def note(text: str) -> None:
    """Print lines to stderr; what would command the terminal is escaped."""
    print(_printable_lines(text), file=sys.stderr, flush=True)


def print_lines(text: str) -> None:
    """Print lines for people to stdout; what would command the terminal is escaped."""
    print(_printable_lines(text), flush=True)


def print_names(names: Sequence[str]) -> None:
    """Print names to stdout, one a line: as they are for programs, escaped on a terminal."""
    print("\n".join(map(printable, names) if sys.stdout.isatty() else names))


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def print_json(value: Any, *, one_line: bool = False) -> None:
    """Print a JSON document to stdout, or one line of JSON Lines; in ASCII unless it is UTF-8."""
    # A lone surrogate is escaped as JSON does it, other characters are not.
    ascii_only = not _encoding().startswith("utf")
    text = json.dumps(value, ensure_ascii=ascii_only, indent=None if one_line else 2)
    print(_STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text), flush=True)


def _encoding() -> str:
    """Return the encoding of stdout, in lower case; UTF-8 where text is not encoded at all."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower()


def _printable(text: str) -> str:
    """Return a text as stdout writes it, in one line, so that the columns of a table align."""
    return printable(text).encode(_encoding(), _ESCAPE).decode(_encoding())


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    max_width: int = _PIPED_WIDTH,
) -> None:
    """Print a title and a table to stdout; columns of numbers are right-aligned.

    The table is as wide as the terminal or, where there is none, at most ``max_width``.
    """
    from rich.box import SIMPLE_HEAD, Box
    from rich.console import Console
    from rich.table import Table

    columns = [_printable(name) for name in columns]
    rows = [[_printable(cell) for cell in row] for row in rows]
    table = Table(
        box=SIMPLE_HEAD if _encoding().startswith("utf") else Box(_ASCII_HEAD, ascii=True),
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for i, name in enumerate(columns):
        numeric = all(_NUMERIC.fullmatch(row[i]) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else max_width
    printer = Console(width=width, highlight=False, markup=False)
    with printer.capture() as capture:
        printer.print(table)
    if title:
        print(_printable(title))  # by itself: in the table it would be wrapped to its width
    for line in capture.get().splitlines():
        if line.strip():
            print(line.removeprefix(" ").rstrip())


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values to stdout, one a line; nested ones by both names."""
    for name, value in facts.items():
        nested = value.items() if isinstance(value, Mapping) else [("", value)]
        for key, each in nested:
            label = f"{name} {key}".strip().replace("_", " ")
            print(f"{printable(label):24} {_readable(each)}")


def _readable(value: object) -> str:
    """Return a JSON value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{printable(name)} {_readable(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        if len(value) > _LISTED:
            return format_count(len(value), "value")
        return ", ".join(map(_readable, value))
    return printable(str(value))


def size(number: int) -> str:
    """Return a number of bytes as people read it: ``16.1 MB``."""
    for unit, bytes_each in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= bytes_each:
            return f"{number / bytes_each:.1f} {unit}"
    return format_count(number, "byte")


def note_skipped(skipped: Sequence[Failure], singular: str, plural: str) -> None:
    """List on stderr what was skipped, the first twenty with their reasons."""
    for failure in skipped[:_LISTED]:
        note(f"skipped: {printable(failure.uri)}: {failure.reason}")
    if skipped:
        note(f"{format_count(len(skipped), singular, plural)} skipped")


def note_not_taken(skipped: Sequence[Skipped]) -> None:
    """List on stderr what a source does not take, a line for each reason, in columns."""
    rows = [
        (f"{each.count:,}", each.reason, f"e.g. {printable(each.example)}", each.hint or "")
        for each in skipped
    ]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    for count, reason, example, hint in rows:
        columns = (count.rjust(widths[0]), reason.ljust(widths[1]), example.ljust(widths[2]), hint)
        note("skipped: " + "  ".join(columns).rstrip())


def note_failed(failures: Sequence[Failure], *, more: str = "") -> None:
    """List on stderr what could not be indexed, the first twenty with their reasons.

    Args:
        failures: of a sync.
        more: what lists the others, such as "--json lists them all".
    """
    for failure in failures[:_LISTED]:
        reason = failure.reason.replace("allow_private_urls", "--allow-private-urls")
        note(f"failed: {printable(failure.uri)}: {printable(reason)}")
    if len(failures) > _LISTED:
        note(f"... and {len(failures) - _LISTED:,} more" + (f"; {more}" if more else ""))


def progress() -> AbstractContextManager[ProgressCallback]:
    """Show progress, rate and remaining time on stderr: bars on a terminal, lines elsewhere."""
    from lookalike.progress import reporting

    return reporting(lines=True)
