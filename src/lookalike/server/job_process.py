"""The process of an index job: ``python -m lookalike.server.job_process``.

It reads one request from standard input, as a line of JSON, syncs a gallery with its sources, and
writes what happens to standard output, a JSON object per line: ``progress``, ``source`` (what was
done with one), ``error``. It ends when standard input is closed: a sync can be killed at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from lookalike.errors import InputError, LookalikeError, SourceError
from lookalike.gallery.gallery import Gallery
from lookalike.types import Progress

MAX_FAILURES = 100
"""Failed images of a source that are named."""

_NICE = 10
"""The process yields the processor to searches."""

_EVERY_S = 0.2
"""Seconds between reports of progress."""

Emit = Callable[[Mapping[str, Any]], None]


def sync_all(request: Mapping[str, Any], emit: Emit) -> None:
    """Sync a gallery with its sources, one after another; errors of one do not end the others.

    Args:
        request: ``gallery``, a path or address; the names of its ``sources``; ``allow_removals``,
            ``rehash`` and ``restore_removed``, as for :meth:`lookalike.Gallery.sync`.
        emit: writes a line.
    """
    gallery = Gallery.open(request["gallery"])
    for name in request["sources"]:
        spec = gallery.sources.get(name)
        try:
            if spec is None:
                raise SourceError(f"the source {name!r} was removed from the gallery meanwhile")
            opened = gallery.open_source(spec, False, empty=request["allow_removals"], name=name)
            report = gallery.sync(
                opened,
                allow_removals=request["allow_removals"],
                rehash=request["rehash"],
                restore_removed=request["restore_removed"],
                progress=_Throttled(name, emit),
            )
        except InputError as error:
            emit({"source": name, "error": described(error)})
            continue
        fields = report.as_dict()
        failed = fields.pop("failed")
        counts = {**fields, "failures": len(failed)}
        emit({"source": name, "report": counts, "failed": failed[:MAX_FAILURES]})


def described(error: LookalikeError) -> dict[str, str]:
    """Return an error as it is sent to the service, which makes it one again."""
    return {"kind": type(error).__name__, "message": str(error)}


class _Throttled:
    """Reports progress a few times a second, and whenever a task ends."""

    def __init__(self, source: str, emit: Emit) -> None:
        self._source = source
        self._emit = emit
        self._next = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._next and progress.done != progress.total:
            return
        self._next = now + _EVERY_S
        fields = {
            "task": progress.task,
            "done": progress.done,
            "total": progress.total,
            "unit": progress.unit,
        }
        self._emit({"progress": {**fields, "source": self._source}})


def main() -> None:
    """Run the job of standard input."""
    with contextlib.suppress(AttributeError, OSError):
        os.nice(_NICE)
    requests = os.fdopen(os.dup(0), "rb")
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no message
    request = json.loads(requests.readline())
    threading.Thread(target=_end_with_service, args=(requests,), daemon=True).start()

    def emit(message: Mapping[str, Any]) -> None:
        output.write(json.dumps(message) + "\n")
        output.flush()

    try:
        sync_all(request, emit)
    except LookalikeError as error:
        emit({"error": described(error)})
    except BrokenPipeError:
        sys.exit(1)
    output.close()


def _end_with_service(requests: Any) -> None:
    """End at once when the service closes its end, or is gone."""
    requests.read()
    os._exit(1)


if __name__ == "__main__":
    main()
