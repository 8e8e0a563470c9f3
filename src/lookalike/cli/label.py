"""lookalike label: from a few labels to all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli import console
from lookalike.cli.commands import Command, new_group
from lookalike.cli.output_files import check_free, csv_bytes, write_sheet

if TYPE_CHECKING:
    from lookalike.gallery.gallery import Gallery
    from lookalike.labels import LabelSet, Propagation

app = new_group("Name a few images, get the rest labeled, and find labels that are wrong.")

_GALLERY = typer.Argument(help="The gallery folder.")


@app.command("suggest", cls=Command)
def suggest_command(
    gallery: Annotated[str, _GALLERY],
    count: Annotated[int, typer.Option("-k", help="How many images.")] = 100,
    given: Annotated[
        Path | None,
        typer.Option(help="A CSV of id, label: labels so far. Then the doubtful are suggested."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The folder for labels.csv and sheet.png."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--save", help="Keep them in the gallery, for its page to ask for.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the clusters' starts.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the images as JSON.")] = False,
) -> None:
    """Say which images to name first; no labels and no number of classes are needed.

    With -o FOLDER a CSV to fill in and a contact sheet with the same numbers are written. Labels
    given so far are in the CSV too, so that it is the whole of what is given in the next round.
    Several labels of one image are joined by semicolons.
    """
    from lookalike.gallery.gallery import Gallery
    from lookalike.labels import neighbor_graph, read_labels, save_session, suggest

    check_free(out)
    opened = Gallery.open(gallery)
    labels = None if given is None else read_labels(given, opened.store.ids())
    with console.progress() as on_progress:
        graph = neighbor_graph(opened, on_progress=on_progress)
        rows = suggest(graph, count, labels, seed=seed, on_progress=on_progress)
    ids = [graph.ids[row] for row in rows]
    if keep:
        save_session(opened, graph, rows, labels)
        console.note(f"{gallery} keeps them: lookalike serve {gallery} asks for their labels")
    if as_json:
        uris = opened.store.get(ids).uris
        console.print_json([{"id": i, "uri": uri} for i, uri in zip(ids, uris, strict=True)])
    elif out is None and not keep:
        print("\n".join(ids))
    if out is not None:
        _write_suggested(opened, ids, labels, out)
        console.note(f"{out / 'labels.csv'}: fill in the column label")
        console.note(f"{out / 'sheet.png'}: the images by number")
        console.note(
            f"next: lookalike label propagate {gallery} --labels {out / 'labels.csv'} -o OUT.csv"
        )


@app.command("propagate", cls=Command)
def spread_command(
    gallery: Annotated[str, _GALLERY],
    given: Annotated[Path, typer.Option(help="A CSV of id, label.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The CSV to write.")],
    precision: Annotated[
        float | None,
        typer.Option(help="The share that shall be right, as 0.99; what is doubtful is unknown."),
    ] = None,
    write: Annotated[
        str | None,
        typer.Option("--write", help="Also write labels into the metadata, as this column."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the cross-validation.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Label all images from those given, with a confidence, and leave the doubtful unknown.

    The method is chosen by cross-validation on the given labels, which also calibrates the
    confidence. A given label is never changed. --write adds COLUMN, COLUMN_confidence and
    COLUMN_status to the gallery's metadata; a column that is there already is refused, unless it
    was written by --write before.
    """
    from lookalike.artifacts import write_atomically
    from lookalike.gallery.gallery import Gallery
    from lookalike.labels import neighbor_graph, propagate, read_labels
    from lookalike.labels.write_back import check_column, write_labels

    opened = Gallery.open(gallery)
    labels = read_labels(given, opened.store.ids())
    if write is not None:
        check_column(opened, write)
    with console.progress() as on_progress:
        labels.validate()
        graph = neighbor_graph(opened, on_progress=on_progress)
        found = propagate(graph, labels, precision=precision, seed=seed, on_progress=on_progress)
    uris = opened.store.get(found.ids).uris
    rows = ({**row, "uri": uri} for row, uri in zip(found.rows(), uris, strict=True))
    write_atomically(
        out, csv_bytes(("id", "label", "confidence", "status", "prediction", "uri"), rows)
    )
    if write is not None:
        write_labels(opened, found, write)
        console.note(f"{gallery}: {write} written into the metadata")
    if as_json:
        console.print_json(found.as_dict())
    else:
        _print_propagation(found)
    console.note(f"{out}: {len(found.ids):,} rows")


