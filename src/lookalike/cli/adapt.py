"""lookalike adapt: fit a pretrained encoder to a collection."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli import console
from lookalike.cli.options import AsJson, Resume, Seed, Source
from lookalike.formatting import format_count


def command(
    source: Source,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Output folder.")],
    encoder: Annotated[
        str, typer.Option(metavar="NAME", help="Encoder to adapt, by name or folder.")
    ] = "efficientnet-lite0/layers,fit=stretch",
    query_domain: Annotated[
        str, typer.Option(metavar="NAME", help="Query images: street (photos) or drawn.")
    ] = "street",
    backgrounds: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="Photos to put items on.", show_default="collages of SOURCE"
        ),
    ] = None,
    views_per_image: Annotated[
        int, typer.Option(metavar="N", help="Synthetic views per image.")
    ] = 8,
    minutes: Annotated[
        float | None,
        typer.Option(metavar="N", help="Time limit in minutes; finishes the current pass."),
    ] = None,
    dim: Annotated[
        int | None,
        typer.Option(metavar="N", help="Output dimensions.", show_default="at most 256"),
    ] = None,
    contrast: Annotated[
        bool,
        typer.Option("--contrast", help="Contrastive refinement (needs torch)."),
    ] = False,
    seed: Seed = 0,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Adapt a pretrained encoder to a collection, without labels.

    Learns a projection from synthetic queries: street photos or drawings of each
    item.

      lookalike adapt products -o shop.encoder
      lookalike evaluate shop.gallery --synthetic-queries      measure the gain
    """
    from lookalike.training.adapt import AdaptOptions, adapt

    options = AdaptOptions(
        query_domain=query_domain,
        views_per_image=views_per_image,
        minutes=minutes,
        dim=dim,
        contrast=contrast,
        seed=seed,
        resume=resume,
    )
    try:
        with console.progress() as on_progress:
            adapted = adapt(
                source,
                encoder=encoder,
                out=out,
                backgrounds=backgrounds,
                options=options,
                progress=on_progress,
            )
    except KeyboardInterrupt:
        console.note(
            f"interrupted; resume with the same command and --resume (checkpoint in {out})"
        )
        raise typer.Exit(130) from None
    origin = adapted.origin
    if as_json:
        facts = {"encoder": adapted.name, "dim": adapted.dim, "fingerprint": adapted.fingerprint}
        keys = ("query_domain", "views_per_image", "images", "seconds")
        training = {key: origin[key] for key in keys}
        console.print_json({"path": str(out), **facts, **training})
        return
    console.print_lines(
        f"{out}: {adapted.name}, {adapted.dim} dimensions, from "
        f"{format_count(origin['views_per_image'], 'view')} of "
        f"{format_count(origin['images'], 'image')} in {origin['seconds']:.0f} s"
    )
    console.note(f"next: lookalike index NAME.gallery {source} --encoder {out}")
