"""lookalike index: create a gallery, or sync it with its source."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.cli import console
from lookalike.cli.commands import message
from lookalike.cli.options import AsJson, OptionalSource
from lookalike.formatting import format_count, printable

if TYPE_CHECKING:
    from lookalike import sources
    from lookalike.gallery.gallery import Gallery
    from lookalike.gallery.ingest import Runner
    from lookalike.gallery.sync import SyncReport
    from lookalike.types import ProgressCallback

_RUNNERS = ("local", "ray")

_SETTLED_MS = 1_000
"""Milliseconds without a change after which changed files are indexed."""

_POLL_MS = 500


def command(
    gallery: Annotated[
        str,
        typer.Argument(
            metavar="GALLERY",
            help="Gallery folder, e.g. photos.gallery, or milvus://HOST:PORT/NAME.",
        ),
    ],
    source: OptionalSource = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Encoder name or folder; see lookalike encoders.",
            show_default="by image type",
        ),
    ] = None,
    metric: Annotated[
        str, typer.Option(metavar="METRIC", help="Distance (new gallery): cosine or l2.")
    ] = "cosine",
    store: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Store rows of a new gallery at milvus://HOST:PORT/NAME."
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
    rehash: Annotated[
        bool,
        typer.Option("--rehash", help="Read files again whose size and time are unchanged."),
    ] = False,
    restore_removed: Annotated[
        bool,
        typer.Option("--restore-removed", help="Add images again that were removed before."),
    ] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Take only matching images (repeatable)."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Leave out matching images (repeatable)."),
    ] = None,
    pages: Annotated[
        str | None,
        typer.Option(
            metavar="PAGES", help="Pages of a file: first, or all as items.", show_default="first"
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="LO,HI",
            help="Values shown black and white, above 8 bits.",
            show_default="from the file",
        ),
    ] = None,
    max_megapixels: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="Largest image, or none.", show_default="what fits in memory"
        ),
    ] = None,
    strict: Annotated[
        bool | None,
        typer.Option("--strict/--no-strict", help="Refuse truncated and damaged images."),
    ] = None,
    allow_private_urls: Annotated[
        bool | None,
        typer.Option(
            "--allow-private-urls/--public-urls", help="Fetch images from private networks too."
        ),
    ] = None,
    exif: Annotated[
        bool | None,
        typer.Option("--exif/--no-exif", help="Add date, camera and exposure from EXIF."),
    ] = None,
    gps: Annotated[
        bool | None,
        typer.Option("--gps/--no-gps", help="Add latitude and longitude from EXIF."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep running and re-index on changes.")
    ] = False,
    ann: Annotated[
        bool | None,
        typer.Option(
            "--ann/--no-ann", help="Build an approximate index (100,000 images and more)."
        ),
    ] = None,
    runner: Annotated[
        str, typer.Option(metavar="NAME", help="Where to encode: local or ray.")
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

    New and changed images are encoded, moved files are recognized, rows of deleted
    files are removed. What is not taken is counted, with its reason. Interrupted
    runs resume where they stopped. --include, --exclude, --pages, --window,
    --max-megapixels, --strict, --allow-private-urls, --exif and --gps are kept with
    the source for the next time. Without SOURCE, a gallery is synced with all of its sources;
    of a folder of images, the gallery is FOLDER.gallery in the current folder.

      lookalike index photos.gallery photos
      lookalike index photos.gallery photos --watch
      lookalike index photos.gallery photos --exclude thumbs --exclude '*.gif'
      lookalike index photos.gallery photos --exif
      lookalike index shop.gallery products.csv --encoder hog-fine+color
      lookalike index photos.gallery
      lookalike index photos.gallery --ann

    With --ann, search is a few times as fast in over 100,000 images and may miss
    neighbors: the recall is measured. Later runs keep the index up to date.

    JSON: added, updated, moved, removed, unchanged, kept, failed, skipped,
    skipped_examples, notes and seconds; without SOURCE a line for each source, and
    with --ann a last line with index and search.

    Exit code 1: some images failed; each is listed.
    """
    from lookalike.errors import SettingError

    _check_modes(watch=watch, dry_run=dry_run, ann=ann)
    options = _options(include, exclude, pages, window, max_megapixels, strict)
    flags = {"allow_private_urls": allow_private_urls, "exif": exif, "gps": gps}
    options |= {name: value for name, value in flags.items() if value is not None}
    of_source = {"name": name, "relocate": relocate or None, **dict.fromkeys(options, True)}
    of_new = {"encoder": encoder, "store": store}
    path, sources = _sources(gallery, source, {**of_source, **of_new}, ann=ann is not None)
    run = _Run(
        path,
        encoder=encoder,
        metric=metric,
        store=store,
        name=name,
        relocate=relocate,
        options=options,
        allow_removals=allow_removals,
        dry_run=dry_run,
        rehash=rehash,
        restore_removed=restore_removed,
        runner=_runner(runner, address, workers),
        json_lines=as_json and (watch or source is None or ann is not None),
        as_json=as_json,
    )
    try:
        if not watch:
            run.sync_all(sources)
            if ann is not None:
                run.index(build=ann)
        else:
            if len(sources) != 1:
                raise SettingError("{watch} needs {source}", watch=True, source=None)
            changes = _changes(Path(sources[0]), path)
            next(changes, None)  # from here on no change is missed
            run.sync(sources[0])
            if ann is not None:
                run.index(build=ann)
            run.restore_removed = False  # what is removed from now on stays removed
            console.note(f"watching {printable(sources[0])}; Ctrl-C to stop")
            _sync_on_changes(changes, lambda: run.sync(sources[0]))
    except KeyboardInterrupt:
        console.note("interrupted; run the same command again to resume")
        raise typer.Exit(130) from None
    if run.has_failures:
        raise typer.Exit(1)


