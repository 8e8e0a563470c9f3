"""lookalike label: suggest images to label, propagate labels, find label issues."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli import console
from lookalike.cli.commands import Command, new_group
from lookalike.cli.options import AsJson, Force, Gallery, Seed
from lookalike.cli.output_files import (
    OutputFolder,
    check_free,
    check_output,
    csv_bytes,
    write_folder,
)
from lookalike.formatting import format_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lookalike.gallery import gallery as galleries
    from lookalike.labels import LabelSet, Propagation

app = new_group("Label a few images, propagate the labels, find label issues.")

_ISSUE_COLUMNS = ("id", "label", "suggested", "disagreement", "agreeing", "neighbors")


@app.command("suggest", cls=Command)
def suggest_command(
    gallery: Gallery,
    k: Annotated[
        int | None,
        typer.Option("-k", metavar="K", help="Images to suggest.", show_default="100"),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Labels so far: table of id,label; suggests uncertain ones."
        ),
    ] = None,
    out: OutputFolder = None,
    save: Annotated[
        bool, typer.Option("--save", help="Save in the gallery, for the page of lookalike serve.")
    ] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Suggest the most informative images to label.

    Start without labels, then pass the labels so far. With --out: labels.csv to
    fill in (several labels of an image: A;B) and a numbered contact sheet.

      lookalike label suggest photos.gallery -o 1
      lookalike label suggest photos.gallery --labels 1/labels.csv -o 2
    """
    from lookalike.gallery.gallery import Gallery
    from lookalike.labels.suggest import suggest_labels

    check_free(out)
    opened = Gallery.open(gallery).snapshot()
    with console.progress() as on_progress:
        result = suggest_labels(opened, k, labels=labels, seed=seed, progress=on_progress)
    if as_json:
        pairs = zip(result.ids, result.uris, strict=True)
        console.print_json([{"id": row_id, "uri": uri} for row_id, uri in pairs])
    elif out is None:
        console.print_names(result.ids)
    if out is not None:
        _write_label_sheet(opened, result.ids, result.labels, out / "labels.csv")
        console.note("fill in the column label; sheet.png shows the numbered images")
        console.note(
            f"next: lookalike label propagate {gallery} --labels {out / 'labels.csv'} -o OUT.csv"
        )
    if save:
        result.save()
        console.note(f"saved in {gallery}; to label: lookalike serve {gallery}")


