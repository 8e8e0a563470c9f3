"""lookalike train: an encoder from images, without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli import console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lookalike.sources import Source

OWN, NONE = "own", "none"


def command(
    source: Annotated[
        str, typer.Argument(help="A folder, an IDX file, or dataset:NAME/SPLIT, perhaps [:5000].")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The encoder folder to make.")],
    recipe: Annotated[
        str, typer.Option(help="How to train; lists: lookalike recipes.")
    ] = "contrastive",
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the images; the recipe's own unless given.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="End after this much training time, whole epochs or not.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the first weights and the images' order.")] = 0,
    device: Annotated[str, typer.Option(help="Where to train, in torch's words.")] = "cpu",
    augment: Annotated[
        str | None,
        typer.Option(
            help="Augmentation preset: digits, objects or photos [default: the recipe's]."
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side in pixels to train at, 32 to 224; found unless given.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")
    ] = False,
    labels: Annotated[
        str,
        typer.Option(
            help="Who judges at the end: own, the labels that the source carries; a CSV of id, "
            "label for some of the images; or none."
        ),
    ] = OWN,
    judge: Annotated[
        bool,
        typer.Option(help="End by looking at the encoder: spectrum, self-retrieval, baselines."),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Train an encoder from images, without labels.

    Ctrl-C leaves a checkpoint; --resume goes on from it. More --epochs with --resume trains a
    finished encoder further. Labels are not used in training; they judge it at the end, beside
    every baseline: those that the images carry (names of sub-folders, those of a data set), or
    the few in a file that lookalike choose --ask writes.

    On several processes: torchrun --nproc-per-node 2 -m lookalike train ...; each takes its share
    of every batch.
    """
    from lookalike.errors import MissingDependencyError

    try:
        from lookalike.training.distributed import process_group
        from lookalike.training.loop import TrainingOptions
        from lookalike.training.train import train
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "torch", "training", "train") from error

    from lookalike.evaluation.sanity_check import sanity_check
    from lookalike.sources import open_source

    options = TrainingOptions(
        epochs=epochs,
        minutes=minutes,
        seed=seed,
        device=device,
        resume=resume,
        augment=augment,
        size=size,
    )
    try:
        with console.progress() as on_progress:
            with process_group(device) as group:
                with group.shared_errors():
                    opened = open_source(source, on_progress)
                    judges = _labels(labels, opened)
                encoder = train(
                    opened, recipe=recipe, out=out, options=options, on_progress=on_progress
                )
            if not group.is_main:
                return
            assessment = (
                sanity_check(encoder, opened, labels=judges, on_progress=on_progress) if judge else None
            )
    except KeyboardInterrupt:
        console.note(f"interrupted; go on with the same command and --resume (in {out})")
        raise typer.Exit(130) from None
    origin = encoder.origin
    loss = origin["loss"]
    said = "" if loss is None else f", loss {loss:.5f}"
    if as_json:
        facts = {"encoder": encoder.name, "dim": encoder.dim, "fingerprint": encoder.fingerprint}
        training = {key: origin[key] for key in ("epochs", "images", "seconds", "history")}
        judged = None if assessment is None else assessment.as_dict()
        summary = {"path": str(out), **facts, "loss": loss, **training, "assessment": judged}
        console.print_json(summary)
        return
    print(
        f"{out}: {encoder.name}, {encoder.dim} dimensions, {origin['epochs']:.3g} epochs of "
        f"{origin['images']:,} images in {origin['seconds']:.0f} s{said}"
    )
    for sentence in () if assessment is None else assessment.sentences():
        print(f"  {sentence}")
    console.note(f"next: lookalike index NAME.gallery {source} --encoder {out}")


def _labels(labels: str, source: Source) -> Mapping[str, str] | None:
    """Return labels by id from what ``--labels`` says; None stands for the source's own."""
    if labels == OWN:
        return None
    if labels == NONE:
        return {}
    from lookalike.errors import InputError
    from lookalike.evaluation.agreement import Labels, read_judgements
    from lookalike.evaluation.sanity_check import MIN_LABELED

    found = read_judgements(Path(labels), [item.id for item in source])
    if not isinstance(found, Labels):
        raise InputError(
            f"{labels}: holds pairs; training is judged by columns id and label (lookalike choose "
            "takes pairs)"
        )
    if len(found.of) < MIN_LABELED:
        raise InputError(
            f"{labels}: {len(found.of)} images are labeled, at least {MIN_LABELED} are needed "
            "to judge training; label more, or say --labels none"
        )
    return found.of