def _check_modes(*, watch: bool, dry_run: bool, ann: bool | None) -> None:
    """Check the options that say what is done, before anything is.

    Raises:
        SettingError: two exclude each other.
        MissingDependencyError: the package of the approximate index is missing.
    """
    from lookalike.errors import SettingError, require

    if watch and dry_run:
        raise SettingError("{watch} and {dry_run} exclude each other", watch=True, dry_run=True)
    if ann is not None and dry_run:
        raise SettingError("{ann} and {dry_run} exclude each other", ann=True, dry_run=True)
    if ann:
        require("usearch", "an approximate index", "ann")


def _sources(
    gallery: str, source: str | None, options: dict[str, Any], *, ann: bool
) -> tuple[str, Sequence[str]]:
    """Return the gallery and the sources to sync it with, of one argument or two.

    With ``ann``, a gallery need not have any.

    Raises:
        LookalikeError: the arguments are swapped, or the only one is neither a gallery nor a source
            of images, or options are for the source or for a new gallery and there is none.
    """
    from lookalike.errors import InputError, SettingError
    from lookalike.gallery.gallery import Gallery
    from lookalike.sources.path_kinds import (
        PathKind,
        gallery_name,
        kind_of_path,
        no_gallery_error,
    )
    from lookalike.stores.registry import is_address

    kind = PathKind.GALLERY if is_address(gallery) else kind_of_path(gallery)
    is_source = kind in (PathKind.IMAGES, PathKind.SOURCE)
    if source is not None:
        meant = PathKind.GALLERY if is_address(source) else kind_of_path(source)
        is_new = meant is PathKind.MISSING and not source.startswith("dataset:")
        if is_source and (meant is PathKind.GALLERY or (is_new and source.endswith(".gallery"))):
            raise InputError(
                f"{gallery}: is a source of images; the gallery comes first: lookalike index "
                f"{shlex.quote(source)} {shlex.quote(gallery)}"
            )
        return gallery, [source]
    if is_source or kind is PathKind.FOLDER:
        name = gallery_name(gallery)
        state = "syncing" if Path(name).exists() else "creating"
        console.note(f"{state} {printable(name)}; another one: lookalike index GALLERY SOURCE")
        return name, [gallery]
    if kind is not PathKind.GALLERY:
        raise no_gallery_error(gallery)
    for option, value in options.items():
        if value is not None:
            raise SettingError(f"{{{option}}} needs {{source}}", **{option: None, "source": None})
    recorded = list(Gallery.open(gallery).sources.values())
    if not recorded and not ann:
        raise InputError(
            f"{gallery}: has no source to sync with; add one: lookalike index "
            f"{shlex.quote(gallery)} SOURCE"
        )
    return gallery, recorded


