"""train(): train an encoder on images; needs torch only when it is called."""

from __future__ import annotations

from pathlib import Path

from lookalike.arguments import checked
from lookalike.encoders.onnx import NetworkEncoder
from lookalike.errors import require
from lookalike.progress import ProgressOption, reporting
from lookalike.sources.inputs import SourceLike
from lookalike.training.options import DEFAULTS, TrainingOptions
from lookalike.training.recipes import DEFAULT, Recipe, find_recipe
from lookalike.training.run_folder import temporary_folder


@checked
def train(
    images: SourceLike,
    *,
    recipe: str | Recipe = DEFAULT,
    out: str | Path | None = None,
    options: TrainingOptions = DEFAULTS,
    progress: ProgressOption = True,
) -> NetworkEncoder:
    """Train an encoder without labels; return it, and write it to ``out`` if a folder is given.

    The trained network is written whether or not ONNX Runtime computes the same embeddings as
    torch; if not, a warning is logged, and ``origin["export"]`` has the figures. ``origin`` also
    has recipe, options, loss and history.

    Under ``torchrun`` all processes train together and return the same encoder; the main process
    writes it and reports progress. ``out`` must then be visible to all of them.

    Args:
        images: a folder or another argument of :func:`lookalike.open_source`, an opened source, or
            images: arrays ``(n, h, w)`` or ``(n, h, w, 3)`` uint8, lists of files, PIL images, ...
        recipe: a name in :func:`lookalike.training.recipes.load_recipes`, or a
            :class:`lookalike.Recipe`.
        out: the encoder folder to create; during training it holds only checkpoints. Without it
            the encoder is only returned, and an interrupted run cannot be resumed; a run that fails
            after its first checkpoint keeps a temporary folder, which the error names.
        options: see :class:`TrainingOptions`.
        progress: True, False, or a callback; see :mod:`lookalike.progress`.

    Raises:
        MissingDependencyError: torch, or a package that the export needs, is not installed.
        UnknownNameError: no such recipe or augmentation preset.
        SettingError: an option is out of range or does not fit the recipe, or the device is not
            available.
        SourceError: fewer than 2 readable images, or all are equal.
        ArtifactError: ``out`` exists, or has nothing to resume; or the encoder could not be written
            after training, and resuming writes it again.
        KeyboardInterrupt: interrupted, after a checkpoint was written.
    """
    check_installed()
    options.check()
    chosen = find_recipe(recipe)
    from lookalike.training.pipeline import run_training

    with reporting(progress) as on_progress:
        if out is not None:
            return run_training(images, chosen, Path(out), options, on_progress)
        with temporary_folder() as folder:
            return run_training(images, chosen, folder, options, on_progress)


def check_installed() -> None:
    """Check that what training and the export of its result need is installed.

    Raises:
        MissingDependencyError: a package is not.
    """
    for package in ("torch", "onnx", "onnxscript"):
        require(package, "training", "train")
