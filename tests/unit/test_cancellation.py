"""Cancellation of work in threads."""

from __future__ import annotations

import contextvars
import threading

import pytest

from lookalike.cancellation import Cancellation, cancellable, check_cancelled, holding, is_cancelled
from lookalike.errors import CancelledError, LookalikeError, TimeLimitError


def test_work_outside_a_block_is_never_cancelled() -> None:
    Cancellation(0).cancel()
    check_cancelled()
    assert not is_cancelled()


def test_cancelled_work_ends_at_its_next_check() -> None:
    cancellation = Cancellation()
    with cancellable(cancellation):
        check_cancelled()
        assert not is_cancelled()
        cancellation.cancel()
        assert is_cancelled()
        with pytest.raises(CancelledError, match="nobody waits") as error:
            check_cancelled()
    assert not isinstance(error.value, TimeLimitError)
    assert cancellation.is_over
    check_cancelled()


def test_a_time_limit_names_its_seconds() -> None:
    with cancellable(Cancellation(0)), pytest.raises(TimeLimitError, match="longer than 0 s"):
        check_cancelled()
    assert issubclass(TimeLimitError, LookalikeError)


def test_remaining_time() -> None:
    assert Cancellation().remaining is None
    assert not Cancellation().is_over
    remaining = Cancellation(60).remaining
    assert remaining is not None
    assert 0 < remaining <= 60


def test_blocks_nest() -> None:
    outer, inner = Cancellation(), Cancellation()
    inner.cancel()
    with cancellable(outer):
        with cancellable(inner), pytest.raises(CancelledError):
            check_cancelled()
        check_cancelled()


def test_a_thread_with_a_copy_of_the_context_is_cancelled_too() -> None:
    cancellation, errors = Cancellation(), []
    cancellation.cancel()

    def work() -> None:
        try:
            check_cancelled()
        except CancelledError as error:
            errors.append(error)

    with cancellable(cancellation):
        context = contextvars.copy_context()
    threads = [threading.Thread(target=context.run, args=(work,)), threading.Thread(target=work)]
    for thread in threads:
        thread.start()
        thread.join()
    assert len(errors) == 1


def test_a_lock_is_waited_for_as_long_as_the_work_may_go_on() -> None:
    lock = threading.Lock()
    with holding(lock):
        assert lock.locked()
        with cancellable(Cancellation(0.05)), pytest.raises(TimeLimitError), holding(lock):
            raise AssertionError
    assert not lock.locked()
    with cancellable(Cancellation(0.05)), holding(lock):
        assert lock.locked()
    assert not lock.locked()
