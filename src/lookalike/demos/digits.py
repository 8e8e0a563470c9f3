"""The stories that ``lookalike demo`` tells: the whole system on real data, from get to report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lookalike.encoders.base import MANIFEST
from lookalike.encoders.onnx import NetworkEncoder
from lookalike.encoders.persistence import load_encoder
from lookalike.errors import ArtifactError, MissingDependencyError, UnknownNameError
from lookalike.evaluation.evaluate import evaluate
from lookalike.evaluation.relevance import mark_correct
from lookalike.evaluation.results import Evaluation
from lookalike.gallery.gallery import Gallery
from lookalike.report import figures
from lookalike.report.evaluation import write_report
from lookalike.sources import Source, open_source
from lookalike.training.recipes import RECIPES
from lookalike.types import Hits, ProgressCallback, ignore_progress


@dataclass(frozen=True, slots=True)
class Story:
    """A data set, the recipes trained on it (the last one is judged beside the baselines).

    ``augment`` and ``size`` are the last one's options; so are ``minutes``, the most its training
    may take.
    """

    dataset: str
    augment: str
    size: int | None = None
    minutes: float = 2.0
    recipes: tuple[str, ...] = ("report-linear", "report-conv", "report-conv-bn", "contrastive")
    query: int = 17


STORIES: Mapping[str, Story] = {
    story.dataset: story
    for story in (
        Story("mnist", "digits"),
        Story("fashion-mnist", "objects"),
        Story("digits", "digits", size=32, minutes=0.25),
    )
}


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What a story left behind, and commands to type ``then``."""

    evaluation: Evaluation
    hits: Hits
    gallery: Path
    report: Path
    picture: Path
    seconds: float
    then: tuple[str, ...]


def tell(
    name: str,
    out: Path,
    say: Callable[[str], None],
    on_progress: ProgressCallback = ignore_progress,
) -> DemoResult:
    """Get a data set, train, index, search, evaluate and report, below ``out/name``.

    What an earlier run finished is used again, and what it had begun is gone on with.

    Args:
        name: a key of :data:`STORIES`.
        out: the folder for everything.
        say: told of each step in a sentence.
        on_progress: told of progress within the steps.

    Raises:
        UnknownNameError: no such story.
        FetchError: the data set could not be had.
    """
    if name not in STORIES:
        raise UnknownNameError("story", name, [*STORIES, "photos", "products"])
    story = STORIES[name]
    start = time.perf_counter()
    folder = out / name
    say(f"1  get: dataset:{story.dataset}")
    train = open_source(f"dataset:{story.dataset}/train", on_progress)
    test = open_source(f"dataset:{story.dataset}/test", on_progress)
    say(f"   {len(train):,} images to learn from and search, {len(test):,} queries never seen")
    say(
        "2  train without labels: the report's, one epoch each, and ours: "
        + ", ".join(story.recipes)
    )
    encoders = {
        recipe: _encoder(story, recipe, train, folder / f"{recipe}.encoder", on_progress)
        for recipe in story.recipes
    }
    say("3  index: encode every image into a gallery")
    galleries = {
        recipe: _gallery(encoder, train, folder / f"{recipe}.gallery", on_progress)
        for recipe, encoder in encoders.items()
    }
    main = story.recipes[-1]
    say(f"4  search: what looks like {test[story.query].uri}?")
    found = galleries[main].search(test[story.query])
    picture = folder / "hits.png"
    label = str(test[story.query].metadata["label"])
    grid = figures.hits_grid([found], [mark_correct(found, label)], query_titles=[label])
    figures.save(grid, picture)
    say(f"5  evaluate: all {len(test):,} queries, beside what needs no learning")
    judged = evaluate(galleries[main], test, baselines=True, on_progress=on_progress)
    others = {
        recipe: evaluate(gallery, test, on_progress=on_progress).scores
        for recipe, gallery in galleries.items()
        if recipe != main
    }
    judged = replace(judged, others=others)
    say("6  report: every figure with its table, in one file")
    report = folder / "report.html"
    write_report(judged, galleries[main], report, encoders)
    seconds = time.perf_counter() - start
    path = galleries[main].path
    then = (
        f"lookalike search {path} dataset:{name}/test#3 --image hits.png",
        f"lookalike evaluate {path} dataset:{name}/test --baselines --json",
        "lookalike index mine.gallery FOLDER-OF-IMAGES",
        "lookalike search mine.gallery ONE-IMAGE.jpg",
    )
    return DemoResult(judged, found, path, report, picture, seconds, then)


def _encoder(
    story: Story, recipe: str, source: Source, path: Path, on_progress: ProgressCallback
) -> NetworkEncoder:
    if (path / MANIFEST).exists():
        encoder = load_encoder(path)
        if isinstance(encoder, NetworkEncoder) and encoder.name in RECIPES:
            return encoder
        raise ArtifactError(f"{path}: not what this demo leaves there; remove it and try again")
    try:
        from lookalike.training.loop import TrainingOptions
        from lookalike.training.train import train
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "torch", "training", "train") from error
    options = TrainingOptions(resume=path.exists())
    if recipe == story.recipes[-1]:
        options = replace(options, augment=story.augment, size=story.size, minutes=story.minutes)
    return train(source, recipe=recipe, out=path, options=options, on_progress=on_progress)


def _gallery(
    encoder: NetworkEncoder, source: Source, path: Path, on_progress: ProgressCallback
) -> Gallery:
    gallery = Gallery.open(path) if path.exists() else Gallery.create(path, encoder=encoder)
    gallery.check_fingerprint(encoder)
    gallery.sync(source, on_progress=on_progress)
    return gallery
