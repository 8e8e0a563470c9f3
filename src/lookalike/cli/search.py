"""lookalike search: similar images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.cli import console
from lookalike.cli.commands import message
from lookalike.cli.options import Force, Gallery, K, MetricName
from lookalike.cli.output_files import check_output
from lookalike.formatting import format_count, format_distance

if TYPE_CHECKING:
    from lookalike.errors import InputError
    from lookalike.gallery import gallery as galleries
    from lookalike.search.hits import Hits


def command(
    gallery: Gallery,
    query: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUERY", help="Image file, or dataset:NAME/SPLIT#INDEX."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORDS",
            help="Text query (needs an encoder such as CLIP or SigLIP).",
        ),
    ] = None,
    keywords: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS",
            help="Full-text metadata search, fused with the image ranking.",
        ),
    ] = None,
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="ID", help="Use an indexed image as the query, by ID."),
    ] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGE", help="Positive example, a file or ID (repeatable)."),
    ] = None,
    unlike: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGE", help="Negative example, a file or ID (repeatable)."),
    ] = None,
    k: K = 7,
    metric: MetricName = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="FILTER",
            help="Filter by metadata, e.g. \"year >= 2020 and tag = 'a'\".",
        ),
    ] = None,
    max_distance: Annotated[
        float | None, typer.Option(metavar="D", help="Maximum distance.")
    ] = None,
    min_similarity: Annotated[
        float | None,
        typer.Option(metavar="S", help="Minimum cosine similarity (1 = identical)."),
    ] = None,
    box: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="Crop the query, in pixels.")
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Crop the query to its main object.")
    ] = False,
    multi_crop: Annotated[
        bool,
        typer.Option("--multi-crop", help="Also search with 13 crops: small objects in clutter."),
    ] = False,
    rerank: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="aqe, dba, k-reciprocal, diffusion or geometric; or A+B.",
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Exact search; skip the approximate index.")
    ] = False,
    image: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save a contact sheet of the results (PNG)."),
    ] = None,
    matches: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save the matching points of the first result (PNG)."),
    ] = None,
    force: Force = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Output JSON Lines, one per query.")
    ] = False,
) -> None:
    """Find the images most similar to each query, nearest first.

      lookalike search photos.gallery query.jpg --image results.png
      lookalike search photos.gallery --text "a red bicycle" -k 20
      lookalike search photos.gallery query.jpg --where "year >= 2020"
      lookalike search photos.gallery --like a.jpg --like b.jpg --unlike c.jpg

    JSON line: "query" and "hits", each with rank, id, uri, distance and metadata.

    Exit code 1: some queries could not be read; each is listed.
    """
    from lookalike.errors import InputError
    from lookalike.gallery.gallery import Gallery
    from lookalike.images.foreground import Box

    if not any((query, ids, text, like, unlike, keywords is not None)):
        raise InputError("no query: pass an image, --text, --like, --keywords or --id")
    opened = Gallery.open(gallery).snapshot()
    for path in (image, matches):
        check_output(path, force=force, gallery=opened, inputs=query or ())
    options: dict[str, Any] = {
        "k": k,
        "metric": metric,
        "where": where,
        "max_distance": max_distance,
        "min_similarity": min_similarity,
        "exact": exact,
        "box": None if box is None else Box.parse(box),
        "foreground": foreground,
        "multi_crop": multi_crop,
        "rerank": rerank,
        "keywords": keywords,
    }
    failures: list[InputError] = []
    if like or unlike:
        results = [_search_combined(opened, query, ids, (like, unlike, text), options)]
    elif query or ids or text:
        results, failures = _search_images(opened, query or [], options)
        results += _search_others(opened, ids or [], text or [], options)
    else:
        results = [_Result(opened.search(**options))]
    if not results:
        raise failures[0]
    _print(results, as_json=as_json)
    if image is not None:
        _save_contact_sheet(results, image)
    if matches is not None:
        _save_matches(opened, results[0].hits, matches)
    if k > len(opened):
        console.note(f"-k {k}: the gallery has only {format_count(len(opened), 'row')}")
    _report(failures)


@dataclass(frozen=True, slots=True)
class _Result:
    """The hits of one query; ``label`` is the query's own, if it has one."""

    hits: Hits
    label: object = None


