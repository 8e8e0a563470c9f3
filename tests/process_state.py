"""Process-wide state that a call of the library must leave unchanged."""

from __future__ import annotations

import faulthandler
import gc
import hashlib
import locale
import logging
import os
import random
import resource
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin


def snapshot(*loggers: str) -> dict[str, Any]:
    """Return the state of the process, and of torch and matplotlib if they are loaded.

    ``loggers`` are included besides the root logger.
    """
    state: dict[str, Any] = {
        "warning filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "environment": {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"},
        "signals": {name.name: signal.getsignal(name) for name in _SIGNALS},
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "hooks": (sys.excepthook, sys.unraisablehook, sys.displayhook),
        "recursion": sys.getrecursionlimit(),
        "folder": os.getcwd(),  # noqa: PTH109 - compared as text
        "open files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "fault handler": faulthandler.is_enabled(),
        "garbage": (gc.isenabled(), gc.get_threshold()),
        "socket timeout": socket.getdefaulttimeout(),
        "locale": locale.setlocale(locale.LC_ALL),
        "random": random.getstate(),
        "numpy random": str(np.random.get_state(legacy=False)),  # noqa: NPY002 - the global state
        "numpy errors": np.geterr(),
        "Pillow": (
            Image.MAX_IMAGE_PIXELS,
            ImageFile.LOAD_TRUNCATED_IMAGES,
            PngImagePlugin.MAX_TEXT_CHUNK,
            sorted({"HEIF", "JXL"} & Image.OPEN.keys()),
        ),
        "loggers": {name: _logger(name) for name in ("", *loggers)},
    }
    if "torch" in sys.modules:
        state |= _torch()
    if "matplotlib" in sys.modules:
        state["matplotlib"] = dict(sys.modules["matplotlib"].rcParams)
    return state


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE)


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return the differences, before and after."""
    changed: dict[str, Any] = {}
    for name in before:
        one, other = before[name], after[name]
        if one != other and isinstance(one, dict):
            names = [each for each in {**one, **other} if one.get(each) != other.get(each)]
            changed[name] = {each: (one.get(each), other.get(each)) for each in names}
        elif one != other:
            changed[name] = (one, other)
    return changed


@contextmanager
def unchanged(*loggers: str) -> Iterator[None]:
    """Assert that the block leaves the process unchanged, also if it raises."""
    before = snapshot(*loggers)
    try:
        yield
    finally:
        changed = changes(before, snapshot(*loggers))
        if changed:
            pytest.fail(f"the process has changed: {changed}")


def _logger(name: str) -> tuple[Any, ...]:
    logger = logging.getLogger(name)
    handlers = [each for each in logger.handlers if not type(each).__module__.startswith("_pytest")]
    return logger.level, handlers, list(logger.filters), logger.propagate, logger.disabled


def _torch() -> dict[str, Any]:
    import torch

    return {
        "torch random": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
        "torch threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch gradients": torch.is_grad_enabled(),
        "torch types": (torch.get_default_dtype(), torch.get_default_device()),
        "torch determinism": torch.are_deterministic_algorithms_enabled(),
        "torch matrices": torch.get_float32_matmul_precision(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
    }
