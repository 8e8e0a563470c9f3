"""lookalike index: create a gallery, or bring it up to date."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli import console

if TYPE_CHECKING:
    from lookalike.encoders.base import Encoder
    from lookalike.gallery.gallery import Gallery
    from lookalike.gallery.ingest import Runner
    from lookalike.gallery.sync import SyncReport
    from lookalike.sources import Source

_SETTLED_MS = 1_000
_LOOK_MS = 500
_RUNNERS = ("local", "ray")
_LISTED = 20
_LOOKED_AT = 50


def command(
    gallery: Annotated[
        str,
        typer.Argument(
            help="The gallery folder, as in photos.gallery, or milvus://HOST:PORT/NAME."
        ),
    ],
    source: Annotated[
        str,
        typer.Argument(
            help="A folder, a manifest (.csv .jsonl .parquet with a column path or url), tar or "
            "Parquet shards, an IDX file, or dataset:NAME/SPLIT, perhaps [:5000]."
        ),
    ],
    encoder: Annotated[
        str | None,
        typer.Option(
            help="A trained encoder's folder, or a name from lookalike encoders; unless given, one "
            "that suits the images."
        ),
    ] = None,
    metric: Annotated[
        str, typer.Option(help="What searches use unless told otherwise: cosine or l2.")
    ] = "cosine",
    store: Annotated[
        str | None,
        typer.Option(help="Where the rows of a new gallery go: milvus://HOST:PORT/NAME."),
    ] = None,
    runner: Annotated[
        str, typer.Option(help="Where images are encoded: local, or ray, on a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="With --runner ray: auto or HOST:PORT; else this machine alone."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --runner ray: processes; all cores or GPUs.")
    ] = None,
    allow_removals: Annotated[
        bool, typer.Option("--allow-removals", help="Also if over half of the source's rows go.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="What the source is called; its own name unless given.")
    ] = None,
    relocate: Annotated[
        bool, typer.Option("--relocate", help="The source of this name has moved here.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing, only say what would be done.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Then stay, and do it again whenever files change.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Create a gallery from images, or bring it up to date with them.

    New and changed images are encoded, moved ones are known again, those that are gone are
    removed, the rest stays. Killed and run again, it goes on where it was. Exit code 1 when some
    images failed; each is named.
    """
    from lookalike.errors import LookalikeError, SettingError
    from lookalike.gallery.storage import gallery_exists
    from lookalike.gallery.sync import SyncReport
    from lookalike.sources import open_source

    if watch and dry_run:
        raise SettingError("--watch and --dry-run exclude each other")

    chosen = _runner(runner, address, workers)

    def once() -> tuple[SyncReport, int | None]:
        """Index, and return what came of it and how many rows there are then."""
        with console.progress() as on_progress:
            opened = open_source(source, on_progress, empty=allow_removals, name=name)
            if dry_run and not gallery_exists(gallery):
                return SyncReport(len(opened), 0, 0, 0, 0, tuple(opened.problems), 0.0), None
            into = _open(gallery, encoder, metric, store, opened)
            report = into.sync(
                opened,
                allow_removals=allow_removals,
                relocate=relocate,
                dry_run=dry_run,
                on_progress=on_progress,
                runner=chosen,
            )
        return report, len(into)

    try:
        changes = _changes(Path(source), gallery) if watch else iter(())
        next(changes, None)  # from here on no change is missed
        report, rows = once()
        _print(gallery, report, rows, dry_run=dry_run, as_json=as_json, one_line=watch)
        if watch:
            relocate = False
            console.note(f"watching {source}; Ctrl-C ends it")
            for changed in changes:
                if not changed:
                    continue
                try:
                    report, rows = once()
                    _print(gallery, report, rows, dry_run=False, as_json=as_json, one_line=True)
                except LookalikeError as error:
                    console.note(f"not indexed, still watching: {error}")
    except KeyboardInterrupt:
        console.note("interrupted; what was committed is kept, the same command goes on from there")
        raise typer.Exit(130) from None
    if report.failed:
        raise typer.Exit(1)


