"""lookalike choose: which encoder, from a few labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli import console

if TYPE_CHECKING:
    from lookalike.evaluation.model_selection import Choice


def command(
    source: Annotated[
        str, typer.Argument(help="A folder, an IDX file, or dataset:NAME/SPLIT, perhaps [:5000].")
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            help="A CSV of id, label, or of id_a, id_b, alike (yes or no); or own: the labels "
            "that the source carries, such as names of sub-folders."
        ),
    ] = None,
    ask: Annotated[
        int | None, typer.Option(help="Write so many images to name into the folder --out.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The encoder folder to make; with --ask, that to name."),
    ] = None,
    cheapest: Annotated[
        bool, typer.Option("--cheapest", help="Write the fastest within the noise, not the best.")
    ] = False,
    minutes: Annotated[float, typer.Option(help="Time for all of it.")] = 5.0,
    encoder: Annotated[
        list[str] | None, typer.Option(help="Try this one; may be given several times.")
    ] = None,
    train: Annotated[
        bool, typer.Option(help="Also try an encoder trained on the images; needs torch.")
    ] = True,
    augment: Annotated[
        str | None,
        typer.Option(help="Augmentation preset for --train: digits, objects or photos."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the images drawn and of training.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(help="Draw quality against speed into this file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Try encoders on your images and rank them from a few labels or judgements.

    Start with --ask 50 -o FOLDER: it writes labels.csv and a sheet of the numbered images. Fill in
    the column label as far as you like and give the file with --labels. Quality is shown with 95 %
    intervals; the cheapest is the fastest of those that cannot be told apart from the best.

    Without labels only speed, size and a smoke test are shown: quality cannot be ranked then. The
    source's own labels are not used unless you say --labels own.
    """
    from lookalike.evaluation.candidates import ChooseOptions
    from lookalike.evaluation.model_selection import choose

    _refuse(labels, ask, out, plot, cheapest=cheapest)
    options = ChooseOptions(minutes, tuple(encoder) if encoder else None, train, augment, seed)
    with console.progress() as on_progress:
        found = choose(source, labels=labels, options=options, on_progress=on_progress)
    if as_json:
        console.print_json(found.as_dict())
    else:
        console.print_choice(found)
    if plot is not None:
        _draw_choice(found, plot)
    if ask is not None and out is not None:
        _write_asked(found, ask, out, seed)
    elif out is not None:
        from lookalike.encoders.persistence import save_encoder

        chosen = found.chosen(cheapest=cheapest)
        save_encoder(chosen.encoder, out)
        console.note(f"{out}: {chosen.name}")
        console.note(f"next: lookalike index NAME.gallery {source} --encoder {out}")
    console.note_skipped(found.skipped, "images")
    if found.skipped:
        raise typer.Exit(1)


def _refuse(
    labels: str | None, ask: int | None, out: Path | None, plot: Path | None, *, cheapest: bool
) -> None:
    """Refuse, before any work, options that do not go together.

    Raises:
        SettingError: they do not.
        ArtifactError: ``out`` exists and is not an empty folder.
    """
    from lookalike.errors import ArtifactError, SettingError
    from lookalike.evaluation.model_selection import UNRANKED

    if ask is not None and out is None:
        raise SettingError(f"--ask {ask}: say with -o FOLDER where to write the images to name")
    if ask is not None and ask < 2:
        raise SettingError(f"--ask {ask}: must be at least 2")
    if labels is None and plot is not None:
        raise SettingError(f"--plot needs --labels: {UNRANKED}")
    if labels is None and (cheapest or (out is not None and ask is None)):
        raise SettingError(f"no encoder is chosen without --labels: {UNRANKED}")
    if cheapest and (out is None or ask is not None):
        raise SettingError("--cheapest says which encoder -o FOLDER gets; with --ask none is")
    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ArtifactError(f"{out}: already exists; choose another -o or remove it first")


def _draw_choice(found: Choice, path: Path) -> None:
    """Draw quality against speed of the encoders that were ranked."""
    from lookalike.report import figures

    assert found.judgements is not None  # _refuse: no plot without labels
    points = [
        figures.TradeOff(
            name=f"{candidate.name}, {candidate.encoder.dim:,} dimensions",
            images_per_second=candidate.rate,
            quality=candidate.quality.estimate.value,
            low=candidate.quality.estimate.interval.low,
            high=candidate.quality.estimate.interval.high,
            best=candidate.best,
            tied=candidate.quality.within_noise,
        )
        for candidate in found.candidates
        if candidate.quality is not None
    ]
    figures.save(figures.quality_by_speed(points, found.judgements.measure), path)
    console.note(f"plot: {path}")


def _write_asked(found: Choice, count: int, folder: Path, seed: int) -> None:
    from lookalike.evaluation.agreement import Labels
    from lookalike.labels.suggest import images_to_ask, write_asked
    from lookalike.report import figures

    given = found.judgements.of if isinstance(found.judgements, Labels) else {}
    judged = frozenset(i for i, item in enumerate(found.items) if item.id in given)
    rows = images_to_ask(len(found.items), count, left_out=judged, seed=seed)
    asked = [found.items[row] for row in rows]
    # Those already named follow, so that the next --labels can be this one file.
    path = write_asked(folder, [*asked, *(found.items[row] for row in sorted(judged))], given)
    sheet = folder / "sheet.png"
    numbers = [str(number) for number in range(1, len(asked) + 1)]
    figures.save(figures.sample_grid([item.image() for item in asked], numbers), sheet)
    console.note(f"{path}: fill in the column label; {sheet} shows the images by number")
    console.note(f"next: lookalike choose {found.source} --labels {path}")