@dataclass(kw_only=True, slots=True)
class _Run:
    """Syncs a gallery with its sources, one after another."""

    path: str = field(kw_only=False)
    encoder: str | None
    metric: str
    store: str | None
    name: str | None
    relocate: bool
    options: dict[str, Any]
    allow_removals: bool
    dry_run: bool
    rehash: bool
    restore_removed: bool
    runner: Runner | None
    json_lines: bool
    as_json: bool
    has_failures: bool = False

    def sync_all(self, sources: Sequence[str]) -> None:
        """Sync with each source; one of several that cannot be read is noted.

        Raises:
            SourceError: none can be read.
        """
        from lookalike.errors import SourceError

        errors = []
        for source in sources:
            try:
                self.sync(source, several=len(sources) > 1)
            except SourceError as error:
                errors.append(error)
                if len(errors) == len(sources):
                    raise
                console.note(f"failed: {message(error)}")
        self.has_failures = self.has_failures or bool(errors)

    def sync(self, source: str, *, several: bool = False) -> None:
        """Create the gallery if there is none, sync it with a source, and print what was done."""
        from lookalike.gallery.gallery import Gallery
        from lookalike.gallery.storage import gallery_exists
        from lookalike.gallery.sync import SyncReport

        with console.progress() as on_progress:
            into = Gallery.open(self.path) if gallery_exists(self.path) else None
            opened = self._open_source(into, source, on_progress)
            if into is None and self.dry_run:
                failed, skipped = tuple(opened.problems), tuple(opened.skipped)
                report = SyncReport(len(opened), 0, 0, 0, 0, failed, 0.0, skipped=skipped)
                rows = None
            else:
                into = _open(self.path, into, self.encoder, self.metric, self.store, opened)
                report = into.sync(
                    opened,
                    allow_removals=self.allow_removals,
                    relocate=self.relocate,
                    dry_run=self.dry_run,
                    rehash=self.rehash,
                    restore_removed=self.restore_removed,
                    progress=on_progress,
                    runner=self.runner,
                )
                rows = len(into)
        self.relocate = False  # once is enough, however long a watch goes on
        if self.as_json:
            named = {"source": opened.name} if several else {}
            console.print_json(named | report.as_dict(), one_line=self.json_lines)
        else:
            shown = f"{self.path}, {opened.name}" if several else self.path
            _print(shown, report, rows, dry_run=self.dry_run)
            if into is not None and not self.dry_run:
                _suggest_ann(into)
        self.has_failures = bool(report.failed)

    def index(self, *, build: bool) -> None:
        """Build or delete the approximate index, and print what it gains."""
        from lookalike.errors import InputError
        from lookalike.gallery import ann_index
        from lookalike.gallery.gallery import Gallery
        from lookalike.gallery.recall import measure_recall

        gallery = Gallery.open(self.path)
        if not build:
            dropped = gallery.drop_ann_index()
            if self.as_json:
                console.print_json({"index": None}, one_line=True)
            else:
                console.note("approximate index deleted" if dropped else "no approximate index")
            return
        try:
            ann_index.check(gallery.store, gallery.metric)
        except InputError as error:  # of a gallery that needs none
            console.note(f"no approximate index: {message(error)}")
            return
        if not ann_index.facts(gallery.store, gallery.metric):
            seconds, size = ann_index.estimate(len(gallery), gallery.store.dim)
            console.note(
                f"building an approximate index of {format_count(len(gallery), 'image')}: about "
                f"{max(1, round(seconds / 60))} min by one core, {console.size(size)}"
            )
        with console.progress() as on_progress:
            facts = gallery.build_ann_index(progress=on_progress)
        measured = measure_recall(gallery)
        if self.as_json:
            console.print_json({"index": facts, "search": measured}, one_line=True)
        else:
            console.note(
                f"approximate index of {format_count(facts['rows'], 'image')}, "
                f"{console.size(facts['bytes'])}: recall@10 {measured['recall@10']:.3f} at p50 "
                f"{measured['p50_ms']:.2f} ms, exact {measured['p50_ms_exact']:.2f} ms"
            )

    def _open_source(
        self, gallery: Gallery | None, source: str, on_progress: ProgressCallback
    ) -> sources.Source:
        """Open a source with its options, and with those that the gallery has of it."""
        from lookalike.sources import SourceOptions, open_source

        if gallery is not None:
            return gallery.open_source(
                source, on_progress, empty=self.allow_removals, name=self.name, options=self.options
            )
        return open_source(
            source,
            on_progress,
            empty=self.allow_removals,
            name=self.name,
            options=SourceOptions.from_dict(self.options),
        )


