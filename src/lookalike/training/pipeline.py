"""A training run: images are read, a recipe is trained on them, the encoder is exported."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

from lookalike.artifacts import check_writable
from lookalike.encoders.base import MANIFEST, Preprocessing
from lookalike.encoders.export import ExportAgreement, compare_embeddings, to_onnx
from lookalike.encoders.onnx import DECODER_FILE, NetworkEncoder
from lookalike.encoders.persistence import describe_manifest, write_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import ArtifactError, ImageError, SettingError, SourceError
from lookalike.sources import Source
from lookalike.sources.inputs import SourceLike, as_source
from lookalike.sources.sampling import sample_images
from lookalike.training import checkpoints
from lookalike.training.augmentations import AUGMENTATIONS, find_augmentations
from lookalike.training.distributed import ProcessGroup, process_group
from lookalike.training.loop import FitResult, epoch_record, fit
from lookalike.training.options import TrainingOptions
from lookalike.training.recipes import RECIPES, Recipe
from lookalike.training.run_folder import CHECKPOINT, check_folder
from lookalike.training.tasks import Task
from lookalike.training.torch_state import preserve_torch_state
from lookalike.types import Progress, ProgressCallback, ignore_progress

log = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"

_CUSTOM_SETTINGS = ("batch", "learning_rate", "weight_decay", "one_cycle", "drop_last")
"""What of a custom recipe must be the same on resume, besides its name."""

_SAMPLE = 200
"""Images that decide on the default size and the channels."""

EXPORT = "export"
"""Key of an encoder's origin: how well ONNX Runtime agrees with torch, as a dict of
:class:`lookalike.encoders.export.ExportAgreement`."""

_CHECKED = 256
"""Training images on which the two are compared, evenly spread."""

_CHUNK = 64


@preserve_torch_state()
def run_training(
    images: SourceLike,
    recipe: Recipe,
    folder: Path,
    options: TrainingOptions,
    on_progress: ProgressCallback,
) -> NetworkEncoder:
    """Train an encoder and write it to a folder; see :func:`lookalike.train`."""
    with process_group(options.device) as group:
        torch.set_num_threads(group.threads)
        options = replace(options, device=group.device(options.device))
        if not group.is_main:
            on_progress = ignore_progress
        with group.shared_errors():
            check_folder(folder, options)
            options = _restore_options(options, recipe, folder)
            recipe = recipe.resized(options.code_size, options.widths)
            _check(recipe, options)
            check_writable(folder / CHECKPOINT)
            opened = as_source(images, on_progress)
            preprocessing = _preprocessing(opened, recipe, options)
            if group.is_main:
                open_encoder("untrained", [])  # whether networks run on the configured device
            pixels, exact = _load(opened, preprocessing, on_progress)
            _check_batch(min(len(pixels), recipe.batch), group)
        preprocessing = replace(preprocessing, exact=exact and recipe.size is not None)
        run = _run(recipe, options, pixels)
        group.check_same_data(str(run["data"]))
        if group.world_size > 1:
            run["processes"] = group.world_size
        result = fit(recipe, pixels, options, folder / CHECKPOINT, run, on_progress)

        def export() -> tuple[Mapping[str, Any], Mapping[str, bytes]]:
            on_progress(Progress("export", 0, 1, "encoder"))
            with _checkpoint_named(folder):
                network = result.task.encoder(torch.from_numpy(pixels)).eval()
                origin = json.loads(json.dumps(_origin(result, recipe, opened.spec)))
                encoder = _export(result.task, network, preprocessing, origin)
                agreement = _agreement(encoder, network, pixels)
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


def _restore_options(options: TrainingOptions, recipe: Recipe, folder: Path) -> TrainingOptions:
    """Return the options with what a resumed run was started with, where they leave it open."""
    if not options.resume:
        return options
    run = checkpoints.read_run(folder / CHECKPOINT)
    if run.get("recipe") != recipe.name:
        return options
    restored: dict[str, Any] = {key: run.get(key) for key in ("code_size", "widths")}
    if run.get("augment") in AUGMENTATIONS:
        restored["augment"] = run["augment"]
    unset = {key: value for key, value in restored.items() if getattr(options, key) is None}
    return replace(options, **unset)


def _run(recipe: Recipe, options: TrainingOptions, images: NDArray[np.uint8]) -> dict[str, Any]:
    """Return what must not change when the run is resumed."""
    run: dict[str, Any] = {
        "recipe": recipe.name,
        "augment": options.augment or recipe.augment_name,
        "seed": options.seed,
        "images": len(images),
        "data": hashlib.sha256(images.tobytes()).hexdigest(),
    }
    standard = RECIPES.get(recipe.name)
    if standard is None:
        run |= {name: getattr(recipe, name) for name in _CUSTOM_SETTINGS}
    if recipe.widths is not None:
        if standard is None or recipe.code_size != standard.code_size:
            run["code_size"] = recipe.code_size
        if standard is None or recipe.widths != standard.widths:
            run["widths"] = list(recipe.widths)
    return run


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


def _check(recipe: Recipe, options: TrainingOptions) -> None:
    """Check that the options fit the recipe, and that the device is available."""
    if options.augment is not None:
        find_augmentations(options.augment)
        if recipe.augment is None:
            raise SettingError(
                f"{{augment}} is not allowed: recipe {recipe.name!r} uses no augmentation",
                augment=options.augment,
            )
    elif isinstance(recipe.augment, str):
        find_augmentations(recipe.augment)
    if options.size is not None and recipe.size is not None:
        raise SettingError(
            f"{{size}} is not allowed: recipe {recipe.name!r} always uses {recipe.size} pixels",
            size=options.size,
        )
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
        "loss_name": recipe.loss_name,
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
    extra = {WEIGHTS: save_tensors(checkpoints.plain_tensors(task.state_dict()))}
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