@app.command("issues", cls=Command)
def check_command(
    gallery: Annotated[str, _GALLERY],
    given: Annotated[
        Path | None, typer.Option(help="A CSV of id, label; else the gallery's own labels.")
    ] = None,
    column: Annotated[str, typer.Option(help="The column of the gallery's own labels.")] = "label",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The folder for suspects.csv and sheet.png."),
    ] = None,
    show: Annotated[int, typer.Option("-k", help="How many to print and to draw.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of them as JSON.")] = False,
) -> None:
    """Rank labels that the labels of the nearest images contradict. Nothing is changed."""
    from lookalike.gallery.gallery import Gallery
    from lookalike.labels import find_label_issues, neighbor_graph, read_labels

    check_free(out)
    opened = Gallery.open(gallery)
    labels = read_labels(given, opened.store.ids()) if given is not None else _own(opened, column)
    labels.validate()
    with console.progress() as on_progress:
        found = find_label_issues(neighbor_graph(opened, on_progress=on_progress), labels)
    rows = list(found.rows())
    if as_json:
        console.print_json(found.as_dict())
    elif rows:
        columns = ("id", "label", "suggested", "disagreement", "agreeing", "neighbors")
        console.print_table(columns, [[row[name] for name in columns] for row in rows[:show]])
    if not as_json:
        print(f"{len(rows):,} of {found.labeled:,} labels are contradicted by their neighbors")
    if out is not None:
        _write_checked(opened, rows, show, out)
        console.note(f"{out / 'suspects.csv'}: all of them; {out / 'sheet.png'}: the first {show}")


def _own(gallery: Gallery, column: str) -> LabelSet:
    from lookalike.errors import InputError
    from lookalike.labels.label_set import labels_from_column

    records = list(gallery.store.records())
    if not any(column in record.metadata for record in records):
        raise InputError(
            f"{gallery.path}: has no column {column!r}; name another with --column, or give labels "
            "with --labels FILE"
        )
    values = [record.metadata.get(column) for record in records]
    name = f"{gallery.path}, column {column}"
    return labels_from_column(name, [record.id for record in records], values)


def _write_suggested(gallery: Gallery, ids: list[str], given: LabelSet | None, out: Path) -> None:
    from lookalike.artifacts import write_atomically
    from lookalike.labels.label_set import SEPARATOR

    named = {} if given is None else given.by_id
    every = [*ids, *named]
    uris = gallery.store.get(every).uris
    rows = [
        {"number": str(i), "id": row_id, "label": SEPARATOR.join(named.get(row_id, ())), "uri": uri}
        for i, (row_id, uri) in enumerate(zip(every, uris, strict=True), 1)
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_sheet(gallery, ids, [str(number) for number in range(1, len(ids) + 1)], out / "sheet.png")
    write_atomically(out / "labels.csv", csv_bytes(("number", "id", "label", "uri"), rows))


def _write_checked(gallery: Gallery, rows: list[dict[str, str]], show: int, out: Path) -> None:
    from lookalike.artifacts import write_atomically

    out.mkdir(parents=True, exist_ok=True)
    shown = rows[:show]
    titles = [f"{row['label']}\n{row['suggested']}?" for row in shown]
    write_sheet(gallery, [row["id"] for row in shown], titles, out / "sheet.png")
    columns = ("id", "label", "suggested", "disagreement", "agreeing", "neighbors")
    write_atomically(out / "suspects.csv", csv_bytes(columns, rows))


def _print_propagation(found: Propagation) -> None:
    rows = [
        [
            str(row["label"]),
            f"{row['labeled']:,}",
            f"{row['propagated']:,}",
            "-" if row["confidence"] is None else f"{row['confidence']:.3f}",
        ]
        for row in found.summary()
    ]
    console.print_table(("label", "labeled", "propagated", "confidence"), rows)
    facts = found.as_dict()
    unknown = facts["images"] - facts["labeled"] - facts["propagated"]
    print(
        f"{facts['labeled']:,} labeled, {facts['propagated']:,} propagated "
        f"({found.coverage:.1%} of the rest), {unknown:,} unknown"
    )
    if not found.calibrated:
        print("too few labels to be calibrated: confidence orders the images, it is no probability")
        return
    print(f"expected precision of the propagated labels: {found.expected_precision:.1%}")
    tried = ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in found.accuracies.items())
    print(f"method {found.method}; accuracy on given labels left out: {tried}")
