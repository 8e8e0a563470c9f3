"""lookalike choose: compare encoders on your images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli import console
from lookalike.cli.options import AsJson, Force, Seed, Source
from lookalike.formatting import format_count

if TYPE_CHECKING:
    from lookalike.evaluation.candidates import Candidate
    from lookalike.evaluation.model_selection import Choice


def command(
    source: Source,
    ask: Annotated[
        int | None, typer.Option(metavar="N", help="Write N images to label to --out.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Table of id,label or id_a,id_b,similar; own: the source's.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FOLDER", help="Save the chosen encoder, or images to label."
        ),
    ] = None,
    cheapest: Annotated[
        bool,
        typer.Option(
            "--cheapest", help="Pick the fastest encoder statistically tied with the best."
        ),
    ] = False,
    encoder: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Encoder to try (repeatable) [default: a selection]."),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train/--no-train", help="Don't train an encoder on the images.")
    ] = True,
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Augmentations in training: digits, objects or photos.",
            show_default="by image type",
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(metavar="N", help="Time limit in minutes.")] = 5.0,
    seed: Seed = 0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save a plot of quality against speed.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compare encoders on your images with a few labels or judgements.

      lookalike choose photos --ask 50 -o label-me     then fill in labels.csv
      lookalike choose photos --labels label-me/labels.csv -o best.encoder
      lookalike choose photos --labels own --cheapest -o fast.encoder

    Without labels only speed, size and a sanity check are reported.

    Exit code 1: some images were skipped; each is listed.
    """
    from lookalike.cli.output_files import check_output
    from lookalike.errors import require
    from lookalike.evaluation.candidates import ChooseOptions
    from lookalike.evaluation.model_selection import choose

    _check_options(labels, ask, out, plot, cheapest=cheapest)
    models = (name.removeprefix("onnx:") for name in encoder or ())
    check_output(plot, force=force, inputs=(source, labels, *models))
    if plot is not None:
        require("matplotlib", "a plot", "report")
    options = ChooseOptions(
        minutes=minutes,
        encoders=tuple(encoder) if encoder else None,
        train=train,
        augment=augment,
        seed=seed,
    )
    with console.progress() as on_progress:
        choice = choose(source, labels=labels, options=options, progress=on_progress)
    if as_json:
        console.print_json(choice.as_dict())
    else:
        _print(choice)
    if plot is not None:
        _save_plot(choice, plot)
    if ask is not None and out is not None:
        _write_images_to_label(choice, ask, out, seed)
    elif out is not None:
        from lookalike.encoders.persistence import save_encoder

        chosen = choice.select(cheapest=cheapest)
        save_encoder(chosen.encoder, out)
        console.note(f"{out}: {chosen.name}")
        console.note(f"next: lookalike index NAME.gallery {source} --encoder {out}")
    console.note_skipped(choice.skipped, "image", "images")
    if choice.skipped:
        raise typer.Exit(1)


def _check_options(
    labels: str | None, ask: int | None, out: Path | None, plot: Path | None, *, cheapest: bool
) -> None:
    """Check, before any work, that options go together.

    Raises:
        SettingError: they do not.
        ArtifactError: ``out`` exists and is not an empty folder.
    """
    from lookalike.cli.output_files import check_free
    from lookalike.errors import SettingError
    from lookalike.evaluation.model_selection import UNRANKED

    if ask is not None and out is None:
        raise SettingError("{ask} needs {out} for the images to label", ask=ask, out=None)
    if ask is not None and ask < 2:
        raise SettingError("{ask} must be at least 2", ask=ask)
    if labels is None and plot is not None:
        raise SettingError("{plot} needs {labels}: " + UNRANKED, plot=None, labels=None)
    if labels is None and (cheapest or (out is not None and ask is None)):
        raise SettingError("choosing an encoder needs {labels}: " + UNRANKED, labels=None)
    if cheapest and (out is None or ask is not None):
        raise SettingError(
            "{cheapest} picks the encoder to save: add {out} and leave out {ask}",
            cheapest=True,
            out=None,
            ask=None,
        )
    check_free(out)


