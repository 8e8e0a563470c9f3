"""Output of one process only, where ``torchrun`` started several."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

_GRACE_S = 5.0
"""Seconds that other processes wait after a user's mistake, for the main one to report it.

torchrun ends all processes as soon as one has failed.
"""


@contextlib.contextmanager
def only_main_prints() -> Iterator[None]:
    """Silence all processes but the main one while the block runs; tracebacks still show.

    The rank is read from the environment, since torch would take a second to import for ``--help``.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0":
        yield
        return
    with (
        Path(os.devnull).open("w", encoding="utf-8", errors="replace") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        try:
            yield
        except SystemExit as end:
            if end.code == 2:
                time.sleep(_GRACE_S)
            raise
