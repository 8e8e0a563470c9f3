"""lookalike index: create a gallery, or sync it with its source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli import console
from lookalike.cli.commands import message
from lookalike.cli.options import AsJson, Source
from lookalike.formatting import format_count

if TYPE_CHECKING:
    from lookalike import sources
    from lookalike.encoders.base import Encoder
    from lookalike.gallery.gallery import Gallery
    from lookalike.gallery.ingest import Runner
    from lookalike.gallery.sync import SyncReport

_RUNNERS = ("local", "ray")

_SETTLED_MS = 1_000
"""Milliseconds without a change after which changed files are indexed."""

_POLL_MS = 500

_LISTED = 20
"""Failures that are listed, at most."""

_SAMPLED = 50
"""Images that the default encoder is chosen by."""


def command(
    gallery: Annotated[
        str,
        typer.Argument(
            metavar="GALLERY",
            help="Gallery folder, e.g. photos.gallery, or milvus://HOST:PORT/NAME.",
        ),
    ],
    source: Source,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Encoder name or folder; see lookalike encoders.",
            show_default="by image type",
        ),
    ] = None,
    metric: Annotated[
        str, typer.Option(metavar="METRIC", help="Distance of a new gallery: cosine or l2.")
    ] = "cosine",
    store: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Keep the rows of a new gallery at milvus://HOST:PORT/NAME."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Source name.", show_default="folder name"),
    ] = None,
    relocate: Annotated[
        bool, typer.Option("--relocate", help="Update the location of a moved source folder.")
    ] = False,
    allow_removals: Annotated[
        bool,
        typer.Option(
            "--allow-removals", help="Allow removing more than half of the indexed images."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change without writing.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep running and re-index on changes.")
    ] = False,
    runner: Annotated[
        str, typer.Option(metavar="NAME", help="Where to encode: local or ray (a Ray cluster).")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Ray cluster, or auto.", show_default="this machine"
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Ray workers.", show_default="all cores or GPUs"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a gallery from images, or sync it with its source.

    New and changed images are encoded, moved files are recognized, deleted ones
    are removed. Interrupted runs resume where they stopped.

      lookalike index photos.gallery photos
      lookalike index photos.gallery photos --watch
      lookalike index shop.gallery products.csv --encoder hog-fine+color

    JSON: added, updated, moved, removed, unchanged, failed and seconds.

    Exit code 1: some images failed; each is listed.
    """
    from lookalike.errors import SettingError
    from lookalike.gallery.storage import gallery_exists
    from lookalike.gallery.sync import SyncReport
    from lookalike.sources import open_source

    if watch and dry_run:
        raise SettingError("{watch} and {dry_run} exclude each other", watch=True, dry_run=True)
    chosen_runner = _runner(runner, address, workers)

    def sync() -> None:
        nonlocal relocate
        with console.progress() as on_progress:
            opened = open_source(source, on_progress, empty=allow_removals, name=name)
            if dry_run and not gallery_exists(gallery):
                report = SyncReport(len(opened), 0, 0, 0, 0, tuple(opened.problems), 0.0)
                rows = None
            else:
                into = _open(gallery, encoder, metric, store, opened)
                report = into.sync(
                    opened,
                    allow_removals=allow_removals,
                    relocate=relocate,
                    dry_run=dry_run,
                    on_progress=on_progress,
                    runner=chosen_runner,
                )
                rows = len(into)
        relocate = False  # once is enough, however long a watch goes on
        if as_json:
            console.print_json(report.as_dict(), one_line=watch)
        else:
            _print(gallery, report, rows, dry_run=dry_run)
        failures.append(len(report.failed))

    failures: list[int] = []
    try:
        changes = _changes(Path(source), gallery) if watch else iter(())
        next(changes, None)  # from here on no change is missed
        sync()
        if watch:
            console.note(f"watching {source}; Ctrl-C to stop")
            _sync_on_changes(changes, sync)
    except KeyboardInterrupt:
        console.note("interrupted; run the same command again to resume")
        raise typer.Exit(130) from None
    if failures[-1]:
        raise typer.Exit(1)


def _sync_on_changes(changes: Iterator[bool], sync: Callable[[], None]) -> None:
    """Sync after every change; what fails is noted and tried again after the next one."""
    from lookalike.errors import LookalikeError

    for changed in changes:
        try:
            if changed:
                sync()
        except LookalikeError as error:
            console.note(f"not indexed, still watching: {message(error)}")


