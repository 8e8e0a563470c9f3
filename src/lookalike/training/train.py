"""train(): train an encoder on a source of images and write it to a folder."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lookalike.training.torch_state  # noqa: F401 - before torch is imported

# isort: split
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save as save_tensors

from lookalike.artifacts import check_writable
from lookalike.encoders.base import MANIFEST, Preprocessing
from lookalike.encoders.export import ExportAgreement, compare_embeddings, to_onnx
from lookalike.encoders.onnx import DECODER_FILE, NetworkEncoder
from lookalike.encoders.persistence import describe_manifest, write_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import (
    ArtifactError,
    ImageError,
    MissingDependencyError,
    SettingError,
    SourceError,
)
from lookalike.sources import Source, open_source
from lookalike.sources.sampling import sample_images
from lookalike.training import checkpoints
from lookalike.training.augmentations import find_augmentations
from lookalike.training.distributed import ProcessGroup, process_group
from lookalike.training.loop import FitResult, TrainingOptions, epoch_record, fit
from lookalike.training.recipes import Recipe, find_recipe
from lookalike.training.tasks import Task
from lookalike.training.torch_state import preserve_torch_state
from lookalike.types import Progress, ProgressCallback, ignore_progress

log = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
CHECKPOINT = "checkpoint"
DEFAULTS = TrainingOptions()
MIN_SIZE, MAX_SIZE = 32, 224
"""Bounds of ``TrainingOptions.size``, in pixels."""

_SAMPLE = 200
"""Images that decide on the default size and the channels."""

EXPORT = "export"
"""Key of an encoder's origin: how well ONNX Runtime agrees with torch, as a dict of
:class:`lookalike.encoders.export.ExportAgreement`."""

_CHECKED = 256
"""Training images on which the two are compared, evenly spread."""

_CHUNK = 64


@preserve_torch_state()
def train(
    source: str | Path | Source,
    *,
    recipe: str,
    out: str | Path | None = None,
    augment: str | None = None,
    options: TrainingOptions = DEFAULTS,
    on_progress: ProgressCallback = ignore_progress,
) -> NetworkEncoder:
    """Train an encoder without labels and write it to the folder ``out``.

    The trained network is written whether or not ONNX Runtime computes the same embeddings as
    torch; if not, a warning is logged, and ``origin["export"]`` has the figures.

    Under ``torchrun`` all processes train together and return the same encoder; the main process
    writes it and reports progress. ``out`` must then be visible to all of them.

    Args:
        source: an argument of :func:`lookalike.open_source`, or an opened source.
        recipe: a name in :data:`lookalike.training.recipes.RECIPES`.
        out: the encoder folder to create; during training it holds only checkpoints. Without it
            the encoder is only returned, and an interrupted run cannot be resumed; a run that fails
            after its first checkpoint keeps a temporary folder, which the error names.
        augment: shorthand for ``options.augment``.
        options: see :class:`TrainingOptions`.
        on_progress: called at each stage, with loss and speed.

    Raises:
        UnknownNameError: no such recipe or augmentation preset.
        SettingError: an option is out of range or does not fit the recipe, or the device is not
            available.
        SourceError: fewer than 2 readable images, or all are equal.
        MissingDependencyError: a package that the export needs is not installed.
        ArtifactError: ``out`` exists, or has nothing to resume; or the encoder could not be written
            after training, and resuming writes it again.
        KeyboardInterrupt: interrupted, after a checkpoint was written.
    """
    if augment is not None:
        options = replace(options, augment=augment)
    if out is None:
        with _temporary_folder() as folder:
            return train(
                source, recipe=recipe, out=folder, options=options, on_progress=on_progress
            )
    with process_group(options.device) as group:
        torch.set_num_threads(group.threads)
        options = replace(options, device=group.device(options.device))
        if not group.is_main:
            on_progress = ignore_progress
        folder = Path(out)
        with group.shared_errors():
            chosen = find_recipe(recipe)
            _check(chosen, options)
            _check_folder(folder, options)
            check_writable(folder / CHECKPOINT)
            opened = open_source(source, on_progress) if isinstance(source, str | Path) else source
            preprocessing = _preprocessing(opened, chosen, options)
            if group.is_main:
                _check_exporter()
            images, exact = _load(opened, preprocessing, on_progress)
            _check_batch(min(len(images), chosen.batch), group)
        preprocessing = replace(preprocessing, exact=exact and chosen.size is not None)
        run = {
            "recipe": chosen.name,
            "augment": options.augment or chosen.augment,
            "seed": options.seed,
            "images": len(images),
            "data": hashlib.sha256(images.tobytes()).hexdigest(),
        }
        group.check_same_data(str(run["data"]))
        if group.world_size > 1:
            run["processes"] = group.world_size
        result = fit(chosen, images, options, folder / CHECKPOINT, run, on_progress)

        def export() -> tuple[Mapping[str, Any], Mapping[str, bytes]]:
            on_progress(Progress("export", 0, 1, "encoder"))
            with _checkpoint_named(folder):
                network = result.task.encoder(torch.from_numpy(images)).eval()
                origin = json.loads(json.dumps(_origin(result, chosen, opened.spec)))
                encoder = _export(result.task, network, preprocessing, origin)
                agreement = _agreement(encoder, network, images)
                encoder.origin[EXPORT] = agreement.as_dict()
                write_encoder(encoder, folder)
            if not agreement.sufficient:
                log.warning(
                    "encoder %r: ONNX Runtime, which search uses, computes other embeddings than "
                    "torch (%s); the encoder was written all the same",
                    encoder.name,
                    agreement,
                )
            on_progress(Progress("export", 1, 1, "encoder"))
            return encoder.describe(), encoder.files()

        description, files = group.broadcast(export)
        return NetworkEncoder.restore(describe_manifest(description, folder / MANIFEST), files)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
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


@contextmanager
def _checkpoint_named(folder: Path) -> Iterator[None]:
    """Raise errors of the block, which follows training, with the way back to its result."""
    try:
        yield
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ArtifactError(
            f"{folder}: training is complete and its checkpoint is kept in {folder / CHECKPOINT}, "
            f"but the encoder could not be written ({reason}). Write it again with {{resume}}",
            resume=True,
        ) from error


def _check_exporter() -> None:
    """Check before training that the export will find its packages, and that networks run.

    Raises:
        MissingDependencyError: a package is not installed.
        SettingError: ONNX Runtime has no support for the configured device.
    """
    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            raise MissingDependencyError(package, "training", "train")
    open_encoder("untrained", [])


def _check(recipe: Recipe, options: TrainingOptions) -> None:
    if options.augment is not None:
        find_augmentations(options.augment)
        if recipe.augment is None:
            raise SettingError(
                f"{{augment}} is not allowed: recipe {recipe.name!r} uses no augmentation",
                augment=options.augment,
            )
    if options.size is not None and recipe.size is not None:
        raise SettingError(
            f"{{size}} is not allowed: recipe {recipe.name!r} always uses {recipe.size} pixels",
            size=options.size,
        )
    if options.size is not None and not MIN_SIZE <= options.size <= MAX_SIZE:
        raise SettingError(
            f"{{size}} must be from {MIN_SIZE} to {MAX_SIZE} pixels", size=options.size
        )
    if options.epochs is not None and options.epochs < 1:
        raise SettingError("{epochs} must be at least 1", epochs=options.epochs)
    if options.minutes is not None and options.minutes <= 0:
        raise SettingError("{minutes} must be above 0", minutes=options.minutes)
    try:
        torch.empty(1, device=options.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingError(
            f"{{device}} is not available ({reason}); use cpu", device=options.device
        ) from error


def _check_batch(batch_size: int, group: ProcessGroup) -> None:
    """Check that each process gets at least 2 images of a batch, as batch norm needs."""
    if batch_size < 2 * group.world_size:
        raise SettingError(
            f"{group.world_size} processes need a batch of at least {2 * group.world_size} images; "
            f"this run has {batch_size}. Start fewer processes (torchrun --nproc-per-node)"
        )


def has_checkpoint(folder: Path) -> bool:
    """Return whether an encoder folder has a checkpoint to resume."""
    return (folder / CHECKPOINT / checkpoints.MANIFEST).is_file()


def _check_folder(folder: Path, options: TrainingOptions) -> None:
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


def _preprocessing(source: Source, recipe: Recipe, options: TrainingOptions) -> Preprocessing:
    """Return the image size and channels for training."""
    if len(source) < 2:
        raise SourceError(
            f"{source.spec}: training needs at least 2 images, the source has {len(source)}"
        )
    if recipe.size is not None:
        return Preprocessing(recipe.size, recipe.size, 1)
    sample = sample_images(source, _SAMPLE)
    fitting = Preprocessing.for_sample(sample, size=options.size or 64, min_size=24)
    if options.size is None:
        return fitting
    return Preprocessing(options.size, options.size, fitting.channels)


def _load(
    source: Source, preprocessing: Preprocessing, on_progress: ProgressCallback
) -> tuple[NDArray[np.uint8], bool]:
    """Return all readable images, ``(n, c, height, width)`` uint8, and whether none was resized."""
    p = preprocessing
    images = np.empty((len(source), p.channels, p.height, p.width), np.uint8)
    exact = True
    count = 0
    on_progress(Progress("read images", 0, len(source), "images"))
    for number, item in enumerate(source, 1):
        try:
            image = item.image()
        except ImageError as error:
            log.warning("skipped: %s", error)
            continue
        exact &= image.shape[:2] == (p.height, p.width)
        images[count] = p.apply([image]).transpose(0, 3, 1, 2)[0]
        count += 1
        if number % 1000 == 0 or number == len(source):
            on_progress(Progress("read images", number, len(source), "images"))
    if count < 2:
        raise SourceError(
            f"{source.spec}: {count} of {len(source)} images could be read; training needs 2"
        )
    images = images[:count]
    if (images == images[0]).all():
        raise SourceError(
            f"{source.spec}: all {count:,} images are identical at {p.width}x{p.height} pixels; "
            "there is nothing to learn"
        )
    return images, exact


def _origin(result: FitResult, recipe: Recipe, source: str) -> dict[str, Any]:
    """Return how an encoder was trained, as JSON values.

    ``loss`` is the mean loss of the last epoch in ``history``, ``share`` the part of an epoch that
    was left unfinished.
    """
    state, history = result.state, [*result.state.history]
    share = state.step * recipe.batch / int(state.run["images"])
    if state.step:
        history.append({**epoch_record(state), "share": share})
    return {
        **state.run,
        "source": source,
        "epochs": state.epoch + share,
        "loss": history[-1]["loss"] if history else None,
        "history": history,
        "batch": recipe.batch,
        "learning_rate": recipe.learning_rate,
        "device": result.device,
        "preparation_seconds": result.preparation_seconds,
        "seconds": state.seconds,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("lookalike", "torch", "onnx", "numpy")},
        },
    }


def _agreement(
    encoder: NetworkEncoder, network: torch.nn.Module, images: NDArray[np.uint8]
) -> ExportAgreement:
    """Compare the exported encoder with the trained network on a sample of images."""
    count = min(len(images), _CHECKED)
    sample = images[np.linspace(0, len(images) - 1, count).astype(np.int64)]
    with torch.no_grad():
        parts = [
            network(torch.from_numpy(sample[start : start + _CHUNK]).float() / 255)
            for start in range(0, count, _CHUNK)
        ]
    expected = torch.cat(parts).reshape(count, -1).numpy()
    listed = sample[:, 0] if sample.shape[1] == 1 else sample.transpose(0, 2, 3, 1)
    return compare_embeddings(expected, encoder.encode_batch(list(listed)))


def _export(
    task: Task, network: torch.nn.Module, preprocessing: Preprocessing, origin: Mapping[str, Any]
) -> NetworkEncoder:
    example = torch.zeros(2, preprocessing.channels, preprocessing.height, preprocessing.width)
    tensors = {name: value.contiguous() for name, value in task.state_dict().items()}
    extra = {WEIGHTS: save_tensors(tensors)}
    decoder = task.decoder()
    if decoder is not None:
        with torch.no_grad():
            code = network(example)
        extra[DECODER_FILE] = to_onnx(decoder.eval(), code)
    return NetworkEncoder(
        str(origin["recipe"]),
        to_onnx(network, example),
        preprocessing,
        normalized=task.normalized,
        origin=origin,
        extra=extra,
    )
