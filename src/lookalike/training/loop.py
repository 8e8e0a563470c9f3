"""fit(): train a recipe's task on images in memory, with checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lookalike.training.torch_state  # noqa: F401 - before torch is imported

# isort: split
import numpy as np
import torch
from numpy.typing import NDArray

from lookalike.errors import ArtifactError
from lookalike.training import checkpoints
from lookalike.training.allocator import retain_memory
from lookalike.training.augmentations import find_augmentations
from lookalike.training.checkpoints import TrainingState
from lookalike.training.custom import custom_task
from lookalike.training.distributed import ProcessGroup, current_group
from lookalike.training.interrupts import DeferredInterrupt
from lookalike.training.networks import set_memory_format
from lookalike.training.options import TrainingOptions
from lookalike.training.recipe import Recipe
from lookalike.training.run_folder import CHECKPOINT_MANIFEST
from lookalike.training.tasks import Task, make_task
from lookalike.training.torch_state import preserve_torch_state, seed_weights
from lookalike.types import Progress, ProgressCallback, ignore_progress

CHECKPOINT_S = 60.0
"""Maximum time between checkpoints within an epoch; another one follows each epoch."""

_MIN_CHECKPOINT_S = 1.0
"""Minimum time between the checkpoints of epochs: those of a few images take milliseconds."""

_REPORT_EVERY = 10
_CURVE_POINTS = 20
"""Points of the loss curve per epoch, if it has as many steps."""


@dataclass(frozen=True, slots=True)
class FitResult:
    """The trained task, in eval mode on the CPU, and the final state of the run.

    ``preparation_seconds`` passed before the first step, for finding neighbors.
    """

    task: Task
    state: TrainingState
    device: str
    preparation_seconds: float


@preserve_torch_state()
def fit(
    recipe: Recipe,
    images: NDArray[np.uint8],
    options: TrainingOptions,
    folder: Path,
    run: Mapping[str, Any],
    on_progress: ProgressCallback = ignore_progress,
) -> FitResult:
    """Train a recipe's task on images ``(n, c, H, W)`` uint8, all in memory as one tensor.

    The order of the images depends only on seed and epoch, the augmentations also on the step, so
    that a resumed run continues exactly. Ctrl-C takes effect between two steps: within one, running
    statistics would be ahead of the weights. It writes a checkpoint and raises KeyboardInterrupt.
    Several processes train together (:mod:`lookalike.training.distributed`); the main process
    writes.

    Raises:
        ArtifactError: the loss became NaN or infinite; the last good checkpoint is kept.
    """
    group = current_group()
    torch.set_num_threads(group.threads)
    seed_weights(options.seed)
    device = torch.device(options.device)
    augment = options.augment or recipe.augment
    if isinstance(augment, str):
        augment = find_augmentations(augment)
    clock = _Clock(options.minutes)
    task = (
        custom_task(recipe, images, augment)
        if recipe.is_custom
        else make_task(recipe, images, augment, on_progress)
    ).to(device)
    set_memory_format(task, task.memory_format)
    optimizer = _optimizer(task, recipe)
    state = TrainingState(run=run)
    if options.resume:
        with group.shared_errors():
            state = checkpoints.load(folder, run, task, optimizer)
    pixels = torch.from_numpy(images).to(device)
    clock.start_training(state.seconds)
    task.train()
    with DeferredInterrupt() as interrupt, retain_memory():
        _Loop(
            schedule=Schedule.of(recipe, len(images), options),
            task=task,
            optimizer=optimizer,
            state=state,
            pixels=pixels,
            folder=folder,
            clock=clock,
            stop=_StopCondition(clock, interrupt, group),
            on_progress=on_progress,
        ).run()
    return FitResult(task.cpu().eval(), state, str(device), clock.preparation_seconds)


@dataclass(slots=True, kw_only=True)
class _Loop:
    """The training loop: epochs of steps, with progress reports and checkpoints."""

    schedule: Schedule
    task: Task
    optimizer: torch.optim.Optimizer
    state: TrainingState
    pixels: torch.Tensor
    folder: Path
    clock: _Clock
    stop: _StopCondition
    on_progress: ProgressCallback
    saved_at: float = -math.inf

    def run(self) -> None:
        self.on_progress(self.schedule.progress(self.state))
        while self.state.epoch < self.schedule.epochs and self.stop.proceed():
            self._epoch()
        self._save()
        self.stop.proceed()  # an interrupt of the last step must reach all processes

    def _epoch(self) -> None:
        state = self.state
        batches = self.schedule.batches(state.epoch, self.pixels.device)
        while state.step < len(batches) and self.stop.proceed():
            self._step(batches)
        state.seconds = self.clock.now()
        if state.step == len(batches):
            state.history.append(epoch_record(state))
            state.epoch, state.step, state.loss_sum, state.loss_marks = state.epoch + 1, 0, 0.0, []
        self._save_after(_MIN_CHECKPOINT_S)

    def _step(self, batches: list[torch.Tensor]) -> None:
        state, schedule = self.state, self.schedule
        progress = max(schedule.completed(state), self.stop.time_used)
        _set_learning_rate(self.optimizer, schedule.recipe, progress)
        rows = batches[state.step]
        loss = self.task.loss(self.pixels, rows, schedule.generator(state, self.pixels.device))
        state.loss_sum += _optimizer_step(loss, self.optimizer, self.task, len(rows))
        state.step += 1
        _check_loss(state, self.folder)
        if state.step * _CURVE_POINTS // len(batches) > len(state.loss_marks):
            state.loss_marks.append((state.step, state.loss_sum))
        if state.step % _REPORT_EVERY == 0 or state.step == len(batches):
            state.seconds = self.clock.now()
            self.on_progress(schedule.progress(state))
            self._save_after(CHECKPOINT_S)

    def _save_after(self, seconds: float) -> None:
        """Write a checkpoint if the last one is older."""
        if self.state.seconds - self.saved_at > seconds:
            self._save()
            self.saved_at = self.state.seconds

    def _save(self) -> None:
        if self.schedule.group.is_main:
            checkpoints.save(self.folder, self.state, self.task, self.optimizer)


def _optimizer(task: Task, recipe: Recipe) -> torch.optim.Optimizer:
    weights, rate = list(task.parameters()), recipe.learning_rate
    if recipe.weight_decay:
        return torch.optim.AdamW(weights, rate, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.Adam(weights, rate, fused=True)


def _set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, progress: float) -> None:
    """Set the learning rate for a training progress in [0, 1].

    One cycle (Smith and Topin 2018): from a tenth up to the maximum in the first fifth, then down
    to a hundredth, both along a cosine.
    """
    factor = 1.0
    if recipe.one_cycle:
        start, end, phase = (
            (0.1, 1.0, progress / 0.2) if progress < 0.2 else (1.0, 0.01, progress / 0.8 - 0.25)
        )
        factor = end + (start - end) * (1 + math.cos(math.pi * min(phase, 1))) / 2
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate * factor


def _optimizer_step(
    loss: torch.Tensor, optimizer: torch.optim.Optimizer, task: Task, batch_size: int
) -> float:
    """Update the weights, unless the loss is not finite; return the loss over all processes."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    value = current_group().average_step(task, loss, batch_size)
    if math.isfinite(value):
        optimizer.step()
    return value


