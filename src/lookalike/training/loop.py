"""fit(): a recipe's task trained on images in memory, with checkpoints on the way."""

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
from lookalike.training.allocator import memory_kept
from lookalike.training.augmentations import find_augmentations
from lookalike.training.distributed import ProcessGroup, current_group
from lookalike.training.interrupts import DeferredInterrupt
from lookalike.training.networks import to_channels_last
from lookalike.training.recipes import Recipe
from lookalike.training.tasks import Task, make_task
from lookalike.training.torch_state import seed_weights, torch_state_restored
from lookalike.types import Progress, ProgressCallback, ignore_progress

CHECKPOINT_S = 60.0
"""A checkpoint is written after each epoch and, within one, at most this many seconds apart."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What a user may set: ``None`` leaves it to the recipe.

    ``minutes`` ends training after that much time, preparation included, whole epochs or not; a
    learning rate that falls has fallen by then. ``device`` is torch's name of one. On a CPU,
    ``resume`` gives the weights of an uninterrupted run. ``augment`` is a name in
    :data:`lookalike.training.augmentations.AUGMENTATIONS`; ``size`` the side in pixels that images are
    brought to. Both are only for the recipes that use them.
    """

    epochs: int | None = None
    minutes: float | None = None
    seed: int = 0
    device: str = "cpu"
    resume: bool = False
    augment: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was trained, in eval mode on the CPU, and where its run stood at the end.

    ``preparing`` is how many seconds passed before the first step, finding neighbors.
    """

    task: Task
    state: checkpoints.State
    device: str
    preparing: float


@torch_state_restored()
def fit(
    recipe: Recipe,
    images: NDArray[np.uint8],
    options: TrainingOptions,
    folder: Path,
    run: Mapping[str, Any],
    on_progress: ProgressCallback = ignore_progress,
) -> Fitted:
    """Train a recipe's task on images ``(n, c, H, W)`` uint8, all in memory as one tensor.

    The order of the images depends on the seed and the number of the epoch alone, the random views
    on these and the number of the step, which is what lets ``--resume`` go on exactly. Ctrl-C is
    heeded between two steps, never within one, where running statistics would already have changed
    and weights not yet; then a checkpoint is written and KeyboardInterrupt raised. Several
    processes do this together (:mod:`lookalike.training.distributed`); the first one writes.

    Raises:
        ArtifactError: the loss became NaN or infinite; the last good checkpoint is kept.
    """
    group = current_group()
    torch.set_num_threads(group.threads)
    seed_weights(options.seed)
    device = torch.device(options.device)
    augment = options.augment or recipe.augment
    chosen = None if augment is None else find_augmentations(augment)
    clock = _Clock(options.minutes)
    task = make_task(recipe, images, chosen, on_progress).to(device)
    to_channels_last(task)
    optimizer = _optimizer(task, recipe)
    state = checkpoints.State(run=run)
    if options.resume:
        with group.shared_errors():
            state = checkpoints.load(folder, run, task, optimizer)
    pixels = torch.from_numpy(images).to(device)
    plan = Plan.of(recipe, len(images), options)
    clock.begin(state.seconds)
    saved = -math.inf

    def save() -> None:
        if group.is_main:
            checkpoints.save(folder, state, task, optimizer)

    task.train()
    with DeferredInterrupt() as interrupt, memory_kept():
        pace = _Pace(clock, interrupt, group)
        on_progress(plan.progress(state))
        while state.epoch < plan.epochs and pace.goes_on():
            batches = plan.batches(state.epoch, device)
            while state.step < len(batches) and pace.goes_on():
                _set_rate(optimizer, recipe, max(plan.done(state), pace.share))
                rows = batches[state.step]
                loss = task.loss(pixels, rows, plan.generator(state, device))
                state.loss_sum += _step(loss, optimizer, task, len(rows))
                state.step += 1
                _check_loss(state, folder)
                if state.step * _MARKS // len(batches) > len(state.marks):
                    state.marks.append((state.step, state.loss_sum))
                if state.step % _REPORT_EVERY == 0 or state.step == len(batches):
                    state.seconds = clock.now()
                    on_progress(plan.progress(state))
                    if state.seconds - saved > CHECKPOINT_S:
                        save()
                        saved = state.seconds
            state.seconds = clock.now()
            if state.step == len(batches):
                state.history.append(_epoch_record(state))
                state.epoch, state.step, state.loss_sum, state.marks = state.epoch + 1, 0, 0.0, []
            if state.seconds - saved > _EPOCHS_APART_S:
                save()
                saved = state.seconds
        save()
        pace.goes_on()  # for an interrupt of the last step, which all are to raise
    return Fitted(task.cpu().eval(), state, str(device), clock.preparing)


_REPORT_EVERY = 10
_MARKS = 20
"""Points of the training curve in each epoch, where it has as many steps."""

_EPOCHS_APART_S = 1.0
"""Epochs of a few images end many times a second; not each is worth a checkpoint."""


def _optimizer(task: Task, recipe: Recipe) -> torch.optim.Optimizer:
    weights, rate = list(task.parameters()), recipe.learning_rate
    if recipe.weight_decay:
        return torch.optim.AdamW(weights, rate, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.Adam(weights, rate, fused=True)


def _set_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, share: float) -> None:
    """Set the learning rate for a share of the training that is done.

    One cycle (Smith and Topin 2018): up from a tenth over the first fifth, down to a hundredth,
    both along a cosine.
    """
    factor = 1.0
    if recipe.one_cycle:
        start, end, along = (
            (0.1, 1.0, share / 0.2) if share < 0.2 else (1.0, 0.01, share / 0.8 - 0.25)
        )
        factor = end + (start - end) * (1 + math.cos(math.pi * min(along, 1))) / 2
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate * factor


def _step(loss: torch.Tensor, optimizer: torch.optim.Optimizer, task: Task, rows: int) -> float:
    """Move the weights by a batch of so many rows, unless the loss is no number; return it."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    value = current_group().average_step(task, loss, rows)
    if math.isfinite(value):
        optimizer.step()
    return value


