"""From how many labels lookalike choose picks an encoder that is as good as the best.

True quality is precision@7 of 1,000 queries against 5,000 other images (of twemoji: of 1,000
images against all others). A choice is right when its true precision is within the 95 % interval
of the best candidate's. Labels are those of random images, as --ask picks them, or pooled:
images about whose nearest other image the candidates disagree, each with one of these.

    python benchmarks/choose.py
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from lookalike.encoders.registry import open_encoder
from lookalike.errors import InputError
from lookalike.evaluation.agreement import LabelJudgements
from lookalike.evaluation.candidates import TRAINED, candidate_names
from lookalike.evaluation.label_sheet import draw_rows
from lookalike.evaluation.metrics import bootstrap_interval
from lookalike.sources import ArraySource, open_source
from lookalike.stores.exact import ExactIndex
from lookalike.training.loop import TrainingOptions
from lookalike.training.train import train
from lookalike.types import Embeddings, Metric
from lookalike.vectors import unit_rows

SETS = (
    ("dataset:mnist/train[:6000]", "digits"),
    ("dataset:fashion-mnist/train[:6000]", "objects"),
    ("dataset:twemoji/all", "objects"),
)
GALLERY, QUERIES, N = 5_000, 1_000, 7
SAMPLE = 3_000
"""As many images choose works on."""
BUDGETS = (10, 20, 50, 100, 200, 500)
DRAWS = 10
ENOUGH = 8

Draw = Callable[[np.ndarray, int, int], list[int]]
"""From the nearest other row under each candidate, a budget and a seed to rows."""


@dataclass(frozen=True)
class Truth:
    """Precision@7 of each candidate, the best one's interval, and which are within it."""

    precision: Mapping[str, float]
    low: float
    high: float

    @property
    def right(self) -> set[str]:
        """The candidates that are as good as the best."""
        return {name for name, value in self.precision.items() if value >= self.low}


def encode(source: ArraySource, augment: str) -> dict[str, Embeddings]:
    """Return the embeddings of all candidates, the trained one after one minute of training."""
    sample = list(source.images[:SAMPLE])
    found = {}
    for name in candidate_names():
        found[name] = open_encoder(name, sample).encode(source.images)
    small = source.subset(0, min(SAMPLE, len(source)))
    trained = train(small, recipe=TRAINED, augment=augment, options=TrainingOptions(minutes=1))
    found[TRAINED] = trained.encode(source.images)
    return found


def truth(embeddings: Mapping[str, Embeddings], labels: np.ndarray) -> Truth:
    """Return the true quality of each candidate."""
    count = len(labels)
    if count >= GALLERY + QUERIES:
        queries, rows = np.arange(GALLERY, GALLERY + QUERIES), np.arange(GALLERY)
    else:
        queries, rows = np.random.default_rng(0).permutation(count)[:QUERIES], np.arange(count)
    each = {}
    for name, values in embeddings.items():
        found = ExactIndex(values[rows]).search(values[queries], N + 1, Metric.COSINE).rows
        kept = [
            [r for r in rows[hits] if r != q][:N] for hits, q in zip(found, queries, strict=True)
        ]
        each[name] = (labels[np.array(kept)] == labels[queries][:, None]).mean(axis=1)
    best = max(each.values(), key=np.mean)
    interval = bootstrap_interval(best)
    means = {name: float(values.mean()) for name, values in each.items()}
    return Truth(means, interval.low, interval.high)


def at_random(nearest: np.ndarray, count: int, seed: int) -> list[int]:
    """Return the rows that --ask picks."""
    return draw_rows(len(nearest), count, seed=seed)