def _options(
    include: list[str] | None,
    exclude: list[str] | None,
    pages: str | None,
    window: str | None,
    max_megapixels: str | None,
    strict: bool | None,
) -> dict[str, Any]:
    """Return the options of the source that are given, as they are recorded."""
    given = {
        "include": include or None,
        "exclude": exclude or None,
        "pages": pages,
        "window": None if window is None else _window(window),
        "max_megapixels": None if max_megapixels is None else _megapixels(max_megapixels),
        "strict": strict,
    }
    return {name: value for name, value in given.items() if value is not None}


def _window(text: str) -> list[float]:
    """Return the two numbers of --window."""
    from lookalike.errors import SettingError

    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low = high = 0.0
    if not float("-inf") < low < high < float("inf"):
        raise SettingError("{window} must be two increasing numbers, LO,HI", window=text)
    return [low, high]


def _megapixels(text: str) -> float | str:
    """Return the number of --max-megapixels, or ``none``."""
    from lookalike.errors import SettingError

    if text == "none":
        return text
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not 0 < limit < float("inf"):
        raise SettingError(
            "{max_megapixels} must be a number above 0, or none", max_megapixels=text
        )
    return limit


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
    from lookalike.errors import SettingError, UnknownNameError, require

    if name not in _RUNNERS:
        raise UnknownNameError("runner", name, _RUNNERS)
    if name == "local":
        if address is not None or workers is not None:
            raise SettingError(
                "{address} and {workers} need {runner}", address=None, workers=None, runner="ray"
            )
        return None
    require("ray", "the Ray runner", "scale")
    from lookalike.gallery.ray_runner import RayRunner

    return RayRunner(address, workers)


def _print(path: str, report: SyncReport, rows: int | None, *, dry_run: bool) -> None:
    if report.relocated:
        console.note(f"the source has moved here from {report.relocated}; its rows stay")
    total = "" if rows is None else f"{format_count(rows, 'row')}; "
    would = "dry run, nothing written: " if dry_run else ""
    print(f"{printable(path)}: {total}{would}{report.summary()}")
    console.note_not_taken(report.skipped)
    if report.kept:
        console.note(
            f"kept: {format_count(report.kept, 'row')} whose file exists but is not read now"
        )
    for note, count in report.notes.items():
        console.note(f"note: {format_count(count, 'image')}: {note}")
    console.note_failed(report.failed, more="--json lists them all")


def _suggest_ann(gallery: Gallery) -> None:
    """Suggest an approximate index for a very large gallery in a folder."""
    from lookalike.gallery import ann_index

    rows = len(gallery)
    is_large = rows >= ann_index.SUGGESTED_ROWS and gallery.address is None
    if is_large and not ann_index.facts(gallery.store, gallery.metric):
        console.note(
            f"exact search reads all {rows:,} rows; an approximate index is faster: lookalike "
            f"index {shlex.quote(str(gallery.path))} --ann"
        )


def _changes(path: Path, gallery: str) -> Iterator[bool]:
    """Yield, every half second, whether a file or something in a folder has changed.

    What the gallery itself writes does not count, should it be in that folder.
    """
    from lookalike.errors import SettingError, require

    require("watchfiles", "--watch", "watch")
    from watchfiles import watch

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
    path: str,
    gallery: Gallery | None,
    encoder: str | None,
    metric: str,
    store: str | None,
    source: sources.Source,
) -> Gallery:
    """Create the gallery if there is none, or check that the options fit it."""
    from lookalike.errors import FingerprintError, SettingError
    from lookalike.gallery.encoder_choice import better_encoder, default_for
    from lookalike.gallery.gallery import Gallery
    from lookalike.stores.registry import parse_address
    from lookalike.types import Metric

    chosen = Metric(metric)
    if gallery is None:
        if encoder is None:
            encoder, kind = default_for(source)
            console.note(f"encoder: {encoder} ({kind}); {better_encoder(encoder)}")
        return Gallery.create(path, encoder=encoder, images=source, metric=chosen, store=store)
    if store is not None and parse_address(store) != gallery.address:
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
