"""lookalike search: what looks like this."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.cli import console

if TYPE_CHECKING:
    from lookalike.types import Hits


def command(
    gallery: Annotated[str, typer.Argument(help="The gallery: its folder, or milvus://...")],
    queries: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUERY]...", help="Image files, or dataset:NAME/SPLIT#INDEX."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many hits for each query.")] = 7,
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="Ask with a row of the gallery, by its id.")
    ] = None,
    texts: Annotated[
        list[str] | None,
        typer.Option("--text", help="Ask with words, if the gallery's encoder takes them."),
    ] = None,
    keywords: Annotated[
        str | None,
        typer.Option(
            help="Words of the metadata, put first together with what looks alike; or alone."
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="cosine or l2; the gallery's own unless given.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="Only rows like these: \"year >= 2020 and tag in ('a', 'b')\"."),
    ] = None,
    max_distance: Annotated[
        float | None, typer.Option(help="Only hits as near as this, in the metric's units.")
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(help="Only hits as similar as this by cosine: 1 is the same, 0 unrelated."),
    ] = None,
    box: Annotated[
        str | None, typer.Option(help="Only this part of each query image: x,y,w,h in pixels.")
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Only the part that holds the query's item.")
    ] = False,
    multi_crop: Annotated[
        bool,
        typer.Option(
            "--multi-crop",
            help="Also look at 13 parts of the query: finds a small item in clutter.",
        ),
    ] = False,
    rerank: Annotated[
        str | None,
        typer.Option(
            help="aqe, dba, k-reciprocal, diffusion or geometric; several joined by +, in turn."
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Look at every row, also of a very large gallery.")
    ] = False,
    image: Annotated[
        Path | None, typer.Option(help="Also draw the queries and their hits, as a PNG.")
    ] = None,
    matches: Annotated[
        Path | None,
        typer.Option(
            help="Also draw which places of the first query and its first hit match, as a PNG."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line a query.")] = False,
) -> None:
    """Find the images that look most like each query, nearest first."""
    from lookalike.errors import InputError, LookalikeError
    from lookalike.filters import parse
    from lookalike.gallery.gallery import Gallery
    from lookalike.images.foreground import Box
    from lookalike.search.search import distance_threshold, parse_rerankings
    from lookalike.sources import DATASET_PREFIX, open_items
    from lookalike.types import Metric, format_distance

    if not queries and not ids and not texts and keywords is None:
        raise InputError(
            "nothing to search for: give image files, --id with a row's id, --text with words, or "
            "--keywords of the metadata"
        )
    opened = Gallery.open(gallery)
    found: list[Hits] = []
    labels: list[object] = []
    failed: list[LookalikeError] = []
    chosen = opened.metric if metric is None else Metric(metric)
    options: dict[str, Any] = {
        "k": k,
        "metric": chosen,
        "where": None if where is None else parse(where),
        "max_distance": distance_threshold(chosen, max_distance, min_score),
        "exact": exact,
        "box": None if box is None else Box.parse(box),
        "foreground": foreground,
        "multi_crop": multi_crop,
        "rerank": parse_rerankings(rerank),
        "keywords": keywords,
    }
    for query in queries or []:
        try:
            item = open_items([query])[0] if query.startswith(DATASET_PREFIX) else None
            found.append(opened.search(item or query, **options))
            labels.append(item.metadata.get("label") if item else None)
        except InputError as error:
            failed.append(error)
    for row_id in ids or []:
        found.append(opened.search(id=row_id, **options))
        labels.append(opened.store.get([row_id]).metadata[0].get("label"))
    for text in texts or []:
        found.append(opened.search(text=text, **options))
        labels.append(None)
    if keywords is not None and not (queries or ids or texts):
        found.append(opened.search(**options))
        labels.append(None)
    if failed and not found:
        raise failed[0]
    for hits in found:
        if as_json:
            console.print_json(hits.as_dict(), one_line=True)
            continue
        rows = [
            (
                str(hit.rank),
                format_distance(hit.distance),
                str(hit.metadata.get("label", "")),
                hit.id,
            )
            for hit in hits
        ]
        console.print_table(
            ("rank", hits.metric.value, "label", "id"),
            rows,
            title=f"{hits.query}: {len(hits)} hits",
        )
    if image is not None:
        _draw_hits(found, labels, image)
    if matches is not None:
        _draw_matches(found[0], matches)
    for failure in failed:
        console.note(f"failed: {failure}")
    if k > len(opened):
        console.note(f"-n {k}: the gallery has only {len(opened):,} rows")
    if failed:
        raise typer.Exit(1)


def _draw_hits(results: Sequence[Hits], labels: Sequence[object], out: Path) -> None:
    """Draw queries beside their hits, marked as correct or not where both have a label."""
    from lookalike.evaluation.relevance import hits_with_value
    from lookalike.report import figures

    grid = figures.hits_grid(
        results,
        [hits_with_value(hits, label) for hits, label in zip(results, labels, strict=True)],
        query_titles=[None if label is None else str(label) for label in labels],
    )
    figures.save(grid, out)
    console.note(f"drawn: {out}")


def _draw_matches(hits: Hits, out: Path) -> None:
    """Draw the local features that match between a query and its first hit."""
    from lookalike.errors import InputError
    from lookalike.images import local_features
    from lookalike.report import figures
    from lookalike.sources import open_items

    if hits.uri is None or not len(hits):
        raise InputError("--matches compares two images: ask with an image that has a hit")
    query, row = (item.image() for item in open_items([hits.uri, hits[0].uri]))
    match = local_features.verify(
        local_features.features(query, most=local_features.QUERY_POINTS),
        local_features.features(row),
    )
    figures.save(figures.matches(query, row, match, title=hits[0].id), out)
    console.note(f"drawn: {out}, {match.inliers} places match")
