"""The same item in another picture: what each step adds, on stand-ins with known right answers.

    python benchmarks/instance.py WORK [--only stamps|emoji]
    python benchmarks/instance.py --picture OUT.png

Choices were made on the stamps (street views and drawings of photographed items). Of the emoji
pairs, noto to twemoji and noto to fluent-emoji were looked at while building; noto to openmoji was
used for nothing, and is printed last. Nothing is trained or tuned on the codepoints that judge.

Everything is kept in WORK, so that it can be interrupted and goes on where it was. It takes about
an hour on two cores. Ends with the tables of docs/instance-retrieval.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lookalike.datasets import open_dataset
from lookalike.datasets.stamps import background_photos
from lookalike.encoders.batching import fit_encoder
from lookalike.encoders.persistence import load_encoder
from lookalike.evaluation.evaluate import evaluate
from lookalike.evaluation.metrics import bootstrap_interval
from lookalike.gallery.gallery import Gallery
from lookalike.images.compositing import compose_photo
from lookalike.images.stylization import restyle
from lookalike.sources import open_source
from lookalike.training.adapt import AdaptOptions, adapt

LITE0 = "efficientnet-lite0"
STEPS = (
    "pixels",
    "hog-fine+color",
    LITE0,
    f"{LITE0},fit=stretch",
    f"{LITE0}/avg,fit=stretch",
    f"{LITE0}/max,fit=stretch",
    f"{LITE0}/rmac,fit=stretch",
    f"{LITE0}/attention,fit=stretch",
    f"{LITE0}/grid,fit=stretch",
    f"{LITE0}/layers,fit=stretch",
    f"{LITE0},fit=white",
    f"{LITE0},fit=stretch,mirror",
    f"{LITE0},size=224:320,fit=stretch",
    f"{LITE0},fit=stretch,foreground",
    f"{LITE0},fit=stretch,whiten=256",
    f"{LITE0}/layers,fit=stretch,whiten=256",
)
FEW_STEPS = (
    "pixels",
    f"{LITE0},fit=stretch",
    f"{LITE0},fit=stretch,whiten=256",
    f"{LITE0}/layers,fit=stretch,whiten=256",
)
ADAPTED = f"{LITE0}/layers,fit=stretch"
WAYS = "foreground,parts,aqe,dba,k-reciprocal,diffusion,multi-crop+k-reciprocal"
FEW_WAYS = "aqe,k-reciprocal,diffusion"
VIEWS_PER_IMAGE = 4


@dataclass(frozen=True, slots=True)
class Task:
    """Queries, a gallery, the column that says what is right, and the query domain to adapt to."""

    name: str
    queries: str
    gallery: str
    match: str
    query_domain: str
    ways: str
    steps: tuple[str, ...]
    all_steps: bool = False


STAMPS = (
    Task("street", "stamps/street", "stamps/shop", "item", "street", WAYS, STEPS, True),
    Task("drawn", "stamps/drawn", "stamps/shop", "item", "drawn", FEW_WAYS, FEW_STEPS, True),
)
EMOJI = tuple(
    Task(
        f"noto to {vendor}",
        "noto-emoji/shared",
        f"{vendor}/shared",
        "codepoint",
        "drawn",
        FEW_WAYS,
        FEW_STEPS,
    )
    for vendor in ("twemoji", "fluent-emoji", "openmoji")
)


class Bench:
    """Runs and keeps results."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.path = work / "results.json"
        self.results: dict[str, Any] = (
            json.loads(self.path.read_text()) if self.path.exists() else {}
        )

    def run(self, task: Task) -> None:
        """Judge each step of a task that is not judged yet."""
        for step in task.steps:
            self._judge(task, step, step)
        name = f"{ADAPTED} adapted"
        self._judge(task, name, ADAPTED, adapted=True)
        if task.all_steps:
            gem = f"{LITE0},fit=stretch"
            self._judge(task, f"{gem} adapted", gem, adapted=True)
            self._judge(task, f"{name}, contrast", ADAPTED, adapted=True, contrast=True)
        self._judge(
            task, f"{name}, asked in other ways", ADAPTED, adapted=True, variants=task.variants
        )

    def _judge(
        self,
        task: Task,
        name: str,
        encoder: str,
        *,
        adapted: bool = False,
        contrast: bool = False,
        ways: str | None = None,
    ) -> None:
        key = f"{task.name}: {name}"
        if key in self.results:
            return
        start = time.perf_counter()
        folder = "".join(c if c.isalnum() else "-" for c in f"{task.gallery}-{encoder}")
        folder += f"-{task.query_domain}{'-contrast' if contrast else ''}" if adapted else ""
        path = self.work / f"{folder}.gallery"
        source = open_source(f"dataset:{task.gallery}")
        if not path.exists():
            if adapted:
                options = AdaptOptions(query_domain=task.query_domain, views_per_image=VIEWS_PER_IMAGE, contrast=contrast)
                out = self.work / f"{folder}.encoder"
                if not (out / "encoder.json").exists():
                    options = AdaptOptions(
                        **{**_fields(options), "resume": (out / "views").exists()}
                    )
                    adapt(source, encoder=encoder, out=out, options=options)
                made = load_encoder(out)
            else:
                made = fit_encoder(encoder, source)
            Gallery.create(path, encoder=made)
        gallery = Gallery.open(path)
        gallery.sync(source)
        found = evaluate(gallery, f"dataset:{task.queries}", match=task.match, variants=ways)
        averages = [_average(example.correct) for example in found.examples]
        self.results[key] = {**found.as_dict(), "averages": averages, "dim": gallery.encoder.dim}
        self.path.write_text(json.dumps(self.results))
        seconds = time.perf_counter() - start
        print(f"{key}: mAP@7 {found.scores.map.value:.4f} ({seconds:.0f} s)", file=sys.stderr)

    def table(self, task: Task) -> None:
        """Print a table in Markdown, with the difference to plain GeM and its interval."""
        plain = np.array(self.results[f"{task.name}: {LITE0},fit=stretch"]["averages"])
        print(f"\n{task.name}\n")
        print("| | dim | mAP@7 | R@1 | R@7 | to GeM | ms |\n|---|---|---|---|---|---|---|")
        for key, found in self.results.items():
            if not key.startswith(f"{task.name}: "):
                continue
            name = key.partition(": ")[2]
            gain = np.array(found["averages"]) - plain
            if not found["ways"]:
                _print_row(name, found, found["dim"], gain, found["latency_ms"]["p50"])
            for way, tried in found["ways"].items():
                low, high = tried["map_gain_interval"]
                said = f"{tried['map_gain']:+.3f} [{low:+.3f}, {high:+.3f}] to the row adapted"
                _print_row(f"+ {way}", tried, found["dim"], said, tried["ms"])


