"""lookalike adapt: an encoder made to fit a collection, without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli import console


def command(
    source: Annotated[str, typer.Argument(help="The collection: what lookalike index takes.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The encoder folder to make.")],
    encoder: Annotated[
        str,
        typer.Option(help="The encoder to adapt: a name (lists: lookalike encoders) or a folder."),
    ] = "efficientnet-lite0/layers,fit=stretch",
    query_domain: Annotated[
        str, typer.Option(help="What queries look like: street (photographs) or drawn.")
    ] = "street",
    backgrounds: Annotated[
        str | None,
        typer.Option(help="Photographs to put items on; collages of the collection unless given."),
    ] = None,
    views_per_image: Annotated[int, typer.Option(help="Views made of each image.")] = 8,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no further pass after this time.")
    ] = None,
    dim: Annotated[
        int | None, typer.Option(help="Dimensions of the result; at most 256 unless given.")
    ] = None,
    contrast: Annotated[
        bool,
        typer.Option(
            "--contrast", help="Refine by contrast with hard negatives; seldom helps, takes torch."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the views.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run in --out.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Adapt a pretrained encoder to a collection, without labels.

    Of each image views are made as queries may show it: street photographs of its item, or
    drawings by other hands. From these a projection is learned in which views of one item are near
    each other. It takes minutes for some thousands of images on two cores. Whether it helps is
    for lookalike evaluate --synthetic-queries, or labels, to say.
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
                on_progress=on_progress,
            )
    except KeyboardInterrupt:
        console.note(f"interrupted; go on with the same command and --resume (in {out})")
        raise typer.Exit(130) from None
    origin = adapted.origin
    if as_json:
        facts = {"encoder": adapted.name, "dim": adapted.dim, "fingerprint": adapted.fingerprint}
        keys = ("query_domain", "views_per_image", "images", "seconds")
        training = {key: origin[key] for key in keys}
        console.print_json({"path": str(out), **facts, **training})
        return
    print(
        f"{out}: {adapted.name}, {adapted.dim} dimensions, from {origin['views_per_image']} views "
        f"of {origin['images']:,} images in {origin['seconds']:.0f} s"
    )
    console.note(f"next: lookalike index NAME.gallery {source} --encoder {out}")