def _runner(name: str, address: str | None, workers: int | None) -> Runner | None:
    """Return where images are encoded; None for this process."""
    from lookalike.errors import SettingError, UnknownNameError

    if name not in _RUNNERS:
        raise UnknownNameError("runner", name, _RUNNERS)
    if name == "local":
        if address is not None or workers is not None:
            raise SettingError(
                "{address} and {workers} need {runner}", address=None, workers=None, runner="ray"
            )
        return None
    console.need("ray", "--runner ray", "scale")
    from lookalike.gallery.ray_runner import RayRunner

    return RayRunner(address, workers)


def _print(path: str, report: SyncReport, rows: int | None, *, dry_run: bool) -> None:
    total = "" if rows is None else f"{format_count(rows, 'row')}; "
    would = "dry run, nothing written: " if dry_run else ""
    print(
        f"{path}: {total}{would}{report.added:,} added, {report.updated:,} updated, "
        f"{report.moved:,} moved, {report.removed:,} removed, {report.unchanged:,} unchanged, "
        f"{len(report.failed):,} failed, in {report.seconds:.1f} s"
    )
    for failure in report.failed[:_LISTED]:
        console.note(f"failed: {failure.uri}: {failure.reason}")
    if len(report.failed) > _LISTED:
        console.note(f"... and {len(report.failed) - _LISTED:,} more; --json lists them all")


def _changes(path: Path, gallery: str) -> Iterator[bool]:
    """Yield, every half second, whether a file or something in a folder has changed.

    What the gallery itself writes does not count, should it be in that folder.
    """
    from lookalike.errors import MissingDependencyError, SettingError

    try:
        from watchfiles import watch
    except ModuleNotFoundError:
        raise MissingDependencyError("watchfiles", "--watch", "watch") from None
    if not path.exists():
        raise SettingError("{watch} needs a folder or file; there is no " + str(path), watch=True)
    own = Path(gallery).resolve()
    for changed in watch(
        path,
        watch_filter=lambda _, changed: not Path(changed).resolve().is_relative_to(own),
        debounce=_SETTLED_MS,
        step=100,
        rust_timeout=_POLL_MS,
        yield_on_timeout=True,
    ):
        yield bool(changed)


def _open(
    path: str, encoder: str | None, metric: str, store: str | None, source: sources.Source
) -> Gallery:
    """Open the gallery, or create it."""
    from lookalike.errors import FingerprintError, SettingError
    from lookalike.gallery.gallery import Gallery
    from lookalike.gallery.storage import gallery_exists
    from lookalike.stores.milvus.address import Address
    from lookalike.types import Metric

    chosen = Metric(metric)
    if not gallery_exists(path):
        opened = _encoder(encoder, source)
        return Gallery.create(path, encoder=opened, metric=chosen, store=store)
    gallery = Gallery.open(path)
    if store is not None and Address.parse(store) != gallery.address:
        raise SettingError(
            f"{path}: its rows are in {gallery.address or 'its folder'}, not in {store}; "
            f"to move them: lookalike copy {path} {store}"
        )
    if encoder is not None and Path(encoder).is_dir():
        from lookalike.encoders.persistence import load_encoder

        gallery.check_fingerprint(load_encoder(Path(encoder)))
    elif encoder is not None and encoder != gallery.encoder.name:
        raise FingerprintError(
            f"{path}: made with encoder {gallery.encoder.name!r}, not {encoder!r}; create a "
            "new gallery for the other encoder"
        )
    return gallery


def _encoder(name: str | None, source: sources.Source) -> Encoder:
    """Open an encoder for a new gallery, and check that it takes the source's images."""
    from lookalike.encoders.batching import check_first_image, fit_encoder
    from lookalike.encoders.persistence import load_encoder
    from lookalike.encoders.registry import default_encoder
    from lookalike.sources.sampling import sample_images

    if name is None:
        name, kind = default_encoder(sample_images(source, _SAMPLED))
        console.note(f"encoder: {name} ({kind}); for others: lookalike encoders")
    if not Path(name).is_dir():
        return fit_encoder(name, source)
    encoder = load_encoder(Path(name))
    check_first_image(source, encoder)
    return encoder