def _fields(options: AdaptOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in AdaptOptions.__dataclass_fields__}


def _average(right: Sequence[bool]) -> float:
    """Return the average precision of one query with one right answer."""
    return next((1 / rank for rank, mark in enumerate(right, 1) if mark), 0.0)


def _print_row(name: str, found: Any, dim: int, gain: Any, ms: float) -> None:
    if not isinstance(gain, str):
        interval = bootstrap_interval(gain)
        gain = f"{gain.mean():+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
    low, high = found["map_interval"]
    print(
        f"| {name} | {dim:,} | {found['map']:.3f} [{low:.3f}, {high:.3f}] | "
        f"{found['recall_at_1']:.3f} | {found['recall']:.3f} | {gain} | {ms:.1f} |"
    )


def draw(out: Path) -> None:
    """Draw some of noto's emoji, each beside street views and drawings made of it.

    They stand in for the stamps, whose license (GPL) would be the picture's.
    """
    shop = open_dataset("noto-emoji").load("shared").images
    grounds = background_photos()
    tile, across, down = 96, 3, 5
    sheet = Image.new("RGB", (tile * 6 * across, tile * down), "white")
    for place in range(across * down):
        image = shop[place * len(shop) // (across * down) + 40]
        rng = np.random.default_rng(place)
        views = [
            compose_photo(image, grounds[int(rng.integers(len(grounds)))], rng) for _ in range(3)
        ]
        row = [image, *(view.image for view in views), *(restyle(image, rng) for _ in range(2))]
        for number, view in enumerate(row):
            left = (place % across * 6 + number) * tile
            small = Image.fromarray(view).resize((tile - 4,) * 2)
            sheet.paste(small, (left, place // across * tile))
    sheet.quantize(128).save(out, optimize=True)


def main() -> None:
    """Run what is not there yet and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--only", choices=("stamps", "emoji"))
    given = parser.parse_args()
    if given.picture is not None:
        draw(given.picture)
        return
    if given.work is None:
        parser.error("a folder WORK is needed")
    given.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(given.work)
    chosen = {"stamps": STAMPS, "emoji": EMOJI}.get(given.only or "", (*STAMPS, *EMOJI))
    for task in chosen:
        bench.run(task)
    for task in chosen:
        bench.table(task)


if __name__ == "__main__":
    main()
