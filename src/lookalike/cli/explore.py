"""lookalike explore: map, clusters, outliers and duplicates of a gallery."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli import console
from lookalike.cli.commands import Command, new_group
from lookalike.cli.options import AsJson, Force, Gallery
from lookalike.cli.output_files import OutputFolder, check_free, check_output, write_folder
from lookalike.formatting import format_count

if TYPE_CHECKING:
    from lookalike.explore import CollectionMap, Duplicates, MapQuality
    from lookalike.gallery import gallery as galleries

app = new_group("Explore a gallery: map, clusters, outliers, duplicates.")

_Column = Annotated[
    str, typer.Option(metavar="NAME", help="Metadata column that names the clusters.")
]
_Fresh = Annotated[bool, typer.Option("--fresh", help="Recompute the map.")]
_LISTED = 20
"""Rows that are printed, at most."""


@app.command("map", cls=Command)
def map_command(
    gallery: Gallery,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Save the map as one HTML file."),
    ] = None,
    column: _Column = "label",
    thumbnails: Annotated[
        int, typer.Option(metavar="N", help="Thumbnail side in pixels; 0 for none.")
    ] = 32,
    fresh: _Fresh = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Map a gallery in two dimensions, and report its quality.

    The map is saved in the gallery; lookalike serve shows it.

      lookalike explore map photos.gallery -o map.html
    """
    from lookalike.artifacts import write_atomically
    from lookalike.explore import build_map
    from lookalike.explore.page import html
    from lookalike.gallery.on_demand import open_or_index

    opened = open_or_index(gallery).snapshot()
    check_output(out, force=force, gallery=opened)
    with console.progress() as on_progress:
        result = build_map(opened, column=column, fresh=fresh, progress=on_progress)
        if out is not None:
            page = html(result, opened, thumbnails=thumbnails, on_progress=on_progress).encode()
            write_atomically(out, page)
    quality = result.quality
    if as_json:
        console.print_json(
            {
                "images": len(result.ids),
                "clusters": len(result.clusters),
                "unclustered": result.unclustered,
                "zero_embeddings": list(result.zero_embeddings),
                "trustworthiness": quality.trustworthiness,
                "neighborhood_preservation": quality.neighborhood_preservation,
                "sampled": quality.sampled,
                "created_at": result.origin.created_at,
                "saved": not result.unsaved,
            }
        )
    else:
        console.print_lines(
            f"{format_count(len(result.ids), 'image')}, "
            f"{format_count(len(result.clusters), 'cluster')}, "
            f"{result.unclustered:,} unclustered"
        )
        console.print_lines(_quality(quality))
        _print_left_out(result)
        console.print_lines(f"created {result.origin.created_at}")
    if out is not None:
        console.note(f"{out}: {console.size(len(page))}; open it in a browser")
    if result.unsaved:
        _note_unsaved(result)
    else:
        console.note(f"map saved in {gallery}; to see it: lookalike serve {gallery}")


@app.command("clusters", cls=Command)
def clusters_command(
    gallery: Gallery,
    out: OutputFolder = None,
    column: _Column = "label",
    fresh: _Fresh = False,
    as_json: AsJson = False,
) -> None:
    """List the clusters of the map, by label or medoid.

    With --out: clusters.csv with each image's cluster, sheet.png with the medoids.

      lookalike explore clusters photos.gallery -o clusters
    """
    opened, result = _map(gallery, column, out, fresh=fresh)
    if as_json:
        console.print_json(_clusters(result))
    else:
        rows = [
            (
                each.name,
                f"{each.size:,}",
                "-" if each.share is None else f"{each.share:.1%}",
                result.ids[each.medoid],
            )
            for each in result.clusters
        ]
        console.print_table(("cluster", "images", "share of label", "medoid"), rows)
        images = format_count(len(result.ids), "image")
        console.print_lines(f"{result.unclustered:,} of {images} unclustered")
        _print_left_out(result)
    if out is None:
        return
    names = {each.number: each.name for each in result.clusters} | {-1: ""}
    lines = (
        {"id": row_id, "cluster": str(number + 1) if number >= 0 else "", "name": names[number]}
        for row_id, number in zip(result.ids, result.membership.tolist(), strict=True)
    )
    sheet = [(result.ids[each.medoid], f"{each.name}\n{each.size:,}") for each in result.clusters]
    write_folder(opened, out / "clusters.csv", ("id", "cluster", "name"), lines, sheet)


