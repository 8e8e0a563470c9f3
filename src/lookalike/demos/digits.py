"""The demos ``mnist``, ``fashion-mnist`` and ``digits``: encoders trained on a data set.

Get the data, train without labels, index, search, evaluate with baselines, and write a report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lookalike.demos.result import DemoResult, shell_command, shell_line
from lookalike.encoders.base import MANIFEST
from lookalike.encoders.onnx import NetworkEncoder
from lookalike.encoders.persistence import load_encoder
from lookalike.errors import ArtifactError
from lookalike.evaluation.evaluate import evaluate
from lookalike.evaluation.relevance import mark_correct
from lookalike.gallery.gallery import Gallery
from lookalike.report.evaluation import write_report
from lookalike.search.contact_sheet import contact_sheet
from lookalike.sources import Source, open_source
from lookalike.training.options import TrainingOptions
from lookalike.training.recipes import RECIPES
from lookalike.training.train import train
from lookalike.types import ProgressCallback, ignore_progress

_QUERY = 17
"""Number of the test image that is the example query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetDemo:
    """A data set and the recipes that are trained on it.

    The last recipe is the main one, evaluated with the baselines; ``augment``, ``size`` (pixels
    per side) and ``minutes`` (the limit of its training time) are its options.
    """

    augment: str
    size: int | None = None
    minutes: float = 1.5
    recipes: tuple[str, ...] = ("report-conv", "contrastive")


DATASETS: Mapping[str, DatasetDemo] = {
    "mnist": DatasetDemo(augment="digits"),
    "fashion-mnist": DatasetDemo(augment="objects"),
    "digits": DatasetDemo(
        augment="digits",
        size=32,
        minutes=0.25,
        recipes=("report-linear", "report-conv", "report-conv-bn", "contrastive"),
    ),
}
"""The demos of this module by the name of their data set."""


def run_demo(
    name: str,
    out: Path,
    log: Callable[[str], None],
    on_progress: ProgressCallback = ignore_progress,
) -> DemoResult:
    """Run one of the :data:`DATASETS` in ``out/name``; see :func:`lookalike.demos.run_demo`.

    Raises:
        FetchError: the data set could not be downloaded.
        MissingDependencyError: torch is not installed.
        ArtifactError: the folder holds an encoder that is not of this demo.
    """
    demo = DATASETS[name]
    start = time.perf_counter()
    folder = out / name
    train_spec, test_spec = f"dataset:{name}/train", f"dataset:{name}/test"
    train = open_source(train_spec, on_progress)
    test = open_source(test_spec, on_progress)
    log(f"1. Data: {train_spec} ({len(train):,} images), {test_spec} ({len(test):,} queries)")

    log(f"2. Train {len(demo.recipes)} encoders without labels")
    encoders = {}
    for recipe in demo.recipes:
        path = folder / f"{recipe}.encoder"
        log(shell_line("train", train_spec, *_training_flags(demo, recipe), "-o", path))
        if (path / MANIFEST).exists():
            log("   already trained")
        encoders[recipe] = _encoder(demo, recipe, train, path, on_progress)

    log(f"3. Index the {len(train):,} images with each encoder")
    galleries = {}
    for recipe, encoder in encoders.items():
        path = folder / f"{recipe}.gallery"
        log(shell_line("index", path, train_spec, "--encoder", folder / f"{recipe}.encoder"))
        galleries[recipe] = _gallery(encoder, train, path, on_progress)

    main = demo.recipes[-1]
    gallery = galleries[main]
    query = test[_QUERY]
    log("4. Search for images that look like one of the queries")
    log(shell_line("search", gallery.path, f"{test_spec}#{_QUERY}"))
    hits = gallery.search(query)
    figure = folder / "hits.png"
    label = str(query.metadata["label"])
    contact_sheet([hits], [mark_correct(hits, label)], query_titles=[label]).save(figure)

    log(f"5. Evaluate with all {len(test):,} queries, and with baselines")
    log(shell_line("evaluate", gallery.path, test_spec, "--baselines"))
    evaluation = evaluate(gallery, test, baselines=True, progress=on_progress)
    others = {
        recipe: evaluate(other, test, progress=on_progress).scores
        for recipe, other in galleries.items()
        if recipe != main
    }
    evaluation = replace(evaluation, others=others)

    report = folder / "report.html"
    log(f"6. Write the report: {report}")
    write_report(evaluation, gallery, report, encoders)
    return DemoResult(
        evaluation=evaluation,
        hits=hits,
        gallery=gallery.path,
        report=report,
        figure=figure,
        seconds=time.perf_counter() - start,
        next_commands=(
            shell_command("search", gallery.path, f"{test_spec}#3", "--image", "hits.png"),
            shell_command("evaluate", gallery.path, test_spec, "--baselines", "--json"),
            shell_command("FOLDER", "IMAGE.jpg"),
        ),
    )


def _training_flags(demo: DatasetDemo, recipe: str) -> list[str | int | float]:
    """Return the options of ``lookalike train`` for a recipe."""
    flags: list[str | int | float] = ["--recipe", recipe]
    if recipe == demo.recipes[-1]:
        flags += ["--augment", demo.augment, "--minutes", f"{demo.minutes:g}"]
        if demo.size is not None:
            flags += ["--size", demo.size]
    return flags


def _encoder(
    demo: DatasetDemo, recipe: str, source: Source, path: Path, on_progress: ProgressCallback
) -> NetworkEncoder:
    """Load the encoder of an earlier run, or train it."""
    if (path / MANIFEST).exists():
        encoder = load_encoder(path)
        if isinstance(encoder, NetworkEncoder) and encoder.name in RECIPES:
            return encoder
        raise ArtifactError(f"{path}: not an encoder of this demo; remove it and run again")
    options = TrainingOptions(resume=path.exists())
    if recipe == demo.recipes[-1]:
        options = replace(options, augment=demo.augment, size=demo.size, minutes=demo.minutes)
    return train(source, recipe=recipe, out=path, options=options, progress=on_progress)


def _gallery(
    encoder: NetworkEncoder, source: Source, path: Path, on_progress: ProgressCallback
) -> Gallery:
    """Open the gallery of an earlier run or create it, and sync it."""
    gallery = Gallery.open(path) if path.exists() else Gallery.create(path, encoder=encoder)
    gallery.check_fingerprint(encoder)
    gallery.sync(source, progress=on_progress)
    return gallery
