"""Checks of distributed training: ``torchrun -m tests.distributed_run FOLDER``.

Each process writes its results to ``FOLDER/RANK.json`` and its weights beside it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lookalike.encoders.base import Preprocessing
from lookalike.errors import LookalikeError, SettingError, SourceError
from lookalike.sources import open_source
from lookalike.training.checkpoints import plain_tensors
from lookalike.training.distributed import ProcessGroup, current_group, process_group
from lookalike.training.loop import fit
from lookalike.training.losses import nt_xent
from lookalike.training.options import TrainingOptions
from lookalike.training.recipes import RECIPES, Recipe
from lookalike.training.train import train
from lookalike.types import Progress, ProgressCallback, ignore_progress
from tests.custom_recipes import OWN
from tests.integration.test_cli import lookalike

ROWS = 13
SOURCE = "dataset:digits/train[:100]"
WHOLE = TrainingOptions(epochs=8, seed=5, augment="digits", size=32)
"""The run that the command line interrupts and resumes."""


def main(folder: Path) -> None:
    with process_group("cpu") as group:
        results = {
            "gradients": gradients(group),
            "errors": [
                raised(group, 1, SettingError("mine")),
                raised(group, 0, SettingError("ours")),
            ],
            "data": different_data(group),
            "all_reduce_sum": group.all_reduce_sum(
                np.eye(group.world_size, dtype=np.int64)[group.rank]
            ).tolist(),
            "all_reduce_max": group.all_reduce_max(group.rank, 1 - group.rank, 0.25),
        }
        fits(folder, group, results)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lookalike.cli.torchrun._GRACE_S", 0)
            done = lookalike("train", SOURCE, "-o", folder / "refused", "--size", 20)
        results["command line"] = [done.returncode, done.stdout, done.stderr]
        encoder = train(SOURCE, recipe="contrastive", out=folder / "whole", options=WHOLE)
        results["fingerprint"] = encoder.fingerprint
        (folder / f"{group.rank}.json").write_text(json.dumps(results))


def gradients(group: ProcessGroup) -> Mapping[str, float]:
    """Return the maximum differences from the gradients of one process with the whole batch."""
    torch.manual_seed(0)
    images = torch.randn(2, ROWS, 6, dtype=torch.float64)  # two views of each
    net = nn.Linear(6, 4).double()

    def full_loss() -> torch.Tensor:
        return nt_xent(net(images).flatten(0, 1), 0.2)

    def shard_loss() -> torch.Tensor:
        own = images[:, group.shard(torch.arange(ROWS))]
        return nt_xent(group.all_gather(net(own), ROWS).flatten(0, 1), 0.2)

    def full_mean() -> torch.Tensor:
        return net(images).square().mean()

    def shard_mean() -> torch.Tensor:
        return net(images[:, group.shard(torch.arange(ROWS))]).square().mean()

    differences = {}
    for name, full, shard in (
        ("contrastive", full_loss, shard_loss),
        ("mean", full_mean, shard_mean),
    ):
        net.zero_grad()
        value = full()
        value.backward()
        expected = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        net.zero_grad()
        loss = shard()
        loss.backward()
        averaged = group.average_step(net, loss, ROWS)
        pairs = zip(net.parameters(), expected, strict=True)
        differences[name] = max(
            float((p.grad - e).abs().max()) for p, e in pairs if p.grad is not None
        )
        differences[f"{name} loss"] = abs(averaged - value.item())
    return differences


def raised(group: ProcessGroup, rank: int, error: LookalikeError) -> list[str]:
    """Return the error on this process when the process of the given rank fails."""
    try:
        with group.shared_errors():
            if group.rank == rank:
                raise error
    except LookalikeError as raised_error:
        return [type(raised_error).__name__, str(raised_error)]
    return []


def different_data(group: ProcessGroup) -> str:
    group.check_same_data("same")
    try:
        group.check_same_data(f"other {group.rank}")
    except SourceError as error:
        return str(error)
    return ""


def fits(folder: Path, group: ProcessGroup, results: dict[str, Any]) -> None:
    """Train uninterrupted, interrupted on one process and resumed, and up to a time limit."""
    small: dict[str, Any] = {"batch": 65, "min_steps": 1}
    contrastive = replace(RECIPES["contrastive"], **small)
    conv, linear = RECIPES["report-conv-bn"], RECIPES["report-linear"]
    for recipe, epochs in ((contrastive, 3), (conv, 2), (linear, 1), (OWN, 3)):
        name = recipe.name
        options = TrainingOptions(epochs=epochs, seed=3)
        trained(recipe, options, folder / f"{name}-whole")
        parts = folder / f"{name}-parts"
        try:
            trained(recipe, options, parts, Interrupt(group.rank == 1, 200 * epochs // 2))
        except KeyboardInterrupt:
            results[f"{name} interrupted"] = True
        trained(recipe, replace(options, resume=True), parts)
    denoising = replace(RECIPES["denoising"], batch=65)
    trained(denoising, TrainingOptions(epochs=10**6, minutes=0.02), folder / "minutes")


class Interrupt:
    """Sends SIGINT to one process, once."""

    def __init__(self, enabled: bool, after: int) -> None:
        self.enabled, self.after = enabled, after

    def __call__(self, p: Progress) -> None:
        if self.enabled and p.task.startswith("train") and p.done >= self.after:
            self.enabled = False
            os.kill(os.getpid(), signal.SIGINT)


def trained(
    recipe: Recipe,
    options: TrainingOptions,
    folder: Path,
    on_progress: ProgressCallback = ignore_progress,
) -> None:
    source = open_source("dataset:digits/train[:203]")
    images = np.stack([Preprocessing(28, 28, 1).apply([item.image()])[0] for item in source])
    run = {"recipe": recipe.name, "processes": current_group().world_size}
    pixels = images.transpose(0, 3, 1, 2).copy()
    fitted = fit(recipe, pixels, options, folder, run, on_progress)
    weights = plain_tensors(fitted.task.state_dict())
    save_file(weights, f"{folder}-{current_group().rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
