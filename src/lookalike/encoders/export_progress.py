"""What a person sees while a network is exported, which takes from seconds to minutes."""

from __future__ import annotations

from lookalike.progress import current_progress, notice
from lookalike.types import Progress


class ExportProgress:
    """A line when an export begins, and a step of progress for each thing that is done.

    Args:
        name: of the encoder.
        steps: number of steps.
    """

    def __init__(self, name: str, steps: int) -> None:
        self._steps, self._done = steps, 0
        self._report, self._note = current_progress(), ""
        notice(
            f"encoder {name!r}: exporting it to ONNX with torch, once; this can take a minute "
            "or more, and later openings take the export from the cache"
        )

    def begin(self, step: str) -> None:
        """Say which step begins now, which ends the one before."""
        if self._note:
            self._done += 1
        self._note = step
        self._report(Progress("export", self._done, self._steps, "steps", step))

    def end(self) -> None:
        """Say that the last step has ended."""
        self._report(Progress("export", self._steps, self._steps, "steps", "done"))