def pooled(nearest: np.ndarray, count: int, seed: int) -> list[int]:
    """Return rows whose neighbors are disputed, each followed by one of these neighbors."""
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(len(nearest))
    first = drawn[: 2 * count]
    views = np.array([len(set(row)) for row in nearest[first].tolist()])
    ordered = [*first[np.argsort(-views, kind="stable")], *drawn[2 * count :]]
    rows: dict[int, None] = {}
    for row in ordered:
        for chosen in (int(row), int(rng.choice(nearest[row]))):
            if len(rows) < count:
                rows[chosen] = None
    return list(rows)


def nearest_others(embeddings: Mapping[str, Embeddings]) -> np.ndarray:
    """Return ``(n, encoders)``: the nearest other row of each, by cosine."""
    columns = []
    for rows in embeddings.values():
        found = ExactIndex(rows).search(rows, 2, Metric.COSINE).rows
        columns.append(np.where(found[:, 0] == np.arange(len(rows)), found[:, 1], found[:, 0]))
    return np.stack(columns, axis=1)


def draws(
    embeddings: Mapping[str, Embeddings], labels: np.ndarray, right: set[str], draw: Draw
) -> dict[int, tuple[int, int]]:
    """Return for each budget how many choices were right, and in how many a right one was kept.

    Kept is a right candidate when it is the choice or within the noise of it.
    """
    found = {}
    nearest = nearest_others(embeddings)
    for budget in BUDGETS:
        chosen = kept = 0
        for seed in range(DRAWS):
            rows = draw(nearest, budget, seed)
            judged = LabelJudgements({str(row): str(labels[row]) for row in rows})
            try:
                judged.check("labels")
            except InputError:
                continue
            quality = judged.compare({name: values[rows] for name, values in embeddings.items()})
            best = max(quality, key=lambda name: quality[name].estimate.value)
            chosen += best in right
            kept += any(quality[name].tied for name in right)
        found[budget] = chosen, kept
    return found


def enough(found: Mapping[int, tuple[int, int]]) -> str:
    """Return the smallest budget from which on at least 8 of 10 choices were right."""
    good = [budget for budget, (right, _) in found.items() if right >= ENOUGH]
    steady = [b for b in good if all(found[more][0] >= ENOUGH for more in BUDGETS if more >= b)]
    return f"{min(steady)}" if steady else f"more than {BUDGETS[-1]}"


def main() -> None:
    """Measure each data set with and without the trained candidate, and print the tables."""
    summary = []
    for spec, augment in SETS:
        start = time.monotonic()
        source = open_source(spec)
        assert isinstance(source, ArraySource)
        assert source.labels is not None
        every = encode(source, augment)
        labels = np.array(source.labels)
        for left_out in ((), (TRAINED,)):
            embeddings = {n: unit_rows(v) for n, v in every.items() if n not in left_out}
            true = truth(embeddings, labels)
            print(f"\n{spec}{' without ' + TRAINED if left_out else ''}, P@7:")
            ordered = sorted(true.precision.items(), key=lambda named: -named[1])
            print("  " + ", ".join(f"{name} {value:.4f}" for name, value in ordered))
            print(f"  best's interval [{true.low:.4f}, {true.high:.4f}]: {sorted(true.right)}")
            inside = {name: values[:SAMPLE] for name, values in embeddings.items()}
            results = {}
            for how, draw in (("random", at_random), ("pooled", pooled)):
                results[how] = draws(inside, labels[:SAMPLE], true.right, draw)
                cells = [f"{b}: {r} ({k})" for b, (r, k) in results[how].items()]
                print(f"  {how:7} right (kept) of {DRAWS}: " + "  ".join(cells), flush=True)
            name = source.name + (" without " + TRAINED if left_out else "")
            summary.append((name, enough(results["random"]), enough(results["pooled"])))
        print(f"  {time.monotonic() - start:.0f} s")
    print(f"\nlabels from which on at least {ENOUGH} of {DRAWS} choices are right")
    print(f"{'':40} {'random':>14} {'pooled':>14}")
    for name, by_chance, by_pool in summary:
        print(f"{name:40} {by_chance:>14} {by_pool:>14}")


if __name__ == "__main__":
    main()
