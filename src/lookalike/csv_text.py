"""CSV files that lookalike writes, and reading their cells again.

A spreadsheet takes a cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line end for a
formula, and may run it. Such texts are written with an apostrophe before them, which spreadsheets
do not show; numbers are not. What reads files written here takes the apostrophe away again.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from io import StringIO

_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""The beginning of a formula, or of one that is escaped already."""

_NUMBER = re.compile(r"[-+]?(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][-+]?[0-9]++)?")


def csv_bytes(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Return a CSV file in UTF-8: a header and rows, each with a cell for every column."""
    text = StringIO(newline="")
    writer = csv.writer(text)
    for row in (columns, *rows):
        writer.writerow([escape_cell(str(cell)) for cell in row])
    return text.getvalue().encode("utf-8", "backslashreplace")


def escape_cell(text: str) -> str:
    """Return a text as a cell that no spreadsheet takes for a formula."""
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def unescape_cell(text: str) -> str:
    """Return the text that :func:`escape_cell` made a cell of; others are unchanged."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
