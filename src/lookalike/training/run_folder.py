"""The folder of a training run: that of its encoder, with a checkpoint in it; without torch."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lookalike.encoders.base import MANIFEST
from lookalike.errors import ArtifactError
from lookalike.training.options import TrainingOptions

CHECKPOINT = "checkpoint"
"""The folder of the checkpoint, in that of the encoder."""

CHECKPOINT_MANIFEST = "checkpoint.json"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder for an encoder; remove it, unless an error leaves a checkpoint in it."""
    parent = Path(tempfile.mkdtemp(prefix="lookalike-"))
    folder = parent / "encoder"
    keep = False
    try:
        yield folder
    except Exception as error:
        keep = has_checkpoint(folder)
        if keep:
            error.add_note(f"The checkpoint is kept: resume with out={str(folder)!r}")
        raise
    finally:
        if not keep:
            shutil.rmtree(parent, ignore_errors=True)


def has_checkpoint(folder: Path) -> bool:
    """Return whether an encoder folder has a checkpoint to resume."""
    return (folder / CHECKPOINT / CHECKPOINT_MANIFEST).is_file()


def check_folder(folder: Path, options: TrainingOptions) -> None:
    """Check that a run can write to a folder, or resume what is there.

    Raises:
        ArtifactError: it cannot.
    """
    if options.resume:
        if not has_checkpoint(folder):
            raise ArtifactError(
                f"{folder}: has no checkpoint to resume; leave out {{resume}}", resume=None
            )
        return
    if has_checkpoint(folder):
        finished = "a finished" if (folder / MANIFEST).exists() else "an interrupted"
        raise ArtifactError(
            f"{folder}: has {finished} training run; resume it with {{resume}} (and more "
            "{epochs}), choose another {out}, or remove it",
            resume=True,
            epochs=None,
            out=None,
        )
    if folder.is_file() or any(path.is_file() for path in folder.rglob("*")):
        raise ArtifactError(f"{folder}: already exists; choose another {{out}}", out=None)
