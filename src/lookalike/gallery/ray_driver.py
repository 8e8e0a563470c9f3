"""Restores the process-wide state that Ray changes in the driver."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from lookalike.process_state import default_environment

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Import or start Ray without usage statistics and warnings."""
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # avoids a warning
    }
    with default_environment(**variables):
        yield


@contextlib.contextmanager
def preserve_driver_state() -> Iterator[None]:
    """Restore what ``ray.init`` changes, and log what Ray would print.

    It changes its log level, environment variables (a local cluster sets ``RAY_AUTH_MODE``, which
    would affect the next one too), the handler of SIGTERM, the limit of open files, the fault
    handler and the hook of ``breakpoint()``. Ray prints to standard output, which belongs to the
    program, and has no option against that: its printing functions are replaced.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(logging.getLogger("ray").setLevel, logging.getLogger("ray").level)
        stack.callback(_restore_variables, _variables())
        stack.callback(_restore_handler, signal.getsignal(signal.SIGTERM))
        if not faulthandler.is_enabled():
            stack.callback(faulthandler.disable)
        with contextlib.suppress(ModuleNotFoundError):
            import resource

            files = resource.RLIMIT_NOFILE
            stack.callback(resource.setrlimit, files, resource.getrlimit(files))
        worker = import_module("ray._private.worker")
        client = import_module("ray.util.client.logsclient").LogstreamClient
        stack.enter_context(_patch_attribute(worker, "print_to_stdstream", _log_messages))
        stack.enter_context(_patch_attribute(client, "stdstream", _log_text))
        yield


@contextlib.contextmanager
def _patch_attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _log_messages(data: dict[str, Any], **_: object) -> None:
    """Log Ray's messages about workers and machines."""
    for line in data.get("lines", ()):
        _log.info("%s", line.strip())


def _log_text(_client: object, _level: int, msg: str) -> None:
    """Log the output of workers, when connected through a proxy (``ray://``)."""
    if msg.strip():
        _log.info("%s", msg.strip())


def _variables() -> dict[str, str]:
    """Return the environment variables that Ray sets."""
    return {k: v for k, v in os.environ.items() if k.startswith("RAY_") or k == "PYTHONBREAKPOINT"}


def _restore_variables(before: dict[str, str]) -> None:
    for name in _variables().keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def _restore_handler(handler: Any) -> None:
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
