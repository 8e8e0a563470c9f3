"""Where ``torchrun`` started the command line several times: one of them speaks."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

_PATIENCE_S = 5.0
"""torchrun ends all processes when one has failed; the first is to say why before."""


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Let only the first process print while the block runs; what crashes is heard from all.

    Read from the environment here, since asking torch would load it for ``--help`` too.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0":
        yield
        return
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        try:
            yield
        except SystemExit as end:
            if end.code == 2:
                time.sleep(_PATIENCE_S)
            raise
