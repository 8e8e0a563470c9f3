"""Progress: nowhere, to a callback, as lines, as bars on a terminal, as a table in a notebook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from lookalike import progress
from lookalike.progress import reporting
from lookalike.types import Progress


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def test_a_script_without_a_terminal_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for option in (True, False):
        with reporting(option) as report:
            report(Progress("encode", 1, 1, "images"))
    assert capfd.readouterr() == ("", "")


def test_a_callback_gets_all_progress() -> None:
    calls: list[Progress] = []
    with reporting(calls.append) as report:
        for done in range(3):
            report(Progress("encode", done, 2, "images", "note"))
    assert [each.done for each in calls] == [0, 1, 2]


def test_lines_have_rate_and_remaining_time(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with reporting(lines=True) as report:
        report(Progress("encode", 0, 10_000, "images"))
        clock.now += 5
        report(Progress("encode", 50, 10_000, "images"))  # too early for a line
        clock.now += 5
        report(Progress("encode", 100, 10_000, "images", "2 failed"))
        clock.now += 90
        report(Progress("encode", 1_000, 10_000, "images"))
        clock.now += 900
        report(Progress("encode", 10_000, 10_000, "images"))
        report(Progress("read\x1b[31m", 1, None, "files"))
    assert capsys.readouterr().err.splitlines() == [
        "encode: 100 of 10,000 images  10 images/s  16 min 30 s left  2 failed",
        "encode: 1,000 of 10,000 images  10 images/s  15 min 0 s left",
        "encode: 10,000 of 10,000 images  10 images/s",
    ]


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [
        (100, 200, "10 s left"),
        (100, 10_000, "16 min 30 s left"),
        (100, 1_000_000, "27 h 46 min left"),
        (100, None, ""),
        (100, 100, ""),
        (0, 100, ""),
    ],
)
def test_the_remaining_time_is_that_at_the_rate_so_far(
    clock: Clock, done: int, total: int | None, text: str
) -> None:
    rates = progress._Rates()
    rates.update(Progress("encode", 0, total, "images"))
    clock.now += 10
    p = Progress("encode", done, total, "images")
    rates.update(p)
    assert rates.remaining(p) == text


def test_a_task_that_starts_again_is_measured_anew(clock: Clock) -> None:
    rates = progress._Rates()
    rates.update(Progress("read", 0, 100, "rows"))
    clock.now += 10
    rates.update(Progress("read", 100, 100, "rows"))
    assert rates.update(Progress("read", 0, 50, "rows"))
    clock.now += 1
    last = Progress("read", 20, 50, "rows")
    assert not rates.update(last)
    assert rates.text(last) == "20 rows/s"


_REPORT = """
from lookalike.progress import reporting
from lookalike.types import Progress
with reporting() as report:
    report(Progress("encode<b>", 1, 3, "images"))
    report(Progress("encode<b>", 3, 3, "images", "<script>\\x1b[31mred</script>"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo terminals")
def test_a_terminal_shows_bars() -> None:
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    try:
        subprocess.run(
            [sys.executable, "-c", _REPORT],
            stdout=subprocess.PIPE,
            stderr=theirs,
            check=True,
            env=environment,
        )
        shown = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "encode<b>" in shown
    assert "3/3" in shown
    assert "\\x1b[31mred" in shown  # escaped, not obeyed
    assert "\x1b[31mred" not in shown


_NOTEBOOK = """
import json
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
shell = InteractiveShell.instance()
shell.kernel = object()  # as ipykernel does
with capture_output() as captured:
    exec(REPORT)
print(json.dumps([captured.stdout, captured.stderr, *(each.data for each in captured.outputs)]))
"""


def test_a_notebook_shows_one_table_that_is_updated() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _NOTEBOOK.replace("REPORT", repr(_REPORT))],
        capture_output=True,
        text=True,
        check=True,
    )
    stdout, stderr, *outputs = json.loads(done.stdout)
    assert (stdout, stderr, done.stderr) == ("", "", "")
    last = outputs[-1]
    assert last["text/html"].startswith("<table>")
    assert last["text/html"].count("<tr>") == 1  # one row for a task
    assert "encode&lt;b&gt;" in last["text/html"]
    assert "3 of 3 images" in last["text/html"]
    assert "&lt;script&gt;\\x1b[31mred" in last["text/html"]
    assert last["text/plain"].startswith("encode<b>: 3 of 3 images")
