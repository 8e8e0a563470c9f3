"""lookalike explore: a collection seen whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli import console
from lookalike.cli.commands import Command, new_group
from lookalike.cli.output_files import check_free, csv_bytes, write_sheet

if TYPE_CHECKING:
    from lookalike.explore import CollectionMap, Duplicates
    from lookalike.gallery.gallery import Gallery

app = new_group("See a collection whole: a map, clusters, outliers and duplicates.")

_GALLERY = typer.Argument(help="The gallery folder.")
_COLUMN = typer.Option(help="The column of labels that clusters are named by.")
_FRESH = typer.Option("--fresh", help="Make the map anew, even if the gallery keeps one.")
_JSON = typer.Option("--json", help="Print JSON.")
_FOLDER = typer.Option("--out", "-o", help="The folder for a CSV and a contact sheet.")
_PRINTED = 20


@app.command("map", cls=Command)
def map_command(
    gallery: Annotated[str, _GALLERY],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The HTML file to write.")] = None,
    column: Annotated[str, _COLUMN] = "label",
    thumbnails: Annotated[
        int, typer.Option(help="Pixels a side of the thumbnails in the file; 0 for none.")
    ] = 32,
    fresh: Annotated[bool, _FRESH] = False,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Draw a map on which images that look alike lie together, and say how far it is true.

    The gallery keeps the map, and its page under lookalike serve shows it. With -o FILE.html it is
    written as one file with small images in it, which needs nothing else.
    """
    from lookalike.artifacts import write_atomically
    from lookalike.explore import build_map
    from lookalike.explore.page import html
    from lookalike.gallery.gallery import Gallery

    opened = Gallery.open(gallery)
    with console.progress() as on_progress:
        found = build_map(opened, column=column, fresh=fresh, on_progress=on_progress)
        if out is not None:
            page = html(found, opened, thumbnails=thumbnails, on_progress=on_progress).encode()
            write_atomically(out, page)
    facts = {
        "images": len(found.ids),
        "clusters": len(found.clusters),
        "unclustered": found.unclustered,
        "trustworthiness": found.quality.trustworthiness,
        "neighborhood_preservation": found.quality.neighborhood_preservation,
        "sampled": found.quality.sampled,
        "created_at": found.created_at,
    }
    if as_json:
        console.print_json(facts)
    else:
        quality = found.quality
        clusters = "1 cluster" if len(found.clusters) == 1 else f"{len(found.clusters)} clusters"
        print(f"{len(found.ids):,} images, {clusters}, {found.unclustered:,} unclustered")
        print(
            f"trustworthiness {quality.trustworthiness:.4f}, neighborhood preservation "
            f"{quality.neighborhood_preservation:.1%} ({quality.sampled:,} images sampled)"
        )
        print(f"created {found.created_at}")
    if out is not None:
        console.note(f"{out}: {len(page) / 1e6:.1f} MB; open it in a browser")
    console.note(f"{gallery} keeps the map: lookalike serve {gallery} shows it")