def _check_loss(state: checkpoints.State, folder: Path) -> None:
    if not math.isfinite(state.loss_sum):
        kept = (folder / checkpoints.MANIFEST).exists()
        advice = (
            "go on from the last good checkpoint with --resume" if kept else "try another --seed"
        )
        raise ArtifactError(
            f"{folder}: the loss became NaN or infinite in epoch {state.epoch + 1}, step "
            f"{state.step}; {advice}"
        )


def _epoch_record(state: checkpoints.State) -> dict[str, Any]:
    """Return mean loss, seconds and curve of the epoch that has just ended."""
    steps, sums = np.array([(0, 0.0), *state.marks]).T
    return {
        "loss": state.loss_sum / state.step,
        "seconds": state.seconds - sum(epoch["seconds"] for epoch in state.history),
        "curve": (np.diff(sums) / np.diff(steps)).tolist(),
    }


@dataclass(frozen=True, slots=True)
class Plan:
    """How many epochs, of which steps."""

    recipe: Recipe
    count: int
    seed: int
    epochs: int
    group: ProcessGroup

    @classmethod
    def of(cls, recipe: Recipe, count: int, options: TrainingOptions) -> Plan:
        """Plan the training of a recipe on ``count`` images."""
        steps = max(1, count // recipe.batch)
        epochs = options.epochs or max(recipe.epochs, math.ceil(recipe.least_steps / steps))
        return cls(recipe, count, options.seed, epochs, current_group())

    def batches(self, epoch: int, device: torch.device) -> list[torch.Tensor]:
        """Return the rows of each step of an epoch, for all processes together."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.count, generator=generator).to(device)
        batches = list(order.split(self.recipe.batch))  # type: ignore[no-untyped-call]
        least = self.recipe.batch if self.recipe.whole_batches else self.group.world_size
        if len(batches) > 1 and len(batches[-1]) < least:
            batches.pop()
        return batches

    def generator(self, state: checkpoints.State, device: torch.device) -> torch.Generator:
        """Return what the views of a step are drawn from, for this process."""
        number = (self.seed * 1_000_003 + state.epoch) * 1_000_003 + state.step
        number = number * self.group.world_size + self.group.rank
        return torch.Generator(device).manual_seed(number % 2**63)

    def done(self, state: checkpoints.State) -> float:
        """Return the share of the training that is done."""
        steps = max(1, self.count // self.recipe.batch)
        return (state.epoch + state.step / steps) / self.epochs

    def progress(self, state: checkpoints.State) -> Progress:
        """Return how far training is, in images."""
        done = min(state.step * self.recipe.batch, self.count) + state.epoch * self.count
        epoch = min(state.epoch + 1, self.epochs)
        note = f"epoch {epoch}/{self.epochs}  loss {state.loss_sum / max(state.step, 1):.5f}"
        task = f"train {self.recipe.name}"
        return Progress(task, done, self.count * self.epochs, "images", note)


class _Clock:
    """Training seconds, those of earlier parts of the run included, and what is left of a limit.

    The limit holds from when the clock is made; training seconds count from :meth:`begin`.
    """

    def __init__(self, minutes: float | None) -> None:
        self._made = time.perf_counter()
        self._limit = math.inf if minutes is None else minutes * 60
        self.preparing = 0.0
        self._before = 0.0

    def begin(self, before: float) -> None:
        """End the preparations; ``before`` are the seconds of earlier parts of the run."""
        self.preparing = time.perf_counter() - self._made
        self._before = before

    def now(self) -> float:
        return time.perf_counter() - self._made - self.preparing + self._before

    def over(self) -> bool:
        return time.perf_counter() - self._made >= self._limit

    def share(self) -> float:
        """Return how much of the time for training is used up."""
        left = self._limit - self.preparing
        return (self.now() - self._before) / left if left > 0 else 1.0


class _Pace:
    """Whether training goes on, and the share of its time that is used up, as all processes see it.

    What any of them says holds for all: their clocks differ, and a Ctrl-C may reach only one.
    """

    def __init__(self, clock: _Clock, interrupt: DeferredInterrupt, group: ProcessGroup) -> None:
        self._clock, self._interrupt, self._group = clock, interrupt, group
        self.share = 0.0

    def goes_on(self) -> bool:
        """Ask all processes; each has to."""
        clock, interrupt = self._clock, self._interrupt
        asked, over, self.share = self._group.all_reduce_max(
            interrupt.asked, clock.over(), clock.share()
        )
        if asked:
            interrupt.asked = True
        return not (asked or over)
