"""lookalike index: create a gallery, or bring it up to date."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli import screen

if TYPE_CHECKING:
    from lookalike.encoders.base import Encoder
    from lookalike.gallery import Gallery
    from lookalike.sources import Source

_LISTED = 20
DEFAULT_ENCODER = "hog"


def command(
    gallery: Annotated[Path, typer.Argument(help="The gallery folder, as in photos.gallery.")],
    source: Annotated[
        str, typer.Argument(help="A folder, an IDX file, or dataset:NAME/SPLIT, perhaps [:5000].")
    ],
    encoder: Annotated[
        str | None,
        typer.Option(help="A trained encoder's folder, or a name from lookalike encoders."),
    ] = None,
    metric: Annotated[
        str, typer.Option(help="What searches use unless told otherwise: cosine or l2.")
    ] = "cosine",
    allow_removals: Annotated[
        bool, typer.Option("--allow-removals", help="Also if over half of the source's rows go.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Create a gallery from images, or bring it up to date with them.

    New and changed images are encoded, those that are gone are removed, the rest stays. Killed and
    run again, it goes on where it was. Exit code 1 when some images failed; each is named.
    """
    from lookalike.sources import open_source

    try:
        with screen.progress() as on_progress:
            opened = open_source(source, on_progress)
            target = _open(gallery, encoder, metric, opened)
            report = target.sync(opened, allow_removals=allow_removals, on_progress=on_progress)
    except KeyboardInterrupt:
        screen.note("interrupted; what was committed is kept, the same command goes on from there")
        raise typer.Exit(130) from None
    if as_json:
        screen.print_json(report.as_dict())
    else:
        print(
            f"{gallery}: {len(target):,} rows; {report.added:,} added, {report.updated:,} updated, "
            f"{report.moved:,} moved, {report.removed:,} removed, {report.unchanged:,} unchanged, "
            f"{len(report.failed):,} failed, in {report.seconds:.1f} s"
        )
        for failure in report.failed[:_LISTED]:
            screen.note(f"failed: {failure.uri}: {failure.reason}")
        if len(report.failed) > _LISTED:
            screen.note(f"... and {len(report.failed) - _LISTED:,} more; --json lists them all")
    if report.failed:
        raise typer.Exit(1)


def _open(path: Path, encoder: str | None, metric: str, source: Source) -> Gallery:
    """Open the gallery, or create it when its folder is not there."""
    from lookalike.errors import FingerprintError
    from lookalike.gallery import Gallery
    from lookalike.types import Metric

    chosen = Metric(metric)
    if not path.exists():
        made = _encoder(encoder or DEFAULT_ENCODER, source)
        return Gallery.create(path, encoder=made, metric=chosen)
    gallery = Gallery.open(path)
    if encoder is not None and Path(encoder).is_dir():
        from lookalike.encoders.catalog import load_encoder

        gallery.check_fingerprint(load_encoder(Path(encoder)))
    elif encoder is not None and encoder != gallery.encoder.name:
        raise FingerprintError(
            f"{path}: made with encoder {gallery.encoder.name!r}, not {encoder!r}; make a new "
            "gallery for the other encoder"
        )
    return gallery


def _encoder(name: str, source: Source) -> Encoder:
    """Open an encoder for a new gallery, and see that it takes the source's images."""
    from lookalike.encoders.catalog import find_encoder, load_encoder
    from lookalike.ingest import first_image, sample_images

    if not Path(name).is_dir():
        described = find_encoder(name)
        return described.fit(name, sample_images(source, described.sample))
    encoder = load_encoder(Path(name))
    first_image(source, encoder)
    return encoder