def _runner(name: str, address: str | None, workers: int | None) -> Runner | None:
    """Return where images are encoded; None for here."""
    from lookalike.errors import SettingError, UnknownNameError

    if name not in _RUNNERS:
        raise UnknownNameError("runner", name, _RUNNERS)
    if name == "local":
        if address is not None or workers is not None:
            raise SettingError("--address and --workers are for --runner ray")
        return None
    console.need("ray", "--runner ray", "scale")
    from lookalike.gallery.ray_runner import RayRunner

    return RayRunner(address, workers)


def _print(
    path: str,
    report: SyncReport,
    rows: int | None,
    *,
    dry_run: bool,
    as_json: bool,
    one_line: bool,
) -> None:
    if as_json:
        console.print_json(report.as_dict(), one_line=one_line)
        return
    there = "" if rows is None else f"{rows:,} rows; "
    would = "nothing was changed; would be: " if dry_run else ""
    print(
        f"{path}: {there}{would}{report.added:,} added, {report.updated:,} updated, "
        f"{report.moved:,} moved, {report.removed:,} removed, {report.unchanged:,} unchanged, "
        f"{len(report.failed):,} failed, in {report.seconds:.1f} s"
    )
    for failure in report.failed[:_LISTED]:
        console.note(f"failed: {failure.uri}: {failure.reason}")
    if len(report.failed) > _LISTED:
        console.note(f"... and {len(report.failed) - _LISTED:,} more; --json lists them all")


def _changes(path: Path, gallery: str) -> Iterator[bool]:
    """Yield now and then whether something below a folder, or a file, has changed.

    What the gallery writes is no change, should it lie there too.
    """
    from lookalike.errors import MissingDependencyError, SettingError

    try:
        from watchfiles import watch
    except ModuleNotFoundError:
        raise MissingDependencyError("watchfiles", "--watch", "watch") from None
    if not path.exists():
        raise SettingError(f"--watch: {path} is no folder or file that could change")
    own = Path(gallery).resolve()
    for changed in watch(
        path,
        watch_filter=lambda _, changed: not Path(changed).resolve().is_relative_to(own),
        debounce=_SETTLED_MS,
        step=100,
        rust_timeout=_LOOK_MS,
        yield_on_timeout=True,
    ):
        yield bool(changed)


def _open(
    path: str, encoder: str | None, metric: str, store: str | None, source: Source
) -> Gallery:
    """Open the gallery, or create it when its folder is not there."""
    from lookalike.errors import FingerprintError, SettingError
    from lookalike.gallery.gallery import Gallery
    from lookalike.gallery.storage import gallery_exists
    from lookalike.stores.milvus.address import Address
    from lookalike.types import Metric

    chosen = Metric(metric)
    if not gallery_exists(path):
        made = _encoder(encoder, source)
        return Gallery.create(path, encoder=made, metric=chosen, store=store)
    gallery = Gallery.open(path)
    if store is not None and Address.parse(store) != gallery.address:
        raise SettingError(
            f"{path}: its rows are in {gallery.address or 'its folder'}, not in {store}; "
            f"lookalike copy {path} {store} moves them"
        )
    if encoder is not None and Path(encoder).is_dir():
        from lookalike.encoders.persistence import load_encoder

        gallery.check_fingerprint(load_encoder(Path(encoder)))
    elif encoder is not None and encoder != gallery.encoder.name:
        raise FingerprintError(
            f"{path}: made with encoder {gallery.encoder.name!r}, not {encoder!r}; make a new "
            "gallery for the other encoder"
        )
    return gallery


def _encoder(name: str | None, source: Source) -> Encoder:
    """Open an encoder for a new gallery, and see that it takes the source's images."""
    from lookalike.encoders.batching import first_image, fit_encoder
    from lookalike.encoders.persistence import load_encoder
    from lookalike.encoders.registry import usual_encoder
    from lookalike.sources.sampling import sample_images

    if name is None:
        name, kind = usual_encoder(sample_images(source, _LOOKED_AT))
        console.note(f"encoder: {name} ({kind}); lookalike encoders lists others for --encoder")
    if not Path(name).is_dir():
        return fit_encoder(name, source)
    encoder = load_encoder(Path(name))
    first_image(source, encoder)
    return encoder