def _search_images(
    gallery: galleries.Gallery, queries: Sequence[str], options: Mapping[str, Any]
) -> tuple[list[_Result], list[InputError]]:
    """Search by image files, URLs and items of data sets; unreadable ones are failures."""
    from lookalike.errors import InputError

    images, failures = [], []
    for query in queries:
        try:
            images.append(_image(query))
        except InputError as error:
            failures.append(error)
    try:
        found = gallery.search([image for image, _ in images], **options) if images else []
        labels = [label for _, label in images]
        return [_Result(*pair) for pair in zip(found, labels, strict=True)], failures
    except InputError as error:
        if len(images) == 1:
            return [], [*failures, error]
    results = []
    for image, label in images:  # one by one, to know which
        try:
            results.append(_Result(gallery.search(image, **options), label))
        except InputError as error:
            failures.append(error)
    return results, failures


def _image(query: str) -> tuple[Any, object]:
    """Return an image to search with, and its label, if it has one."""
    from lookalike.files import is_url
    from lookalike.search.request import Example
    from lookalike.sources import DATASET_PREFIX, open_items

    if is_url(query):
        return Example(url=query), None
    if query.startswith(DATASET_PREFIX):
        item = open_items([query])[0]
        return item, item.metadata.get("label")
    return query, None


def _search_combined(
    gallery: galleries.Gallery,
    queries: Sequence[str] | None,
    ids: Sequence[str] | None,
    examples: tuple[Sequence[str] | None, ...],
    options: Mapping[str, Any],
) -> _Result:
    """Search with one query of several examples: files, or IDs of indexed images, and a text."""
    like, unlike = (
        None
        if not names
        else [gallery[each] if each in gallery else _image(each)[0] for each in names]
        for names in examples[:2]
    )
    text = examples[2]
    arguments: dict[str, Any] = {
        "query": queries or None,
        "id": ids or None,
        "like": like,
        "unlike": unlike,
        "text": text[0] if text and len(text) == 1 else text or None,
    }
    combined: Hits = gallery.search(**arguments, **options)
    return _Result(combined)


def _search_others(
    gallery: galleries.Gallery,
    ids: Sequence[str],
    texts: Sequence[str],
    options: Mapping[str, Any],
) -> list[_Result]:
    """Search by indexed images, then by texts."""
    results = []
    if ids:
        labels = [each.get("label") for each in gallery.store.get(ids).metadata]
        found = gallery.search(id=list(ids), **options)
        results += [_Result(hits, label) for hits, label in zip(found, labels, strict=True)]
    if texts:
        results += [_Result(hits) for hits in gallery.search(text=list(texts), **options)]
    return results


def _report(failures: Sequence[InputError]) -> None:
    """List the queries that could not be read; end with 1 if there are any."""
    for failure in failures:
        console.note(f"failed: {message(failure)}")
    if failures:
        raise typer.Exit(1)


def _print(results: Sequence[_Result], *, as_json: bool) -> None:
    for result in results:
        if as_json:
            console.print_json(result.hits.as_dict(), one_line=True)
        else:
            _print_table(result.hits)


def _print_table(hits: Hits) -> None:
    labeled = any("label" in hit.metadata for hit in hits)
    columns = ("rank", "distance", *(["label"] if labeled else []), "id")
    rows = [
        (
            str(hit.rank),
            format_distance(hit.distance),
            *([str(hit.metadata.get("label", ""))] if labeled else []),
            hit.id,
        )
        for hit in hits
    ]
    results = format_count(len(hits), "result")
    console.print_table(columns, rows, title=f"{hits.query}: {results}, {hits.metric.value}")


def _save_contact_sheet(results: Sequence[_Result], path: Path) -> None:
    """Draw queries beside their hits, marked as correct or not where both have a label."""
    from lookalike.evaluation.relevance import mark_correct
    from lookalike.report import figures

    grid = figures.hits_grid(
        [result.hits for result in results],
        [mark_correct(result.hits, result.label) for result in results],
        query_titles=[None if result.label is None else str(result.label) for result in results],
    )
    figures.save(grid, path)
    console.note(f"contact sheet: {path}")


def _save_matches(gallery: galleries.Gallery, hits: Hits, path: Path) -> None:
    """Draw the local features that match between a query and its first hit."""
    from lookalike.errors import InputError
    from lookalike.images import local_features
    from lookalike.report import figures
    from lookalike.sources import open_items

    if hits.uri is None or not len(hits):
        raise InputError("{matches} needs a query image with a result", matches=None)
    query, row = (each[0].image() for each in (open_items([hits.uri]), gallery.open_rows(hits[:1])))
    match = local_features.match_features(
        local_features.extract_features(query, max_features=local_features.MAX_QUERY_FEATURES),
        local_features.extract_features(row),
    )
    figures.save(figures.matches(query, row, match, title=hits[0].id), path)
    console.note(f"matches: {path}, {format_count(match.inlier_count, 'matching point')}")
