"""train(): from a source of images to an encoder folder."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lookalike.training.torch_state  # noqa: F401 - before torch is imported

# isort: split
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save as save_tensors

from lookalike.encoders.base import MANIFEST, Preprocessing
from lookalike.encoders.export import to_onnx
from lookalike.encoders.onnx import DECODER_FILE, NetworkEncoder
from lookalike.encoders.persistence import write_encoder
from lookalike.errors import ArtifactError, ImageError, SettingError, SourceError
from lookalike.sources import Source, open_source
from lookalike.sources.sampling import sample_images
from lookalike.training import checkpoints
from lookalike.training.augmentations import find_augmentations
from lookalike.training.distributed import ProcessGroup, process_group
from lookalike.training.loop import Fitted, TrainingOptions, fit
from lookalike.training.recipes import Recipe, find_recipe
from lookalike.training.tasks import Task
from lookalike.training.torch_state import torch_state_restored
from lookalike.types import Progress, ProgressCallback, ignore_progress

log = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
CHECKPOINT = "checkpoint"
DEFAULTS = TrainingOptions()
SIZES = (32, 224)
"""The least and the largest ``--size``, in pixels."""


@torch_state_restored()
def train(
    source: str | Path | Source,
    *,
    recipe: str,
    out: str | Path | None = None,
    augment: str | None = None,
    options: TrainingOptions = DEFAULTS,
    on_progress: ProgressCallback = ignore_progress,
) -> NetworkEncoder:
    """Train an encoder without labels and leave it in the folder ``out``.

    Under ``torchrun`` all processes train together and all return the encoder; the first writes it
    and is told of progress. ``out`` is then a folder that all of them see.

    Args:
        source: what :func:`lookalike.open_source` takes, or an opened source.
        recipe: a name in :data:`lookalike.training.recipes.RECIPES`.
        out: the encoder folder to make. While training runs it holds only checkpoints. Without
            it the encoder is only returned, and an interrupted run is lost.
        augment: a name in :data:`lookalike.training.augmentations.AUGMENTATIONS`, for short; also in
            ``options``.
        options: epochs, minutes, seed, device, resume, augment, size.
        on_progress: told of each stage, with loss and rate.

    Raises:
        UnknownNameError: no such recipe.
        SettingError: an option outside its range, or a device that is not there.
        SourceError: no images, or one that cannot be read.
        ArtifactError: ``out`` holds something else, or nothing to resume.
        KeyboardInterrupt: interrupted; a checkpoint was written first.
    """
    if augment is not None:
        options = replace(options, augment=augment)
    if out is None:
        with tempfile.TemporaryDirectory(prefix="lookalike-") as passing:
            folder = Path(passing) / "encoder"
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
            opened = open_source(source, on_progress) if isinstance(source, str | Path) else source
            preprocessing = _preprocessing(opened, chosen, options)
            images, exact = _load(opened, preprocessing, on_progress)
            _check_shares(min(len(images), chosen.batch), group)
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
        fitted = fit(chosen, images, options, folder / CHECKPOINT, run, on_progress)

        def finished() -> tuple[Mapping[str, Any], Mapping[str, bytes]]:
            on_progress(Progress("export", 0, 1, "encoder"))
            network = fitted.task.encoder(torch.from_numpy(images)).eval()
            origin = json.loads(json.dumps(_origin(fitted, chosen, opened.spec)))
            encoder = _exported(fitted.task, network, preprocessing, origin)
            _check_export(encoder, network, images[:_CHECKED])
            write_encoder(encoder, folder)
            on_progress(Progress("export", 1, 1, "encoder"))
            return encoder.describe(), encoder.files()

        return NetworkEncoder.restore(*group.broadcast(finished))


def _check(recipe: Recipe, options: TrainingOptions) -> None:
    if options.augment is not None:
        find_augmentations(options.augment)
        if recipe.augment is None:
            raise SettingError(
                f"--augment {options.augment}: recipe {recipe.name!r} distorts nothing"
            )
    if options.size is not None and recipe.size is not None:
        raise SettingError(
            f"--size {options.size}: recipe {recipe.name!r} takes {recipe.size} pixels only"
        )
    if options.size is not None and not SIZES[0] <= options.size <= SIZES[1]:
        raise SettingError(f"--size {options.size}: must be from {SIZES[0]} to {SIZES[1]}")
    if options.epochs is not None and options.epochs < 1:
        raise SettingError(f"--epochs {options.epochs}: must be at least 1")
    if options.minutes is not None and options.minutes <= 0:
        raise SettingError(f"--minutes {options.minutes:g}: must be above 0")
    try:
        torch.empty(1, device=options.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingError(
            f"--device {options.device}: not available here ({reason}); use --device cpu"
        ) from error


def _check_shares(step: int, group: ProcessGroup) -> None:
    """See that a step's images are enough for all processes: batch norm compares some."""
    if step < 2 * group.world_size:
        raise SettingError(
            f"{group.world_size} processes: each needs at least 2 images a step, a step has {step}; "
            "start fewer (torchrun --nproc-per-node)"
        )


