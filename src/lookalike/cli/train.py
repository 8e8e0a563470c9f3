"""lookalike train: an encoder from images, without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.cli import console
from lookalike.cli.options import AsJson, Resume, Seed, Source
from lookalike.formatting import format_count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lookalike import sources
    from lookalike.encoders.onnx import NetworkEncoder
    from lookalike.evaluation.sanity_check import SanityCheck

OWN, NONE = "own", "none"


def command(
    source: Source,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Output folder.")],
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help="Training recipe; see lookalike recipes.")
    ] = "contrastive",
    epochs: Annotated[
        int | None,
        typer.Option(metavar="N", help="Passes over the images.", show_default="the recipe's"),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(metavar="N", help="Time limit in minutes.")
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Augmentations: digits, objects or photos.",
            show_default="the recipe's",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Image side in pixels, 32 to 224.", show_default="by image size"
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="Torch device, e.g. cpu, cuda.")
    ] = "cpu",
    seed: Seed = 0,
    resume: Resume = False,
    labels: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Labels for the final evaluation: own (the source's), a CSV of id,label, or none.",
        ),
    ] = OWN,
    evaluate: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Skip the final evaluation.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Train an encoder from images, without labels.

    Ctrl-C leaves a checkpoint, which --resume continues; --resume with more
    --epochs trains a finished encoder further. Labels are used only in the final
    evaluation.

      lookalike train photos -o my.encoder --minutes 10
      torchrun --nproc-per-node 2 -m lookalike train photos -o my.encoder
    """
    from lookalike.errors import MissingDependencyError

    try:
        from lookalike.training.distributed import process_group
        from lookalike.training.loop import TrainingOptions
        from lookalike.training.train import has_checkpoint, train
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "torch", "training", "train") from error

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
        with console.progress() as on_progress, process_group(device) as group:
            with group.shared_errors():
                opened = open_source(source, on_progress)
                label_of = _labels(labels, opened)
            encoder = train(
                opened, recipe=recipe, out=out, options=options, on_progress=on_progress
            )
    except KeyboardInterrupt:
        console.note(
            f"interrupted; resume with the same command and --resume (checkpoint in {out})"
            if has_checkpoint(out)
            else f"interrupted before the first checkpoint; nothing was written to {out}"
        )
        raise typer.Exit(130) from None
    if not group.is_main:
        return
    if not as_json:
        _print(encoder, out)
    assessment = _evaluate(encoder, opened, label_of, out) if evaluate else None
    if as_json:
        result = None if assessment is None else assessment.as_dict()
        console.print_json(_summary(encoder, out) | {"sanity_check": result})
    else:
        for sentence in () if assessment is None else assessment.sentences():
            console.print_lines(f"  {sentence}")
        console.note(f"next: lookalike index NAME.gallery {source} --encoder {out}")
    agrees = encoder.origin["export"]["sufficient"]
    if not agrees:
        console.note(
            f"{out}/model.onnx (which search uses) and {out}/model.safetensors (the weights in "
            "torch) give different embeddings, see above: measure search with lookalike evaluate "
            "before you rely on it, and report this with the output of lookalike doctor"
        )
    if not agrees or (evaluate and assessment is None):
        raise typer.Exit(1)


def _evaluate(
    encoder: NetworkEncoder, source: sources.Source, labels: Mapping[str, str] | None, out: Path
) -> SanityCheck | None:
    """Evaluate an encoder that is already written; return None, with a note, if that fails."""
    from lookalike.cli.commands import message
    from lookalike.errors import LookalikeError
    from lookalike.evaluation.sanity_check import sanity_check

    written = f"the encoder in {out} is complete"
    try:
        with console.progress() as on_progress:
            return sanity_check(encoder, source, labels=labels, on_progress=on_progress)
    except KeyboardInterrupt:
        console.note(f"interrupted in the final evaluation; {written}")
        raise typer.Exit(130) from None
    except LookalikeError as error:
        console.note(f"the final evaluation failed ({message(error)}); {written}")
        return None
    except Exception:
        console.note(f"the final evaluation failed; {written}")
        raise


def _summary(encoder: NetworkEncoder, out: Path) -> dict[str, Any]:
    keys = ("loss", "epochs", "images", "seconds", "history", "export")
    return {
        "path": str(out),
        "encoder": encoder.name,
        "dim": encoder.dim,
        "fingerprint": encoder.fingerprint,
        **{key: encoder.origin[key] for key in keys},
    }


def _print(encoder: NetworkEncoder, out: Path) -> None:
    from lookalike.training.recipe import LOSSES
    from lookalike.training.recipes import find_recipe

    origin = encoder.origin
    loss_name = LOSSES[find_recipe(origin["recipe"]).objective]
    loss = "" if origin["loss"] is None else f", {loss_name} {origin['loss']:.5f}"
    epochs = float(f"{origin['epochs']:.3g}")
    passes = format_count(int(epochs), "epoch") if epochs.is_integer() else f"{epochs:g} epochs"
    console.print_lines(
        f"{out}: {encoder.name}, {encoder.dim} dimensions, {passes} of "
        f"{format_count(origin['images'], 'image')} in {origin['seconds']:.0f} s{loss}"
    )


def _labels(labels: str, source: sources.Source) -> Mapping[str, str] | None:
    """Return labels by id; None stands for the source's own."""
    if labels == OWN:
        return None
    if labels == NONE:
        return {}
    from lookalike.errors import InputError
    from lookalike.evaluation.agreement import LabelJudgements, read_judgements
    from lookalike.evaluation.sanity_check import MIN_LABELED

    judgements = read_judgements(Path(labels), [item.id for item in source])
    if not isinstance(judgements, LabelJudgements):
        raise InputError(
            f"{labels}: has pairs; evaluating training needs the columns id and label (pairs are "
            "for lookalike choose)"
        )
    if len(judgements.labels) < MIN_LABELED:
        raise InputError(
            f"{labels}: {format_count(len(judgements.labels), 'image')} labeled, at least "
            f"{MIN_LABELED} are needed to evaluate training; label more, or pass --labels none"
        )
    return judgements.labels
