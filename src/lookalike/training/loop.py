"""fit(): a recipe and a source of images to an encoder folder, with checkpoints on the way."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save as save_tensors

from lookalike.config import settings
from lookalike.encoders.base import Preprocessing
from lookalike.encoders.catalog import MANIFEST, write_encoder
from lookalike.encoders.onnx import DECODER, NetworkEncoder
from lookalike.errors import ArtifactError, ImageError, SettingError, SourceError
from lookalike.sources import Source, open_source
from lookalike.training import checkpoints
from lookalike.training.export import to_onnx
from lookalike.training.interrupts import DeferredInterrupt
from lookalike.training.networks import Autoencoder, convolutional, linear, to_channels_last
from lookalike.training.objectives import reconstruction
from lookalike.training.recipes import Recipe, find_recipe
from lookalike.types import Progress, ProgressCallback, ignore_progress

log = logging.getLogger(__name__)

NETWORKS: Mapping[str, Callable[[], Autoencoder]] = {
    "linear": linear,
    "conv": lambda: convolutional(batch_norm=False),
    "conv-bn": lambda: convolutional(batch_norm=True),
}
WEIGHTS = "model.safetensors"
CHECKPOINT = "checkpoint"
CHECKPOINT_S = 60.0
"""A checkpoint is written after each epoch and, within one, at most this many seconds apart."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What a user may set: ``None`` leaves it to the recipe.

    ``minutes`` ends training after that much training time, whole epochs or not. ``device`` is
    torch's name of one. On a CPU, ``resume`` gives the weights of an uninterrupted run.
    """

    epochs: int | None = None
    minutes: float | None = None
    seed: int = 0
    device: str = "cpu"
    resume: bool = False


def train(
    source: str | Path | Source,
    *,
    recipe: str,
    out: str | Path | None = None,
    options: TrainingOptions = TrainingOptions(),
    on_progress: ProgressCallback = ignore_progress,
) -> NetworkEncoder:
    """Train an encoder without labels and leave it in the folder ``out``.

    Args:
        source: what :func:`lookalike.open_source` takes, or an opened source.
        recipe: a name in :data:`lookalike.training.recipes.RECIPES`.
        out: the encoder folder to make. While training runs it holds only checkpoints. Without
            it the encoder is only returned, and an interrupted run is lost.
        options: epochs, minutes, seed, device, resume.
        on_progress: told of each stage, with loss and rate.

    Raises:
        UnknownNameError: no such recipe.
        SettingError: an option outside its range, or a device that is not there.
        SourceError: no images, or one that cannot be read.
        ArtifactError: ``out`` holds something else, or nothing to resume.
        KeyboardInterrupt: interrupted; a checkpoint was written first.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="lookalike-") as passing:
            folder = Path(passing) / "encoder"
            return train(
                source, recipe=recipe, out=folder, options=options, on_progress=on_progress
            )
    chosen = find_recipe(recipe)
    _check(options)
    folder = Path(out)
    _check_folder(folder, options)
    opened = open_source(source, on_progress) if isinstance(source, str | Path) else source
    images, preprocessing = _load(opened, chosen, on_progress)
    run = {
        "recipe": chosen.name,
        "seed": options.seed,
        "images": len(images),
        "data": hashlib.sha256(images.tobytes()).hexdigest(),
    }
    fitted = fit(chosen, images, options, folder / CHECKPOINT, run, on_progress)
    return _export(fitted, chosen, preprocessing, folder, opened.spec)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network, in eval mode on the CPU, and where its run stood at the end."""

    model: Autoencoder
    state: checkpoints.State
    device: str


def fit(
    recipe: Recipe,
    images: NDArray[np.uint8],
    options: TrainingOptions,
    folder: Path,
    run: Mapping[str, Any],
    on_progress: ProgressCallback = ignore_progress,
) -> Fitted:
    """Train a recipe's network on images ``(n, 1, H, W)`` uint8, all in memory as one tensor.

    The order of the images depends on the seed and the number of the epoch alone, which is what
    lets ``--resume`` go on exactly. Ctrl-C is heeded between two steps, never within one, where
    running statistics would already have changed and weights not yet; then a checkpoint is written
    and KeyboardInterrupt raised.
    """
    torch.set_num_threads(settings().threads)
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    model = NETWORKS[recipe.network]().to(device)
    to_channels_last(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, fused=True)
    state = checkpoints.State(run=run)
    if options.resume:
        state = checkpoints.load(folder, run, model, optimiser)
    pixels = torch.from_numpy(images).to(device)
    epochs = options.epochs or recipe.epochs
    clock = _Clock(state.seconds, options.minutes)
    saved = clock.now()
    on_progress(_progress(state, recipe, len(pixels), epochs))
    model.train()
    with DeferredInterrupt() as interrupt:
        while state.epoch < epochs and not (clock.over() or interrupt.asked):
            order = _order(options.seed, state.epoch, len(pixels)).to(device)
            batches = order.split(recipe.batch)  # type: ignore[no-untyped-call]
            while state.step < len(batches) and not (clock.over() or interrupt.asked):
                state.loss_sum += _step(model, optimiser, pixels[batches[state.step]])
                state.step += 1
                if state.step * _MARKS // len(batches) > len(state.marks):
                    state.marks.append((state.step, state.loss_sum))
                if state.step % _REPORT_EVERY == 0 or state.step == len(batches):
                    state.seconds = clock.now()
                    on_progress(_progress(state, recipe, len(pixels), epochs))
                    _check_loss(state, folder)
                    if state.seconds - saved > CHECKPOINT_S:
                        checkpoints.save(folder, state, model, optimiser)
                        saved = state.seconds
            state.seconds = clock.now()
            if state.step == len(batches):
                state.history.append(_epoch_record(state))
                state.epoch, state.step, state.loss_sum, state.marks = state.epoch + 1, 0, 0.0, []
            _check_loss(state, folder)
            checkpoints.save(folder, state, model, optimiser)
            saved = state.seconds
    return Fitted(model.cpu().eval(), state, str(device))


_REPORT_EVERY = 50
_MARKS = 20
"""Points of the training curve in each epoch, where it has as many steps."""


def _epoch_record(state: checkpoints.State) -> dict[str, Any]:
    """Return mean loss, seconds and curve of the epoch that has just ended."""
    steps, sums = np.array([(0, 0.0), *state.marks]).T
    return {
        "loss": state.loss_sum / state.step,
        "seconds": state.seconds - sum(epoch["seconds"] for epoch in state.history),
        "curve": (np.diff(sums) / np.diff(steps)).tolist(),
    }


def _last_loss(state: checkpoints.State) -> float | None:
    """Return the mean loss of the epoch that was begun, or else of the last one, if any."""
    if state.step:
        return state.loss_sum / state.step
    return float(state.history[-1]["loss"]) if state.history else None


def _step(model: Autoencoder, optimiser: torch.optim.Optimizer, batch: torch.Tensor) -> float:
    values = (batch.float() / 255).contiguous(memory_format=torch.channels_last)
    loss = reconstruction(model(values), values)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return loss.item()


def _order(seed: int, epoch: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator)


class _Clock:
    """Training seconds, those of earlier parts of the run included."""

    def __init__(self, before: float, minutes: float | None) -> None:
        self._start = time.perf_counter() - before
        self._limit = float("inf") if minutes is None else before + minutes * 60

    def now(self) -> float:
        return time.perf_counter() - self._start

    def over(self) -> bool:
        return self.now() >= self._limit


def _progress(state: checkpoints.State, recipe: Recipe, count: int, epochs: int) -> Progress:
    done = min(state.step * recipe.batch, count) + state.epoch * count
    epoch = min(state.epoch + 1, epochs)
    note = f"epoch {epoch}/{epochs}  loss {state.loss_sum / max(state.step, 1):.5f}"
    return Progress(f"train {recipe.name}", done, count * epochs, "images", note)


def _check_loss(state: checkpoints.State, folder: Path) -> None:
    if not np.isfinite(state.loss_sum):
        raise ArtifactError(
            f"{folder}: the loss became NaN or infinite in epoch {state.epoch + 1} by step "
            f"{state.step}; the last good checkpoint is kept, go on from it with --resume"
        )


def _check(options: TrainingOptions) -> None:
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


def _load(
    source: Source, recipe: Recipe, on_progress: ProgressCallback
) -> tuple[NDArray[np.uint8], Preprocessing]:
    """Return all images as ``(n, 1, size, size)`` uint8, and the preprocessing that did it."""
    if len(source) < 2:
        raise SourceError(
            f"{source.spec}: training needs at least 2 images, there are {len(source)}"
        )
    preprocessing = Preprocessing(recipe.size, recipe.size, 1)
    images = np.empty((len(source), 1, recipe.size, recipe.size), np.uint8)
    exact = True
    kept = 0
    on_progress(Progress("read images", 0, len(source), "images"))
    for number, item in enumerate(source, 1):
        try:
            image = item.image()
        except ImageError as error:
            log.warning("left out of training: %s", error)
            continue
        exact &= image.shape[:2] == (recipe.size, recipe.size)
        images[kept] = preprocessing.apply([image]).transpose(0, 3, 1, 2)[0]
        kept += 1
        if number % 1000 == 0 or number == len(source):
            on_progress(Progress("read images", number, len(source), "images"))
    if kept < 2:
        raise SourceError(f"{source.spec}: only {kept} of {len(source)} images could be read")
    return images[:kept], Preprocessing(recipe.size, recipe.size, 1, exact=exact)


def _export(
    fitted: Fitted,
    recipe: Recipe,
    preprocessing: Preprocessing,
    folder: Path,
    source: str,
) -> NetworkEncoder:
    state = fitted.state
    to_plain_layout = {k: v.contiguous() for k, v in fitted.model.state_dict().items()}
    example = torch.zeros(2, 1, recipe.size, recipe.size)
    code = fitted.model.encoder(example)
    origin = {
        **state.run,
        "source": source,
        "epochs": state.epoch + state.step * recipe.batch / int(state.run["images"]),
        "loss": _last_loss(state),
        "history": state.history,
        "batch": recipe.batch,
        "learning_rate": recipe.learning_rate,
        "device": fitted.device,
        "seconds": state.seconds,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("lookalike", "torch", "onnx", "numpy")},
        },
    }
    encoder = NetworkEncoder(
        recipe.name,
        to_onnx(fitted.model.encoder, example),
        preprocessing,
        origin=json.loads(json.dumps(origin)),
        extra={
            DECODER: to_onnx(fitted.model.decoder, code),
            WEIGHTS: save_tensors(to_plain_layout),
        },
    )
    write_encoder(encoder, folder)
    return encoder