@app.command("clusters", cls=Command)
def clusters_command(
    gallery: Annotated[str, _GALLERY],
    out: Annotated[Path | None, _FOLDER] = None,
    column: Annotated[str, _COLUMN] = "label",
    fresh: Annotated[bool, _FRESH] = False,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """List the clusters of the map, named by labels or shown by their medoids.

    With -o FOLDER clusters.csv says which cluster each image is in, and sheet.png shows medoids.
    """
    opened, found = _atlas(gallery, column, out, fresh)
    if as_json:
        console.print_json([_cluster(found, place) for place in range(len(found.clusters))])
    else:
        console.print_table(
            ("cluster", "images", "share of the label", "medoid"),
            [
                (
                    each.name,
                    f"{each.size:,}",
                    "-" if each.share is None else f"{each.share:.1%}",
                    found.ids[each.medoid],
                )
                for each in found.clusters
            ],
        )
        print(f"{found.unclustered:,} of {len(found.ids):,} images are unclustered")
    if out is None:
        return
    names = {each.number: each.name for each in found.clusters} | {-1: ""}
    rows = (
        {"id": row_id, "cluster": str(number + 1) if number >= 0 else "", "name": names[number]}
        for row_id, number in zip(found.ids, found.membership.tolist(), strict=True)
    )
    titles = [f"{each.name}\n{each.size:,}" for each in found.clusters]
    medoids = [found.ids[each.medoid] for each in found.clusters]
    _write(opened, out, "clusters.csv", ("id", "cluster", "name"), rows, medoids, titles)


@app.command("outliers", cls=Command)
def outliers_command(
    gallery: Annotated[str, _GALLERY],
    show: Annotated[int, typer.Option("-k", help="How many.")] = _PRINTED,
    out: Annotated[Path | None, _FOLDER] = None,
    fresh: Annotated[bool, _FRESH] = False,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """List the images that fit least: local outlier factors, about 1 for those that fit."""
    from lookalike.errors import SettingError

    if show < 1:
        raise SettingError(f"-n {show}: must be at least 1")
    opened, found = _atlas(gallery, "label", out, fresh)
    first = (-found.lof_scores).argsort(kind="stable")[:show].tolist()
    if as_json:
        console.print_json(
            [{"id": found.ids[row], "factor": float(found.lof_scores[row])} for row in first]
        )
    else:
        console.print_table(
            ("factor", "id"), [(f"{found.lof_scores[row]:.2f}", found.ids[row]) for row in first]
        )
    if out is not None:
        rows = [{"id": found.ids[row], "factor": f"{found.lof_scores[row]:.4f}"} for row in first]
        titles = [f"{found.lof_scores[row]:.2f}" for row in first]
        ids = [found.ids[row] for row in first]
        _write(opened, out, "outliers.csv", ("id", "factor"), rows, ids, titles)


@app.command("duplicates", cls=Command)
def duplicates_command(
    gallery: Annotated[str, _GALLERY],
    keep: Annotated[
        str, typer.Option(help="Which of a group to keep: largest (most pixels), first or last.")
    ] = "largest",
    max_distance: Annotated[
        float | None,
        typer.Option(help="How far apart embeddings of copies are; else learned from copies."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Only files that are the same; no image is read.")
    ] = False,
    out: Annotated[Path | None, _FOLDER] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Find groups of duplicates: the same files, and images that look like copies.

    What a copy looks like is learned from copies made of 200 of the images. Nothing is deleted: the
    list says which of each group the rule keeps. With -o FOLDER duplicates.csv and a contact sheet
    are written.
    """
    from lookalike.explore import find_duplicates
    from lookalike.gallery.gallery import Gallery

    check_free(out)
    opened = Gallery.open(gallery)
    with console.progress() as on_progress:
        found = find_duplicates(
            opened, keep=keep, max_distance=max_distance, exact=exact, on_progress=on_progress
        )
    if as_json:
        console.print_json(found.as_dict())
    else:
        _print_duplicates(found)
    for row_id in found.unreadable[:_PRINTED]:
        console.note(f"unreadable, not compared: {row_id}")
    if out is None:
        return
    rows = list(found.rows())
    places = opened.store.get([row["id"] for row in rows]).uris
    rows = [{**row, "uri": uri} for row, uri in zip(rows, places, strict=True)]
    titles = [f"{row['group']} {'keep' if row['keep'] == 'yes' else row['kind']}" for row in rows]
    columns = ("group", "kind", "keep", "id", "distance", "correlation", "uri")
    ids = [row["id"] for row in rows]
    _write(opened, out, "duplicates.csv", columns, rows, ids, titles)


def _print_duplicates(found: Duplicates) -> None:
    rows = [
        (group.kind, str(1 + len(group.duplicates)), group.keep, group.duplicates[0].id)
        for group in found.groups[:_PRINTED]
    ]
    if rows:
        console.print_table(("kind", "images", "kept", "duplicate of it (first)"), rows)
    if len(found.groups) > _PRINTED:
        print(f"and {len(found.groups) - _PRINTED:,} more groups; list them with --json or -o")
    print(f"{found.summary()}; nothing was deleted")
    if found.threshold is not None:
        print(f"near-duplicates: {found.threshold.describe()}")


def _atlas(
    gallery: str, column: str, out: Path | None, fresh: bool
) -> tuple[Gallery, CollectionMap]:
    from lookalike.explore import build_map
    from lookalike.gallery.gallery import Gallery

    check_free(out)
    opened = Gallery.open(gallery)
    with console.progress() as on_progress:
        return opened, build_map(opened, column=column, fresh=fresh, on_progress=on_progress)


def _cluster(found: CollectionMap, place: int) -> dict[str, object]:
    each = found.clusters[place]
    return {
        "name": each.name,
        "images": each.size,
        "label": each.label,
        "share": each.share,
        "medoid": found.ids[each.medoid],
    }


def _write(
    gallery: Gallery,
    out: Path,
    name: str,
    columns: tuple[str, ...],
    rows: Iterable[Mapping[str, str]],
    ids: Sequence[str],
    titles: Sequence[str],
) -> None:
    from lookalike.artifacts import write_atomically

    out.mkdir(parents=True, exist_ok=True)
    write_sheet(gallery, ids, titles, out / "sheet.png")
    write_atomically(out / name, csv_bytes(columns, rows))
    console.note(f"{out / name}, and a contact sheet beside it")
