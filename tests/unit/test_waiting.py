"""Writers of a gallery take turns: a bounded wait that nobody can overtake, and that can end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lookalike import artifacts
from lookalike.artifacts import sole_writer
from lookalike.cancellation import Cancellation, cancellable
from lookalike.config import settings
from lookalike.errors import BusyError, CancelledError, SettingError


def start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_writer_waits_for_its_turn_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(artifacts, "_SILENT_S", 0.0)
    monkeypatch.setattr(artifacts, "_CHECK_S", 0.01)
    lock, queue = tmp_path / "lock", tmp_path / "queue"
    said, done = threading.Event(), threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting for it" in record.getMessage():
                said.set()

    def work() -> None:
        with sole_writer(lock, what="it", wait=600, queue=queue):
            done.set()

    handler = Handler()
    artifacts.log.addHandler(handler)
    try:
        with sole_writer(lock, what="it"):
            thread = start(work)
            assert said.wait(60)
            assert not done.is_set()
        thread.join(60)
    finally:
        artifacts.log.removeHandler(handler)
    assert done.is_set()
    assert caplog.messages == ["it is being written by another process; waiting for it"]


def test_a_writer_that_waits_is_not_overtaken(tmp_path: Path) -> None:
    """Another one that writes again and again lets it write after a few of its turns."""
    lock, queue = tmp_path / "lock", tmp_path / "queue"
    begun, done = threading.Event(), threading.Event()
    turns = 0

    def write_again_and_again() -> None:
        nonlocal turns
        while not done.is_set() and turns < 10_000:
            with sole_writer(lock, what="it", wait=600, queue=queue):
                turns += begun.is_set()
                done.wait(0.005)

    thread = start(write_again_and_again)
    begun.set()
    with sole_writer(lock, what="it", wait=600, queue=queue):
        done.set()
    thread.join(60)
    assert turns < 1_000


def test_waiting_ends_after_its_time_or_when_it_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "_CHECK_S", 0.01)
    lock, queue = tmp_path / "lock", tmp_path / "queue"
    with sole_writer(lock, what="it"):
        for wait in (0.0, 0.05):
            with (
                pytest.raises(BusyError, match="it is being written by another process"),
                sole_writer(lock, what="it", wait=wait, queue=queue),
            ):
                pass
        cancelled = Cancellation()
        cancelled.cancel()
        with (
            pytest.raises(CancelledError),
            cancellable(cancelled),
            sole_writer(lock, what="it", wait=600, queue=queue),
        ):
            pass
    with sole_writer(lock, what="it", wait=0.0, queue=queue):
        pass


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "soon"])
def test_the_time_to_wait_is_a_setting(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings().lock_wait == 60.0
    monkeypatch.setenv("LOOKALIKE_LOCK_WAIT", "2.5")
    assert settings().lock_wait == 2.5
    monkeypatch.setenv("LOOKALIKE_LOCK_WAIT", text)
    with pytest.raises(SettingError, match="LOOKALIKE_LOCK_WAIT"):
        settings()


@pytest.mark.parametrize("text", ["-1", "0", "nan", "\u00b2", "9" * 5000])
def test_the_number_of_threads_is_a_setting(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_THREADS", "03")
    assert settings().threads == 3
    monkeypatch.setenv("LOOKALIKE_THREADS", text)
    with pytest.raises(SettingError, match="LOOKALIKE_THREADS"):
        settings()
