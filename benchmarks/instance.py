"""Instance retrieval: the gain of each encoder option and search variant on labeled stand-ins.

    python benchmarks/instance.py WORK [--only stamps|emoji]
    python benchmarks/instance.py --picture OUT.png

Options were chosen on the stamps (street photos and drawings of photographed items). Of the emoji
pairs, noto to twemoji and noto to fluent-emoji were used during development; noto to openmoji is
held out and printed last. Nothing is trained or tuned on the codepoints, which define relevance.

Results are saved in WORK; interrupted runs resume. Takes about an hour on two cores. Prints the
tables of docs/instance-retrieval.md.
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
from lookalike.encoders.persistence import load_encoder
from lookalike.encoders.registry import open_encoder
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
VARIANTS = "foreground,multi-crop,aqe,dba,k-reciprocal,diffusion,multi-crop+k-reciprocal"
FEW_VARIANTS = "aqe,k-reciprocal,diffusion"
VIEWS_PER_IMAGE = 4


@dataclass(frozen=True, slots=True)
class Task:
    """Queries, a gallery, the column that defines relevance, and the query domain to adapt to."""

    name: str
    queries: str
    gallery: str
    match: str
    query_domain: str
    variants: str
    steps: tuple[str, ...]
    all_steps: bool = False


STAMPS = (
    Task("street", "stamps/street", "stamps/shop", "item", "street", VARIANTS, STEPS, True),
    Task("drawn", "stamps/drawn", "stamps/shop", "item", "drawn", FEW_VARIANTS, FEW_STEPS, True),
)
EMOJI = tuple(
    Task(
        f"noto to {vendor}",
        "noto-emoji/shared",
        f"{vendor}/shared",
        "codepoint",
        "drawn",
        FEW_VARIANTS,
        FEW_STEPS,
    )
    for vendor in ("twemoji", "fluent-emoji", "openmoji")
)


class Benchmark:
    """Runs tasks and saves their results."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.path = work / "results.json"
        self.results: dict[str, Any] = (
            json.loads(self.path.read_text()) if self.path.exists() else {}
        )

    def run(self, task: Task) -> None:
        """Evaluate the steps of a task that have no result yet."""
        for step in task.steps:
            self._evaluate(task, step, step)
        name = f"{ADAPTED} adapted"
        self._evaluate(task, name, ADAPTED, adapted=True)
        if task.all_steps:
            gem = f"{LITE0},fit=stretch"
            self._evaluate(task, f"{gem} adapted", gem, adapted=True)
            self._evaluate(task, f"{name}, contrast", ADAPTED, adapted=True, contrast=True)
        self._evaluate(task, f"{name}, variants", ADAPTED, adapted=True, variants=task.variants)

    def _evaluate(
        self,
        task: Task,
        name: str,
        encoder: str,
        *,
        adapted: bool = False,
        contrast: bool = False,
        variants: str | None = None,
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
                options = AdaptOptions(
                    query_domain=task.query_domain,
                    views_per_image=VIEWS_PER_IMAGE,
                    contrast=contrast,
                )
                out = self.work / f"{folder}.encoder"
                if not (out / "encoder.json").exists():
                    options = AdaptOptions(
                        **{**_fields(options), "resume": (out / "views").exists()}
                    )
                    adapt(source, encoder=encoder, out=out, options=options)
                fitted = load_encoder(out)
            else:
                fitted = open_encoder(encoder, source)
            Gallery.create(path, encoder=fitted)
        gallery = Gallery.open(path)
        gallery.sync(source)
        evaluation = evaluate(
            gallery, f"dataset:{task.queries}", match=task.match, variants=variants
        )
        averages = [_average(example.correct) for example in evaluation.examples]
        self.results[key] = {
            **evaluation.as_dict(),
            "averages": averages,
            "dim": gallery.encoder.dim,
        }
        self.path.write_text(json.dumps(self.results))
        seconds = time.perf_counter() - start
        print(f"{key}: mAP@7 {evaluation.scores.map.value:.4f} ({seconds:.0f} s)", file=sys.stderr)

    def table(self, task: Task) -> None:
        """Print a Markdown table with the difference to plain GeM and its interval."""
        plain = np.array(self.results[f"{task.name}: {LITE0},fit=stretch"]["averages"])
        print(f"\n{task.name}\n")
        print("| | dim | mAP@7 | R@1 | R@7 | to GeM | ms |\n|---|---|---|---|---|---|---|")
        for key, result in self.results.items():
            if not key.startswith(f"{task.name}: "):
                continue
            name = key.partition(": ")[2]
            gain = np.array(result["averages"]) - plain
            if not result["variants"]:
                _print_row(name, result, result["dim"], gain, result["latency_ms"]["p50"])
            for variant, scores in result["variants"].items():
                low, high = scores["map_delta_interval"]
                delta = f"{scores['map_delta']:+.3f} [{low:+.3f}, {high:+.3f}] to plain search"
                _print_row(f"+ {variant}", scores, result["dim"], delta, scores["latency_ms"])


def _fields(options: AdaptOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in AdaptOptions.__dataclass_fields__}


def _average(correct: Sequence[bool]) -> float:
    """Return the average precision of one query with one relevant row."""
    return next((1 / rank for rank, mark in enumerate(correct, 1) if mark), 0.0)


def _print_row(name: str, scores: Any, dim: int, gain: Any, ms: float) -> None:
    if not isinstance(gain, str):
        interval = bootstrap_interval(gain)
        gain = f"{gain.mean():+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
    low, high = scores["map_interval"]
    print(
        f"| {name} | {dim:,} | {scores['map']:.3f} [{low:.3f}, {high:.3f}] | "
        f"{scores['recall_at_1']:.3f} | {scores['recall']:.3f} | {gain} | {ms:.1f} |"
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
    """Run the missing steps and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--only", choices=("stamps", "emoji"))
    arguments = parser.parse_args()
    if arguments.picture is not None:
        draw(arguments.picture)
        return
    if arguments.work is None:
        parser.error("a folder WORK is needed")
    arguments.work.mkdir(parents=True, exist_ok=True)
    bench = Benchmark(arguments.work)
    chosen = {"stamps": STAMPS, "emoji": EMOJI}.get(arguments.only or "", (*STAMPS, *EMOJI))
    for task in chosen:
        bench.run(task)
    for task in chosen:
        bench.table(task)


if __name__ == "__main__":
    main()