def _check_folder(folder: Path, options: TrainingOptions) -> None:
    if options.resume:
        if not (folder / CHECKPOINT / checkpoints.MANIFEST).is_file():
            raise ArtifactError(f"{folder}: holds no checkpoint to resume; leave out --resume")
        return
    if (folder / CHECKPOINT / checkpoints.MANIFEST).exists():
        finished = "a finished" if (folder / MANIFEST).exists() else "an interrupted"
        raise ArtifactError(
            f"{folder}: holds {finished} training run; go on with --resume "
            "(and more --epochs), choose another -o, or remove it"
        )
    if folder.is_file() or any(path.is_file() for path in folder.rglob("*")):
        raise ArtifactError(f"{folder}: already exists; choose another -o")


def _preprocessing(source: Source, recipe: Recipe, options: TrainingOptions) -> Preprocessing:
    """Return the size and channels to train on."""
    if len(source) < 2:
        raise SourceError(
            f"{source.spec}: training needs at least 2 images, there are {len(source)}"
        )
    if recipe.size is not None:
        return Preprocessing(recipe.size, recipe.size, 1)
    sample = sample_images(source, 200)
    fitting = Preprocessing.for_sample(sample, size=options.size or 64, min_size=24)
    if options.size is None:
        return fitting
    return Preprocessing(options.size, options.size, fitting.channels)


def _load(
    source: Source, preprocessing: Preprocessing, on_progress: ProgressCallback
) -> tuple[NDArray[np.uint8], bool]:
    """Return all images as ``(n, c, height, width)`` uint8, and whether all had that size."""
    p = preprocessing
    images = np.empty((len(source), p.channels, p.height, p.width), np.uint8)
    exact = True
    kept = 0
    on_progress(Progress("read images", 0, len(source), "images"))
    for number, item in enumerate(source, 1):
        try:
            image = item.image()
        except ImageError as error:
            log.warning("left out of training: %s", error)
            continue
        exact &= image.shape[:2] == (p.height, p.width)
        images[kept] = p.apply([image]).transpose(0, 3, 1, 2)[0]
        kept += 1
        if number % 1000 == 0 or number == len(source):
            on_progress(Progress("read images", number, len(source), "images"))
    if kept < 2:
        raise SourceError(f"{source.spec}: only {kept} of {len(source)} images could be read")
    images = images[:kept]
    if (images == images[0]).all():
        raise SourceError(
            f"{source.spec}: all {kept:,} images are the same once they are "
            f"{p.width}x{p.height} pixels: there is nothing to learn from them"
        )
    return images, exact


def _origin(fitted: Fitted, recipe: Recipe, source: str) -> dict[str, Any]:
    state = fitted.state
    return {
        **state.run,
        "source": source,
        "epochs": state.epoch + state.step * recipe.batch / int(state.run["images"]),
        "loss": _last_loss(state),
        "history": state.history,
        "batch": recipe.batch,
        "learning_rate": recipe.learning_rate,
        "device": fitted.device,
        "preparing": fitted.preparing,
        "seconds": state.seconds,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("lookalike", "torch", "onnx", "numpy")},
        },
    }


def _last_loss(state: checkpoints.State) -> float | None:
    """Return the mean loss of the epoch that was begun, or else of the last one, if any."""
    if state.step:
        return state.loss_sum / state.step
    return float(state.history[-1]["loss"]) if state.history else None


_CHECKED = 64
_TOLERANCE = 1e-3
"""Largest difference between torch and ONNX Runtime, in shares of the largest value."""


def _check_export(
    encoder: NetworkEncoder, network: torch.nn.Module, images: NDArray[np.uint8]
) -> None:
    """See that what was exported computes what was trained."""
    with torch.no_grad():
        expected = network(torch.from_numpy(images).float() / 255).reshape(len(images), -1).numpy()
    listed = images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)
    found = encoder.encode(list(listed))
    difference = np.abs(found - expected).max() / max(1.0, np.abs(expected).max())
    if not difference <= _TOLERANCE:
        raise ArtifactError(
            f"encoder {encoder.name!r}: ONNX Runtime computes other embeddings than torch "
            f"(difference {difference:.2g}); nothing was written but the checkpoint; please report "
            "this with the versions that lookalike info shows"
        )


def _exported(
    task: Task, network: torch.nn.Module, preprocessing: Preprocessing, origin: Mapping[str, Any]
) -> NetworkEncoder:
    example = torch.zeros(2, preprocessing.channels, preprocessing.height, preprocessing.width)
    plain = {name: value.contiguous() for name, value in task.state_dict().items()}
    extra = {WEIGHTS: save_tensors(plain)}
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