def _print(choice: Choice) -> None:
    """Print the encoders, by quality where there were labels, and the verdict."""
    title = f"{format_count(len(choice.items), 'image')} of {choice.source}"
    if choice.judgements is None:
        columns, rows = _unranked(choice.candidates)
    else:
        title += f", {choice.judgements.summary}; quality: {choice.judgements.measure}"
        columns = ["encoder", "quality", "difference to best", "images/s", "dim", ""]
        rows = [_ranked(candidate) for candidate in choice.candidates]
    console.print_table(columns, rows, title=title)
    console.print_lines(choice.verdict())
    for name, reason in choice.not_tried.items():
        console.note(f"not tried: {name}: {reason}")


def _ranked(candidate: Candidate) -> list[str]:
    quality = candidate.quality
    assert quality is not None  # there were labels
    low, high = quality.difference.low, quality.difference.high
    marks = [
        mark
        for mark, applies in (
            ("best", candidate.best),
            ("tied", quality.tied and not candidate.best),
            ("cheapest", candidate.cheapest),
        )
        if applies
    ]
    return [
        candidate.name,
        f"{quality.estimate.value:.4f}",
        "" if candidate.best else f"[{low:+.3f}, {high:+.3f}]",
        f"{candidate.rate:,.0f}",
        f"{candidate.encoder.dim:,}",
        ", ".join(marks),
    ]


def _unranked(candidates: Sequence[Candidate]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of encoders without labels."""
    corruptions = list(candidates[0].robustness)
    rows = [
        [
            candidate.name,
            f"{candidate.rate:,.0f}",
            f"{candidate.encoder.dim:,}",
            *(f"{share:.2f}" for share in candidate.robustness.values()),
            "yes" if candidate.robust else "no",
        ]
        for candidate in candidates
    ]
    columns = [f"R@1, {corruption}" for corruption in corruptions]
    return ["encoder", "images/s", "dim", *columns, "robust"], rows


def _save_plot(choice: Choice, path: Path) -> None:
    """Plot quality against speed."""
    from lookalike.report import figures

    assert choice.judgements is not None  # _check_options: no plot without labels
    points = [
        figures.TradeOff(
            name=f"{candidate.name}, {candidate.encoder.dim:,} dimensions",
            images_per_second=candidate.rate,
            quality=candidate.quality.estimate.value,
            low=candidate.quality.estimate.interval.low,
            high=candidate.quality.estimate.interval.high,
            best=candidate.best,
            tied=candidate.quality.tied,
        )
        for candidate in choice.candidates
        if candidate.quality is not None
    ]
    figures.save(figures.quality_by_speed(points, choice.judgements.measure), path)
    console.note(f"plot: {path}")


def _write_images_to_label(choice: Choice, count: int, folder: Path, seed: int) -> None:
    from lookalike.evaluation.agreement import LabelJudgements
    from lookalike.evaluation.label_sheet import draw_rows, write_label_sheet
    from lookalike.search.contact_sheet import image_sheet

    judged = choice.judgements
    labels = judged.labels.texts if isinstance(judged, LabelJudgements) else {}
    labeled = [row for row, item in enumerate(choice.items) if item.id in labels]
    drawn = draw_rows(len(choice.items), count, exclude=frozenset(labeled), seed=seed)
    items = [choice.items[row] for row in drawn]
    # Labeled images follow, so that this one file is enough for the next --labels.
    path = write_label_sheet(folder, [*items, *(choice.items[row] for row in labeled)], labels)
    sheet = folder / "sheet.png"
    numbers = [str(number) for number in range(1, len(items) + 1)]
    image_sheet((item.image() for item in items), numbers).save(sheet)
    console.note(f"{path}: fill in the column label; {sheet} shows the numbered images")
    console.note(f"next: lookalike choose {choice.source} --labels {path}")