def _check_loss(state: TrainingState, folder: Path) -> None:
    if math.isfinite(state.loss_sum):
        return
    problem = (
        f"{folder}: the loss became NaN or infinite in epoch {state.epoch + 1}, step {state.step}"
    )
    if (folder / CHECKPOINT_MANIFEST).exists():
        # Resuming alone would repeat the same steps.
        raise ArtifactError(
            f"{problem}; the last good checkpoint is kept: write its encoder with {{resume}} and a "
            "small {minutes}",
            resume=True,
            minutes=None,
        )
    raise ArtifactError(f"{problem}; try another {{seed}}", seed=None)


def epoch_record(state: TrainingState) -> dict[str, Any]:
    """Return mean loss, seconds and loss curve of the epoch that has just ended, or been left."""
    marks = [(0, 0.0), *state.loss_marks]
    if marks[-1][0] < state.step:  # left within a twentieth of the epoch
        marks.append((state.step, state.loss_sum))
    steps, sums = np.array(marks).T
    return {
        "loss": state.loss_sum / state.step,
        "seconds": state.seconds - sum(epoch["seconds"] for epoch in state.history),
        "curve": (np.diff(sums) / np.diff(steps)).tolist(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The epochs and batches of a training run on ``count`` images."""

    recipe: Recipe
    count: int
    seed: int
    epochs: int
    group: ProcessGroup

    @classmethod
    def of(cls, recipe: Recipe, count: int, options: TrainingOptions) -> Schedule:
        """Return the schedule of a recipe for ``count`` images."""
        steps = max(1, count // recipe.batch)
        epochs = options.epochs or max(recipe.epochs, math.ceil(recipe.min_steps / steps))
        return cls(
            recipe=recipe, count=count, seed=options.seed, epochs=epochs, group=current_group()
        )

    def batches(self, epoch: int, device: torch.device) -> list[torch.Tensor]:
        """Return the image indices of each step of an epoch, for all processes together."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.count, generator=generator).to(device)
        batches = list(order.split(self.recipe.batch))  # type: ignore[no-untyped-call]
        min_size = self.recipe.batch if self.recipe.drop_last else self.group.world_size
        if len(batches) > 1 and len(batches[-1]) < min_size:
            batches.pop()
        return batches

    def generator(self, state: TrainingState, device: torch.device) -> torch.Generator:
        """Return the random generator of the next step's augmentations on this process."""
        seed = (self.seed * 1_000_003 + state.epoch) * 1_000_003 + state.step
        seed = seed * self.group.world_size + self.group.rank
        return torch.Generator(device).manual_seed(seed % 2**63)

    def completed(self, state: TrainingState) -> float:
        """Return the completed fraction of the training."""
        steps = max(1, self.count // self.recipe.batch)
        return (state.epoch + state.step / steps) / self.epochs

    def progress(self, state: TrainingState) -> Progress:
        """Return the progress in images."""
        done = min(state.step * self.recipe.batch, self.count) + state.epoch * self.count
        epoch = min(state.epoch + 1, self.epochs)
        note = f"epoch {epoch}/{self.epochs}  loss {state.loss_sum / max(state.step, 1):.5f}"
        task = f"train {self.recipe.name}"
        return Progress(task, done, self.count * self.epochs, "images", note)


class _Clock:
    """Measures preparation and training time, and what is left of the time limit.

    The limit counts from creation; training time counts from :meth:`start_training` and includes
    earlier parts of a resumed run.
    """

    def __init__(self, minutes: float | None) -> None:
        self._created = time.perf_counter()
        self._limit = math.inf if minutes is None else minutes * 60
        self.preparation_seconds = 0.0
        self._earlier = 0.0

    def start_training(self, earlier: float) -> None:
        """End the preparation; ``earlier`` are the training seconds before a resume."""
        self.preparation_seconds = time.perf_counter() - self._created
        self._earlier = earlier

    def now(self) -> float:
        """Return the training seconds."""
        return time.perf_counter() - self._created - self.preparation_seconds + self._earlier

    def expired(self) -> bool:
        """Return whether the time limit is reached."""
        return time.perf_counter() - self._created >= self._limit

    def used(self) -> float:
        """Return the used fraction of the time for training."""
        available = self._limit - self.preparation_seconds
        return (self.now() - self._earlier) / available if available > 0 else 1.0


class _StopCondition:
    """Whether to stop, and the used fraction of the time limit, agreed by all processes.

    Clocks differ between processes, and Ctrl-C may reach only one of them.
    """

    def __init__(self, clock: _Clock, interrupt: DeferredInterrupt, group: ProcessGroup) -> None:
        self._clock, self._interrupt, self._group = clock, interrupt, group
        self.time_used = 0.0

    def proceed(self) -> bool:
        """Return whether to continue; must be called by all processes."""
        clock, interrupt = self._clock, self._interrupt
        requested, expired, self.time_used = self._group.all_reduce_max(
            interrupt.requested, clock.expired(), clock.used()
        )
        if requested:
            interrupt.requested = True
        return not (requested or expired)
