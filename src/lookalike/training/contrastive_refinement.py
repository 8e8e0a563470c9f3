"""Refine a projection by contrastive learning with hard negatives."""

from __future__ import annotations

from dataclasses import dataclass

import lookalike.training.torch_state  # noqa: F401 - before torch is imported

# isort: split
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lookalike.encoders.whitening import LinearProjection
from lookalike.types import Progress, ProgressCallback, ignore_progress

ROUNDS = 12
"""Number of times that hard negatives are mined."""

_STEPS = 25
_ANCHORS, _HARD_NEGATIVES = 64, 3
_TEMPERATURE = 0.1
_RELATIVE_RATE = 0.03
"""Learning rate, relative to the mean magnitude of the weights."""


@dataclass(frozen=True, slots=True)
class Refinement:
    """A refined projection, and recall@1 of held-out views ``before`` and ``after``."""

    projection: LinearProjection
    before: float
    after: float


def refine(
    rows: NDArray[np.float32],
    views: NDArray[np.float32],
    start: LinearProjection,
    *,
    seed: int = 0,
    device: str = "cpu",
    on_progress: ProgressCallback = ignore_progress,
) -> Refinement:
    """Refine a projection by contrastive learning with hard negatives.

    Each batch holds items together with their three nearest other items, mined again in each round.
    The loss is InfoNCE (van den Oord et al. 2018, section 2.3) between a view of each item and all
    items of the batch. The last view of each item is held out; the result is the projection of the
    round with the highest recall@1 of the held-out views, possibly ``start``.

    Args:
        rows: ``(n, d)`` float32, embeddings of items.
        views: ``(n, v, d)`` float32, embeddings of v >= 2 views of each item.
        start: initial projection of d dimensions, learned without the last views.
        seed: of the batches.
        device: torch device.
        on_progress: called after each round.
    """
    generator = torch.Generator().manual_seed(seed)
    items = torch.from_numpy(rows - start.mean).to(device)
    all_views = torch.from_numpy(views - start.mean).to(device)
    train_views, held_out = all_views[:, :-1], all_views[:, -1]
    weight = torch.from_numpy(start.projection.copy()).to(device).requires_grad_()
    rate = _RELATIVE_RATE * float(weight.detach().abs().mean())
    optimizer = torch.optim.AdamW([weight], lr=rate)
    before = best = _recall_at_1(items, held_out, weight)
    best_weight = weight.detach().clone()
    for number in range(ROUNDS):
        negatives = _nearest_others(items, weight)
        for _ in range(_STEPS):
            anchors = torch.randperm(len(items), generator=generator)[:_ANCHORS].to(device)
            batch = torch.cat([anchors, negatives[anchors].flatten()]).unique()  # type: ignore[no-untyped-call]
            choice = torch.randint(train_views.shape[1], (len(batch),), generator=generator)
            loss = _info_nce(items[batch], train_views[batch, choice.to(device)], weight)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        recall = _recall_at_1(items, held_out, weight)
        if recall > best:
            best, best_weight = recall, weight.detach().clone()
        on_progress(Progress("contrast", number + 1, ROUNDS, "rounds", f"recall@1 {recall:.4f}"))
    projection = LinearProjection(start.mean, best_weight.cpu().numpy())
    return Refinement(projection, before, best)


def _info_nce(items: Tensor, views: Tensor, weight: Tensor) -> Tensor:
    """Return InfoNCE in both directions between items and views ``(b, d)``."""
    queries, keys = _project(views, weight), _project(items, weight)
    logits = queries @ keys.T / _TEMPERATURE
    target = torch.arange(len(queries), device=queries.device)
    return (
        functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    ) / 2


def _project(values: Tensor, weight: Tensor) -> Tensor:
    return functional.normalize(values @ weight)


@torch.no_grad()
def _nearest_others(items: Tensor, weight: Tensor) -> Tensor:
    """Return the nearest other items of each item, ``(n, 3)``."""
    unit = _project(items, weight)
    scores = unit @ unit.T
    scores.fill_diagonal_(-2)
    return scores.topk(min(_HARD_NEGATIVES, len(items) - 1), dim=1).indices


@torch.no_grad()
def _recall_at_1(items: Tensor, views: Tensor, weight: Tensor) -> float:
    """Return the share of views whose nearest item is their own."""
    nearest = (_project(views, weight) @ _project(items, weight).T).argmax(dim=1)
    target = torch.arange(len(items), device=items.device)
    return float((nearest == target).double().mean())
