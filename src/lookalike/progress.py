"""Progress of long work: bars on a terminal, a table in a notebook, lines elsewhere.

Public functions take ``progress``: True shows it where somebody watches, on a terminal or in a
notebook; False does not; a callback gets every :class:`~lookalike.types.Progress`.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from lookalike.errors import SettingError
from lookalike.formatting import printable
from lookalike.types import Progress, ProgressCallback, ignore_progress

ProgressOption = bool | ProgressCallback
"""True, False, or a callback."""

_notices = logging.getLogger("lookalike.notice")

_PLAIN_EVERY_S = 10.0
"""Seconds between lines of progress where stderr is no terminal."""

_NOTEBOOK_EVERY_S = 0.2
"""Seconds between updates of a notebook."""


_current: ContextVar[ProgressCallback | None] = ContextVar("current_progress", default=None)


@contextlib.contextmanager
def reporting(
    progress: ProgressOption | None = True, *, lines: bool = False
) -> Iterator[ProgressCallback]:
    """Yield the callback to report progress to while the block runs.

    Work inside the block that is not given the callback finds it with :func:`current_progress`.

    Args:
        progress: True to show it on a terminal (stderr) or in a notebook, False for nowhere; a
            callback is yielded as it is. None is that of the block around, True if there is none.
        lines: print lines to stderr where neither is there.

    Raises:
        SettingError: ``progress`` is neither a flag nor a function.
    """
    if progress is None:
        progress = _current.get() or True
    with _opened(progress, lines=lines) as callback:
        token = _current.set(callback)
        try:
            yield callback
        finally:
            _current.reset(token)


def current_progress() -> ProgressCallback:
    """Return the callback of the innermost :func:`reporting`, one that ignores it if none is on."""
    return _current.get() or ignore_progress


def notice(text: str) -> None:
    """Say a line that a person should read now, such as the license of what is downloaded.

    The library logs it, on the logger ``lookalike.notice``; the command line prints it to stderr.
    """
    _notices.info("%s", text)


@contextlib.contextmanager
def _opened(progress: ProgressOption, *, lines: bool) -> Iterator[ProgressCallback]:
    """Yield the callback of what shows the progress."""
    if not isinstance(progress, bool):
        if not callable(progress):
            raise SettingError(
                "{progress} must be True, False or a function that is called with it",
                progress=progress,
            )
        yield progress
    elif not progress:
        yield ignore_progress
    elif (display := _notebook()) is not None:
        yield _Table(display)
    elif sys.stderr is not None and sys.stderr.isatty():
        with _bars() as show:
            yield show
    else:
        yield _Lines() if lines else ignore_progress


def _notebook() -> Any:
    """Return IPython's module of what it displays, None if this is no notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return importlib.import_module("IPython.display")


@contextlib.contextmanager
def _bars() -> Iterator[ProgressCallback]:
    """Show each task's progress, rate and remaining time on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    with Bars(
        TextColumn("{task.description:24}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
    ) as bars:
        ids: dict[str, Any] = {}
        rates = _Rates()

        def show(p: Progress) -> None:
            if rates.update(p) or p.task not in ids:
                ids[p.task] = bars.add_task(printable(p.task), total=p.total, rate="", note="")
            rate = rates.text(p)
            bars.update(
                ids[p.task], completed=p.done, total=p.total, rate=rate, note=printable(p.note)
            )

        yield show


class _Rates:
    """Rates of tasks, measured from their starts; a task that starts again is measured anew."""

    def __init__(self) -> None:
        self._started: dict[str, tuple[float, int]] = {}
        self._last: dict[str, int] = {}

    def update(self, p: Progress) -> bool:
        """Record a task's progress; return whether it started again."""
        again = p.done < self._last.get(p.task, 0)
        if again or p.task not in self._started:
            self._started[p.task] = time.monotonic(), p.done
        self._last[p.task] = p.done
        return again

    def per_second(self, p: Progress) -> float:
        start, first = self._started[p.task]
        seconds = time.monotonic() - start
        return (p.done - first) / seconds if seconds > 0.2 else 0.0

    def remaining(self, p: Progress) -> str:
        """Return the remaining time, such as "2 min 5 s left"; nothing if it is unknown or over."""
        rate = self.per_second(p)
        if not rate or p.total is None or p.done >= p.total:
            return ""
        minutes, seconds = divmod(round((p.total - p.done) / rate), 60)
        hours, minutes = divmod(minutes, 60)
        if hours:
            return f"{hours} h {minutes} min left"
        return f"{minutes} min {seconds} s left" if minutes else f"{seconds} s left"

    def text(self, p: Progress) -> str:
        """Return the rate with its unit, such as "12.5 images/s"; nothing if there is none yet."""
        rate = self.per_second(p)
        if not rate or p.total == 1:
            return ""
        return f"{rate:,.0f} {p.unit}/s" if rate >= 10 else f"{rate:.1f} {p.unit}/s"


class _Lines:
    """Progress where stderr is no terminal: a line every ten seconds and at each task's end."""

    def __init__(self) -> None:
        self._rates = _Rates()
        self._last_printed = time.monotonic()

    def __call__(self, p: Progress) -> None:
        self._rates.update(p)
        now = time.monotonic()
        if p.done != p.total and now - self._last_printed < _PLAIN_EVERY_S:
            return
        self._last_printed = now
        sys.stderr.write(_line(p, self._rates) + "\n")
        sys.stderr.flush()


def _line(p: Progress, rates: _Rates) -> str:
    """Return a task's progress as a line of text."""
    parts = [f"{p.task}: {_count(p)}", rates.text(p), rates.remaining(p), p.note]
    return printable("  ".join(part for part in parts if part))


def _count(p: Progress) -> str:
    return f"{p.done:,} {p.unit}" if p.total is None else f"{p.done:,} of {p.total:,} {p.unit}"


class _Table:
    """Progress in a notebook: a row for each task, updated in its place.

    Frontends that show no HTML get lines of text.
    """

    def __init__(self, display: Any) -> None:
        self._display = display
        self._handle: Any = None
        self._rates = _Rates()
        self._tasks: dict[str, Progress] = {}
        self._last_shown = 0.0

    def __call__(self, p: Progress) -> None:
        self._rates.update(p)
        self._tasks[p.task] = p
        now = time.monotonic()
        if p.done != p.total and now - self._last_shown < _NOTEBOOK_EVERY_S:
            return
        self._last_shown = now
        tasks = self._tasks.values()
        shown = {
            "text/html": f"<table>{''.join(map(self._row, tasks))}</table>",
            "text/plain": "\n".join(_line(task, self._rates) for task in tasks),
        }
        if self._handle is None:
            self._handle = self._display.display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)

    def _row(self, p: Progress) -> str:
        from html import escape

        rates = self._rates
        bar = "" if p.total is None else f'<progress value="{p.done}" max="{p.total}"></progress>'
        texts = [_count(p), rates.text(p), rates.remaining(p), p.note]
        cells = [escape(printable(p.task)), bar, *map(escape, map(printable, texts))]
        return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