@app.command("outliers", cls=Command)
def outliers_command(
    gallery: Gallery,
    k: Annotated[int, typer.Option("-k", metavar="K", help="Images to list.")] = _LISTED,
    out: OutputFolder = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Recompute the scores; don't use those of the map.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List outliers by local outlier factor (about 1: fits in).

    lookalike explore outliers photos.gallery -k 50 -o outliers
    """
    from lookalike.explore.outliers import outliers
    from lookalike.gallery.on_demand import open_or_index

    check_free(out)
    opened = open_or_index(gallery).snapshot()
    with console.progress() as on_progress:
        result = outliers(opened, k, fresh=fresh, progress=on_progress)
    scores = list(zip(result.ids, result.scores.tolist(), strict=True))
    if as_json:
        console.print_json([{"id": row_id, "lof_score": score} for row_id, score in scores])
    else:
        rows = [(f"{score:.2f}", row_id) for row_id, score in scores]
        console.print_table(("outlier factor", "id"), rows)
        if result.zero_embeddings:
            images = format_count(len(result.zero_embeddings), "image")
            console.print_lines(f"{images} with an embedding of zeros: without a score")
    if out is not None:
        lines = [{"id": row_id, "lof_score": f"{score:.4f}"} for row_id, score in scores]
        sheet = [(row_id, f"{score:.2f}") for row_id, score in scores]
        write_folder(opened, out / "outliers.csv", ("id", "lof_score"), lines, sheet)


@app.command("duplicates", cls=Command)
def duplicates_command(
    gallery: Gallery,
    keep: Annotated[
        str,
        typer.Option(metavar="RULE", help="Image to keep: largest (the original), first or last."),
    ] = "largest",
    prefer: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Paths to keep among equal files, or !GLOB; repeatable."),
    ] = None,
    max_distance: Annotated[
        float | None,
        typer.Option(metavar="D", help="Maximum distance.", show_default="calibrated on copies"),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Identical files only; skip near-duplicates.")
    ] = False,
    out: OutputFolder = None,
    as_json: AsJson = False,
) -> None:
    """Find duplicates and near-duplicates; nothing is deleted.

    The threshold is calibrated on altered copies of 200 of the images. Kept is
    the image with more pixels; of equals the lossless one, then by JPEG quality,
    file size, EXIF, capture time, --prefer and ID. The table says what decided.
    With --out: duplicates.csv and a contact sheet.

      lookalike explore duplicates photos.gallery -o duplicates
      lookalike explore duplicates photos.gallery --prefer originals
    """
    from lookalike.explore import find_duplicates
    from lookalike.gallery.on_demand import open_or_index

    check_free(out)
    opened = open_or_index(gallery).snapshot()
    with console.progress() as on_progress:
        result = find_duplicates(
            opened,
            keep=keep,
            prefer=prefer or (),
            max_distance=max_distance,
            exact=exact,
            progress=on_progress,
        )
    if as_json:
        console.print_json(result.as_dict())
    else:
        _print_duplicates(result)
    for text in result.notes():
        (console.note if as_json else print)(text)
    if out is None:
        return
    rows = list(result.rows())
    uris = opened.store.get([row["id"] for row in rows]).uris
    lines = [{**row, "uri": uri} for row, uri in zip(rows, uris, strict=True)]
    sheet = [
        (row["id"], f"{row['group']} {'keep' if row['keep'] == 'yes' else row['kind']}")
        for row in rows
    ]
    columns = ("group", "kind", "keep", "id", "decided_by", "distance", "correlation", "uri")
    write_folder(opened, out / "duplicates.csv", columns, lines, sheet)


def _print_duplicates(result: Duplicates) -> None:
    from lookalike.explore.keep_rules import ID

    rows = [
        (
            group.kind,
            str(1 + len(group.duplicates)),
            group.keep,
            ", ".join(group.decided_by),
            group.duplicates[0].id,
        )
        for group in result.groups[:_LISTED]
    ]
    if rows:
        columns = ("kind", "images", "kept", "decided by", "duplicate (first of N)")
        console.print_table(columns, rows)
    if len(result.groups) > _LISTED:
        more = format_count(len(result.groups) - _LISTED, "more group")
        console.print_lines(f"and {more}; list them with --json or --out")
    console.print_lines(f"{result.summary()}; nothing was deleted")
    by_id = sum(ID in group.decided_by for group in result.groups)
    if by_id and result.keep == "largest":
        groups = format_count(by_id, "group")
        console.print_lines(
            f"{groups} decided by the id: to choose by folder, --prefer FOLDER or '!FOLDER'"
        )
    if result.threshold is not None:
        console.print_lines(f"near-duplicates: {result.threshold.describe()}")
    elif result.no_content:
        console.print_lines("near-duplicates: not searched, no image has content to compare")


def _map(
    gallery: str, column: str, out: Path | None, *, fresh: bool
) -> tuple[galleries.Gallery, CollectionMap]:
    from lookalike.explore import build_map
    from lookalike.gallery.on_demand import open_or_index

    check_free(out)
    opened = open_or_index(gallery).snapshot()
    with console.progress() as on_progress:
        result = build_map(opened, column=column, fresh=fresh, progress=on_progress)
    if result.unsaved:
        _note_unsaved(result)
    return opened, result


def _quality(quality: MapQuality) -> str:
    if quality.trustworthiness is None or quality.neighborhood_preservation is None:
        return "all embeddings are the same: no image is nearer than another"
    return (
        f"trustworthiness {quality.trustworthiness:.4f}, neighborhood preservation "
        f"{quality.neighborhood_preservation:.1%} "
        f"({format_count(quality.sampled, 'image')} sampled)"
    )


def _print_left_out(result: CollectionMap) -> None:
    if result.zero_embeddings:
        images = format_count(len(result.zero_embeddings), "image")
        console.print_lines(
            f"{images} with an embedding of zeros: not on the map, in no cluster, without a score"
        )


def _note_unsaved(result: CollectionMap) -> None:
    console.note(
        f"map not saved in the gallery, the next command computes it again: {result.unsaved}"
    )


def _clusters(result: CollectionMap) -> list[dict[str, object]]:
    return [
        {
            "name": each.name,
            "images": each.size,
            "label": each.label,
            "share": each.share,
            "medoid": result.ids[each.medoid],
        }
        for each in result.clusters
    ]