@app.command("propagate", cls=Command)
def propagate_command(
    gallery: Gallery,
    labels: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Labels: a table of id,label (CSV, JSONL, Parquet)."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Output CSV.")],
    precision: Annotated[
        float | None,
        typer.Option(
            metavar="P", help="Target precision, e.g. 0.99; the uncertain become unknown."
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option("--write", metavar="COLUMN", help="Also write to the metadata."),
    ] = None,
    force: Force = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Propagate a few labels to all images, with confidences.

    The method is chosen, and the confidence calibrated, by cross-validation.
    Existing labels never change. --write adds COLUMN, COLUMN_confidence and
    COLUMN_status.

      lookalike label propagate photos.gallery --labels labels.csv -o all.csv
    """
    from lookalike.artifacts import write_atomically
    from lookalike.gallery.gallery import Gallery
    from lookalike.labels.propagation import propagate_labels
    from lookalike.labels.write_back import check_column

    opened = Gallery.open(gallery)
    view = opened.snapshot()
    check_output(out, force=force, gallery=view, inputs=(labels,))
    if column is not None:
        check_column(view, column)
    with console.progress() as on_progress:
        result = propagate_labels(
            view, labels, precision=precision, seed=seed, progress=on_progress
        )
    uris = view.store.get(result.ids).uris
    rows = ({**row, "uri": uri} for row, uri in zip(result.rows(), uris, strict=True))
    columns = ("id", "label", "confidence", "status", "prediction", "uri")
    if as_json:
        console.print_json(result.as_dict())
    else:
        _print_propagation(result)
    write_atomically(out, csv_bytes(columns, rows))
    console.note(f"{out}: {format_count(len(result.ids), 'row')}")
    if column is not None:
        replace(result, gallery=opened).write(column)
        console.note(f"{gallery}: metadata column {column} written")


@app.command("issues", cls=Command)
def issues_command(
    gallery: Gallery,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Labels: a table of id,label (CSV, JSONL, Parquet).",
            show_default="the gallery's --column",
        ),
    ] = None,
    column: Annotated[
        str, typer.Option(metavar="NAME", help="Metadata column with the labels.")
    ] = "label",
    k: Annotated[int, typer.Option("-k", metavar="K", help="Issues to print and to draw.")] = 20,
    out: OutputFolder = None,
    as_json: AsJson = False,
) -> None:
    """Rank labels that disagree with the nearest neighbors.

    Nothing is changed.

    lookalike label issues photos.gallery -o issues
    """
    from lookalike.gallery.gallery import Gallery
    from lookalike.labels.issues import find_label_issues

    check_free(out)
    opened = Gallery.open(gallery).snapshot()
    with console.progress() as on_progress:
        result = find_label_issues(opened, labels, column=column, progress=on_progress)
    rows = list(result.rows())
    if as_json:
        console.print_json(result.as_dict())
    else:
        if rows:
            cells = [[row[name] for name in _ISSUE_COLUMNS] for row in rows[:k]]
            console.print_table(_ISSUE_COLUMNS, cells)
        labeled = format_count(result.labeled, "label")
        console.print_lines(f"{len(rows):,} of {labeled} disagree with the nearest neighbors")
    if out is not None:
        sheet = [(row["id"], f"{row['label']}\n{row['suggested']}?") for row in rows[:k]]
        write_folder(opened, out / "issues.csv", _ISSUE_COLUMNS, rows, sheet)


def _write_label_sheet(
    gallery: galleries.Gallery, ids: Sequence[str], labels: LabelSet | None, path: Path
) -> None:
    """Write the images to label, and below them those labeled so far."""
    from lookalike.sources.labels import SEPARATOR

    labeled = {} if labels is None else labels.by_id
    every = [*ids, *labeled]
    uris = gallery.store.get(every).uris
    rows = [
        {
            "number": str(number),
            "id": row_id,
            "label": SEPARATOR.join(labeled.get(row_id, ())),
            "uri": uri,
        }
        for number, (row_id, uri) in enumerate(zip(every, uris, strict=True), 1)
    ]
    sheet = [(row_id, str(number)) for number, row_id in enumerate(ids, 1)]
    write_folder(gallery, path, ("number", "id", "label", "uri"), rows, sheet)


def _print_propagation(result: Propagation) -> None:
    rows = [
        [
            str(row["label"]),
            f"{row['labeled']:,}",
            f"{row['propagated']:,}",
            "-" if row["confidence"] is None else f"{row['confidence']:.3f}",
        ]
        for row in result.summary()
    ]
    console.print_table(("label", "labeled", "propagated", "confidence"), rows)
    facts = result.as_dict()
    unknown = facts["images"] - facts["labeled"] - facts["propagated"]
    share = "" if result.coverage is None else f" ({result.coverage:.1%} of the unlabeled)"
    console.print_lines(
        f"{facts['labeled']:,} labeled, {facts['propagated']:,} propagated{share}, "
        f"{unknown:,} unknown"
    )
    if result.unreached:
        reason = "no label reaches them, or their embedding is zero"
        console.print_lines(
            f"{format_count(result.unreached, 'image')} without a prediction: {reason}"
        )
    if not result.calibrated:
        console.print_lines("not calibrated (too few labels): confidences only rank images")
        return
    if result.expected_precision is not None:
        console.print_lines(
            f"expected precision of propagated labels: {result.expected_precision:.1%}"
        )
    accuracies = ", ".join(f"{name} {value:.3f}" for name, value in result.accuracies.items())
    console.print_lines(f"method: {result.method}; cross-validated accuracy: {accuracies}")
