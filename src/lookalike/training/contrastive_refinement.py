"""A projection refined by contrast: views of an item near it, its nearest other items far."""

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
"""Times that hard negatives are looked for again."""

_STEPS = 25
_ANCHORS, _HARD = 64, 3
_TEMPERATURE = 0.1
_RATE = 0.03
"""In shares of the weights' mean size."""


@dataclass(frozen=True, slots=True)
class Refined:
    """A projection, and what share of held-out views found their item first, before and after."""

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
) -> Refined:
    """Go on from a projection by contrast with hard negatives.

    Each batch holds items with the three that are nearest to each (found again in each round), and
    the loss is InfoNCE (van den Oord et al. 2018, section 2.3) between a view of each and all
    items of the batch. The last view of each item is held out; what is returned is the projection
    of the round in which most of these views found their item first, which may be ``start``.

    Args:
        rows: ``(n, d)``, items.
        views: ``(n, v, d)``, v at least 2.
        start: of d dimensions, learned without the last views.
        seed: of the batches.
        device: in torch's words.
        on_progress: told of each round.
    """
    generator = torch.Generator().manual_seed(seed)
    items = torch.from_numpy(rows - start.mean).to(device)
    seen = torch.from_numpy(views - start.mean).to(device)
    seen, held = seen[:, :-1], seen[:, -1]
    weight = torch.from_numpy(start.projection.copy()).to(device).requires_grad_()
    optimizer = torch.optim.AdamW([weight], lr=_RATE * float(weight.detach().abs().mean()))
    before = best = _found(items, held, weight)
    kept = weight.detach().clone()
    for number in range(ROUNDS):
        near = _nearest(items, weight)
        for _ in range(_STEPS):
            anchors = torch.randperm(len(items), generator=generator)[:_ANCHORS].to(device)
            batch = torch.cat([anchors, near[anchors].flatten()]).unique()  # type: ignore[no-untyped-call]
            which = torch.randint(seen.shape[1], (len(batch),), generator=generator).to(device)
            loss = _loss(items[batch], seen[batch, which], weight)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        found = _found(items, held, weight)
        if found > best:
            best, kept = found, weight.detach().clone()
        on_progress(Progress("contrast", number + 1, ROUNDS, "rounds", f"found {found:.4f}"))
    projection = LinearProjection(start.mean, kept.cpu().numpy())
    return Refined(projection, before, best)


def _loss(items: Tensor, views: Tensor, weight: Tensor) -> Tensor:
    """Return InfoNCE in both directions of items and views ``(b, d)``."""
    a, b = _projected(views, weight), _projected(items, weight)
    logits = a @ b.T / _TEMPERATURE
    own = torch.arange(len(a), device=a.device)
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def _projected(values: Tensor, weight: Tensor) -> Tensor:
    return functional.normalize(values @ weight)


@torch.no_grad()
def _nearest(items: Tensor, weight: Tensor) -> Tensor:
    """Return the nearest other items to each, ``(n, 3)``."""
    unit = _projected(items, weight)
    near = unit @ unit.T
    near.fill_diagonal_(-2)
    return near.topk(min(_HARD, len(items) - 1), dim=1).indices


@torch.no_grad()
def _found(items: Tensor, views: Tensor, weight: Tensor) -> float:
    """Return the share of views whose nearest item is their own."""
    nearest = (_projected(views, weight) @ _projected(items, weight).T).argmax(dim=1)
    own = torch.arange(len(items), device=items.device)
    return float((nearest == own).double().mean())
