"""lookalike train: an encoder from images, without labels."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.cli import console
from lookalike.cli.options import AsJson, Resume, Seed, Source
from lookalike.formatting import format_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lookalike import sources
    from lookalike.encoders.onnx import NetworkEncoder
    from lookalike.evaluation.sanity_check import SanityCheck
    from lookalike.sources.labels import LabelSet
    from lookalike.training.recipe import Recipe

OWN, NONE = "own", "none"


def command(
    source: Source,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Output folder.")],
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Recipe: see lookalike recipes; or your own, MODULE:OBJECT."
        ),
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
    code_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Dimensions of the embedding (report-*).", show_default="the recipe's"
        ),
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(
            metavar="N,N", help="Widths of hidden layers (report-*).", show_default="the recipe's"
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
            help="Labels for the final evaluation: own (the source's), a label file, or none.",
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
      lookalike train dataset:mnist/train -o my.encoder --recipe my_recipe:RECIPE
      torchrun --nproc-per-node 2 -m lookalike train photos -o my.encoder
    """
    from lookalike.sources import open_source
    from lookalike.training.options import TrainingOptions
    from lookalike.training.run_folder import has_checkpoint
    from lookalike.training.train import check_installed, train

    check_installed()
    from lookalike.training.distributed import process_group

    options = TrainingOptions(
        epochs=epochs,
        minutes=minutes,
        seed=seed,
        device=device,
        resume=resume,
        augment=augment,
        size=size,
        code_size=code_size,
        widths=_widths(widths),
    )
    chosen = _recipe(recipe)
    try:
        with console.progress() as on_progress, process_group(device) as group:
            with group.shared_errors():
                opened = open_source(source, on_progress)
                label_of = _labels(labels, opened)
            encoder = train(opened, recipe=chosen, out=out, options=options, progress=on_progress)
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


def _widths(text: str | None) -> tuple[int, ...] | None:
    """Return the widths of ``32,64``."""
    from lookalike.errors import SettingError

    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(",") if text.strip())
    except ValueError:
        raise SettingError("{widths} must be integers, as in 32,64", widths=text) from None


def _recipe(name: str) -> str | Recipe:
    """Return a recipe's name, or the object that ``module:object`` names, which is imported."""
    module_name, colon, attribute = name.partition(":")
    if not colon:
        return name
    import importlib

    from lookalike.errors import SettingError
    from lookalike.training.recipe import Recipe

    with _working_directory_on_path():
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except (ModuleNotFoundError, AttributeError, ValueError) as error:
            if isinstance(error, ModuleNotFoundError) and error.name != module_name:
                raise
            raise SettingError(
                f"{{recipe}} cannot be imported ({error}); it must be MODULE:OBJECT, with the "
                "module in this folder or installed",
                recipe=name,
            ) from error
    recipe = found() if callable(found) else found
    if not isinstance(recipe, Recipe):
        raise SettingError(
            f"{{recipe}} must be a lookalike.Recipe, or a function that returns one; it is of type "
            f"{type(recipe).__name__}",
            recipe=name,
        )
    return recipe


@contextlib.contextmanager
def _working_directory_on_path() -> Iterator[None]:
    """Let modules in the working directory be imported, as ``python -m`` does."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _evaluate(
    encoder: NetworkEncoder, source: sources.Source, labels: LabelSet | None, out: Path
) -> SanityCheck | None:
    """Evaluate an encoder that is already written; return None, with a note, if that fails."""
    from lookalike.cli.commands import message
    from lookalike.errors import LookalikeError
    from lookalike.evaluation.sanity_check import sanity_check

    written = f"the encoder in {out} is complete"
    try:
        with console.progress() as on_progress:
            return sanity_check(encoder, source, labels=labels, progress=on_progress)
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
    origin = encoder.origin
    loss = "" if origin["loss"] is None else f", {origin['loss_name']} {origin['loss']:.5f}"
    epochs = float(f"{origin['epochs']:.3g}")
    passes = format_count(int(epochs), "epoch") if epochs.is_integer() else f"{epochs:g} epochs"
    console.print_lines(
        f"{out}: {encoder.name}, {encoder.dim} dimensions, {passes} of "
        f"{format_count(origin['images'], 'image')} in {origin['seconds']:.0f} s{loss}"
    )


def _labels(labels: str, source: sources.Source) -> LabelSet | None:
    """Return the labels; None stands for the source's own."""
    if labels == OWN:
        return None
    if labels == NONE:
        from lookalike.sources.labels import LabelSet

        return LabelSet(NONE, {})
    from lookalike.errors import InputError
    from lookalike.evaluation.sanity_check import MIN_LABELED
    from lookalike.sources.labels import read_labels

    label_set = read_labels(labels, [item.id for item in source])
    if len(label_set) < MIN_LABELED:
        raise InputError(
            f"{labels}: {format_count(len(label_set), 'image')} labeled, at least "
            f"{MIN_LABELED} are needed to evaluate training; label more, or pass --labels none"
        )
    return label_set
