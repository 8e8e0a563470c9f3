"""lookalike search: similar images, in a gallery or in a folder of images."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.cli import console
from lookalike.cli.commands import message
from lookalike.cli.options import K, MetricName
from lookalike.cli.output_files import check_output
from lookalike.cli.queries import STDIN, OneQuery, Queries, read_queries
from lookalike.cli.results import (
    Collector,
    CsvRows,
    JsonLines,
    Output,
    PathLines,
    Paths,
    Result,
    Table,
    open_in_viewer,
    without_queries,
)
from lookalike.cli.terminal_images import AUTO, OFF, choose_protocol
from lookalike.formatting import format_count, printable

if TYPE_CHECKING:
    from lookalike.errors import InputError
    from lookalike.gallery import gallery as galleries
    from lookalike.search.hits import Hits
    from lookalike.sources import Skipped
    from lookalike.types import Failure

_ALL = "all images"
"""Names a listing of all images in results."""

_GALLERY_SUFFIX = ".gallery"
"""A folder of such a name is a gallery, or what is left of one."""

_OF_QUERIES = (
    *("metric", "max_distance", "min_similarity", "exact", "box", "foreground", "multi_crop"),
    "rerank",
)
"""Options of searches for queries."""

_BATCH = 16
"""Queries that are encoded together, at most; their results are printed before the next ones."""


def command(
    gallery: Annotated[
        str,
        typer.Argument(
            metavar="GALLERY", help="Gallery, folder of images, or milvus://HOST:PORT/NAME."
        ),
    ],
    query: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUERY",
            help="Image, folder of images, URL, - for stdin, words, or dataset:NAME/SPLIT#INDEX.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORDS",
            help="Text query; without an image-text encoder: names and metadata.",
        ),
    ] = None,
    keywords: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS",
            help="Full-text metadata search: alone, or fused with the image ranking.",
        ),
    ] = None,
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="ID", help="Use an indexed image as the query, by ID."),
    ] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGE", help="Positive example, a file or ID (repeatable)."),
    ] = None,
    unlike: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGE", help="Negative example, a file or ID (repeatable)."),
    ] = None,
    k: K = 7,
    offset: Annotated[
        int, typer.Option(metavar="N", help="Leave out the first N results, for further ones.")
    ] = 0,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Encoder for a folder of images.",
            show_default="by image type",
        ),
    ] = None,
    metric: MetricName = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="FILTER",
            help="Filter by metadata, e.g. \"year >= 2020 and tag = 'a'\"; alone, list the images.",
        ),
    ] = None,
    sort: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="List images in an order: name, date, source, id or a column; -KEY: descending.",
        ),
    ] = None,
    max_distance: Annotated[
        float | None, typer.Option(metavar="D", help="Maximum distance.")
    ] = None,
    min_similarity: Annotated[
        float | None,
        typer.Option(metavar="S", help="Minimum cosine similarity (1 = identical)."),
    ] = None,
    include_self: Annotated[
        bool, typer.Option("--include-self", help="Keep the query's own file in the results.")
    ] = False,
    box: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="Crop the query, in pixels.")
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Crop the query to its main object.")
    ] = False,
    multi_crop: Annotated[
        bool,
        typer.Option("--multi-crop", help="Also search with 13 crops: small objects in clutter."),
    ] = False,
    rerank: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="aqe, dba, k-reciprocal, diffusion or geometric; or A+B.",
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Exact search; skip the approximate index.")
    ] = False,
    allow_private_urls: Annotated[
        bool,
        typer.Option("--allow-private-urls", help="Fetch queries from private networks too."),
    ] = False,
    paths: Annotated[
        bool, typer.Option("--paths", help="Output the paths of the results, one a line.")
    ] = False,
    null: Annotated[
        bool, typer.Option("-0", "--null", help="Like --paths, each followed by a NUL byte.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Output CSV.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Output JSON Lines, one per query.")
    ] = False,
    preview: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Images in the terminal: auto, kitty, iterm2, sixel or off."
        ),
    ] = AUTO,
    image: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save a contact sheet of the results (PNG)."),
    ] = None,
    open_sheet: Annotated[
        bool, typer.Option("--open", help="Open a contact sheet in the image viewer.")
    ] = False,
    copy_to: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Copy the results, named by rank."),
    ] = None,
    link_to: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Link the results, named by rank."),
    ] = None,
    matches: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save the matching points of the first result (PNG)."),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Overwrite copies that exist, and files that are inputs."),
    ] = False,
) -> None:
    """Find the images most similar to each query, nearest first.

      lookalike search photos query.jpg
      lookalike search photos "a red bicycle" -k 20 --encoder clip-b32
      lookalike search photos new-photos --csv > similar.csv
      lookalike search photos.gallery query.jpg --where "year >= 2020"
      lookalike search photos.gallery --like a.jpg --like b.jpg --unlike c.jpg
      lookalike search photos.gallery --where "label = 'cat'" --sort=-date -k 50

    A folder of images is indexed on demand: its gallery is in the cache, and
    brought up to date each time. "lookalike photos query.jpg" is the short form.

    Without a query, --where, --keywords and --sort list the images that match:
    all of them in pages of -k, with --offset.

    JSON line: "query", "ranked_by", "note", "total" and "hits", each with rank,
    id, uri, distance, similarity and metadata.

    Exit code 1: some queries or images could not be read, or some results not
    copied; each is listed.
    """
    outputs = _Outputs(
        _format(paths=paths, null=null, as_csv=as_csv, as_json=as_json, preview=preview),
        _collector(copy_to, link_to, force=force),
        image,
        open_sheet,
        matches,
        force,
        is_wanted=any((paths, null, as_csv, as_json, image, open_sheet, copy_to, link_to, matches)),
    )
    options: dict[str, Any] = {
        "k": k,
        "offset": offset,
        "metric": metric,
        "where": where,
        "max_distance": max_distance,
        "min_similarity": min_similarity,
        "exact": exact,
        "box": None if box is None else _box(box),
        "foreground": foreground,
        "multi_crop": multi_crop,
        "rerank": rerank,
        "keywords": keywords,
    }
    is_combined = bool(like or unlike)
    has_query = bool(query or ids or text or is_combined)
    is_listing = not has_query and (sort or where is not None or keywords is not None)
    is_folder = _is_folder(gallery, query or ())
    if not (has_query or is_listing) and (outputs.is_wanted or offset or not is_folder):
        raise _no_query(gallery)
    searched = None if is_folder else _open_gallery(gallery, encoder)
    queries = read_queries(
        [] if is_combined else query or [],
        folder=gallery,
        allow_private_urls=allow_private_urls,
    )
    if queries.failures and not (
        len(queries) or ids or text or is_combined or keywords is not None
    ):
        raise queries.failures[0]
    if queries.are_words:
        whole = " ".join(query or ())
        console.note(f'note: each word is a query of its own; one query: "{printable(whole)}"')
    _check_options(options, sort, has_query=has_query)
    try:
        searched = searched or _open_folder(gallery, encoder)
        if not (has_query or is_listing):
            _introduce(searched)
            _finish(searched.failures, [])
            return
        search = _Search(searched.gallery, options, include_self=include_self)
        if is_combined:
            results: Iterable[Result] = [search.combined(query, ids, (like, unlike, text))]
        else:
            results = search.each(queries, ids or [], text or [], sort)
        count = 1 if is_combined else len(queries) + len(ids or []) + len(text or [])
        outputs.write(results, searched, max(1, count), query or ())
    except KeyboardInterrupt:
        done = f" after {format_count(outputs.count, 'query', 'queries')}" if outputs.count else ""
        console.note(f"interrupted{done}; run the same command again, indexed images are kept")
        raise typer.Exit(130) from None
    failures = [*queries.failures, *search.failures]
    if not outputs.count and failures:
        raise failures[0]
    if search.left_out and not (outputs.rows or offset):
        console.note("the only result is the query itself; --include-self shows it")
    if k > len(searched.gallery) and outputs.rows:
        rows = format_count(len(searched.gallery), "row")
        console.note(f"fewer than {k} results: the gallery has only {rows}")
    _finish(searched.failures, failures, failed=outputs.failed)


def _box(text: str) -> Any:
    from lookalike.images.foreground import Box

    return Box.parse(text)


@dataclass(frozen=True, slots=True)
class _Searched:
    """What is searched.

    Args:
        typed: its path as it was typed.
        gallery: its rows.
        paths: how locations are written.
        failures: images of a folder that could not be indexed.
        summary: what has changed in a folder.
        skipped: what a folder has and is not searched.
    """

    typed: str
    gallery: galleries.Gallery
    paths: Paths
    failures: Sequence[Failure] = ()
    summary: str = ""
    skipped: Sequence[Skipped] = ()


def _check_options(
    options: Mapping[str, Any], sort: Sequence[str] | None, *, has_query: bool
) -> None:
    """Check the options of a search before a folder is indexed for it, which may take long.

    Raises:
        LookalikeError: as the search would.
    """
    from lookalike.search.ordering import sort_keys
    from lookalike.search.region import QueryRegion
    from lookalike.search.request import Example, Query, SearchRequest

    if sort:
        sort_keys(sort)
        _check_no_ranking(options, has_query=has_query)
    fields = dict(options)
    region = [fields.pop(name) for name in ("box", "foreground", "multi_crop")]
    QueryRegion.of(region[0], foreground=region[1], multi_crop=region[2])
    query = Query((Example(text="any"),)) if has_query else Query()
    if sort and fields["keywords"] is None and fields["where"] is None:
        fields["keywords"] = "any"
    if has_query or fields["where"] is not None or fields["keywords"] is not None:
        SearchRequest(queries=(query,), **fields)


def _check_no_ranking(options: Mapping[str, Any], *, has_query: bool) -> None:
    """Check that images are listed in an order, not ranked.

    Raises:
        SettingError: there is a query, or an option of one.
    """
    from lookalike.errors import SettingError

    if has_query:
        raise SettingError(
            "{sort} lists images without a query; the results of a query are ordered by distance: "
            "leave out {sort} or the query",
            sort=None,
        )
    for name in _OF_QUERIES:
        if options[name] not in (None, False):
            raise SettingError(
                f"{{{name}}} needs a query, and {{sort}} lists images without one",
                **{name: None},
                sort=None,
            )


def _is_folder(path: str, queries: Sequence[str]) -> bool:
    """Return whether a path is that of a folder to index, not of a gallery.

    Raises:
        ArtifactError: it is neither.
        InputError: it is an image, as where the arguments are swapped.
    """
    from lookalike.artifacts import GALLERY_MANIFEST
    from lookalike.errors import InputError
    from lookalike.files import is_url
    from lookalike.stores.addresses import is_address

    if (is_address(path) and not is_url(path)) or (Path(path) / GALLERY_MANIFEST).is_file():
        return False
    from lookalike.sources.path_kinds import PathKind, kind_of_path, no_gallery_error

    kind = kind_of_path(path)
    if kind is PathKind.IMAGE or is_url(path) or path == STDIN:
        folders = [each for each in queries if Path(each).is_dir()]
        where = shlex.quote(folders[0]) if folders else "FOLDER"
        raise InputError(
            f"{path}: is an image; the folder or gallery to search comes first: "
            f"lookalike search {where} {shlex.quote(path)}"
        )
    is_folder = kind in (PathKind.IMAGES, PathKind.FOLDER) and not path.endswith(_GALLERY_SUFFIX)
    if not is_folder and kind is not PathKind.GALLERY:
        raise no_gallery_error(path)
    return is_folder


def _open_folder(path: str, encoder: str | None) -> _Searched:
    """Bring the cached gallery of a folder of images up to date."""
    from lookalike.gallery.on_demand import index_on_demand

    with console.progress() as on_progress:
        indexed = index_on_demand(path, encoder=encoder, progress=on_progress)
    report = indexed.report
    changed = report.added or report.updated or report.moved or report.removed
    summary = report.summary() if changed else ""
    paths = Paths(str(Path(path).expanduser().resolve()), path)
    skipped = [each for each in report.skipped if changed or each.is_installable]
    return _Searched(path, indexed.gallery.snapshot(), paths, report.failed, summary, skipped)


def _open_gallery(path: str, encoder: str | None) -> _Searched:
    """Open a gallery.

    Raises:
        SettingError: an encoder is chosen, and the gallery has another one.
    """
    from lookalike.errors import SettingError
    from lookalike.gallery.gallery import Gallery

    gallery = Gallery.open(path).snapshot()
    if encoder is not None and encoder != gallery.encoder.name:
        raise SettingError(
            f"{{encoder}} is for folders of images; {path} is a gallery of encoder "
            f"{gallery.encoder.name!r}",
            encoder=encoder,
        )
    return _Searched(path, gallery, Paths())


def _no_query(path: str) -> InputError:
    """Return the error that there is nothing to search for."""
    from lookalike.errors import InputError

    return InputError(
        "no query: pass an image, --text, --like, --keywords, --id, --where or --sort, as in "
        f"lookalike search {shlex.quote(path)} query.jpg"
    )


def _introduce(searched: _Searched) -> None:
    """Say what a folder has, and what to type next."""
    rows = len(searched.gallery)
    state = searched.summary or "up to date"
    typed = printable(searched.typed)
    encoder = searched.gallery.info()["encoder"]
    print(f"{typed}: {format_count(rows, 'image')}, encoder {encoder}; {state}")
    console.note_not_taken(searched.skipped)
    folder = shlex.quote(searched.typed)
    example = next(iter(searched.gallery.store.sample(1).records()), None)
    file = None if example is None else searched.paths.file(example.uri)
    print(f"next: lookalike {folder} {printable(shlex.quote(file or 'query.jpg'))}")
    print(f'      lookalike {folder} "words"')
    print(f"      lookalike serve {folder}")


class _Search:
    """Searches by queries one after another; those that cannot be read are failures."""

    def __init__(
        self, gallery: galleries.Gallery, options: Mapping[str, Any], *, include_self: bool
    ) -> None:
        self._gallery = gallery
        self._options = options
        self._include_self = include_self
        self.failures: list[InputError] = []
        self.left_out = 0

    def each(
        self,
        queries: Queries,
        ids: Sequence[str],
        texts: Sequence[str],
        sort: Sequence[str] | None,
    ) -> Iterator[Result]:
        """Yield the result of each query; without one, the images that match, in an order."""
        if not (queries.parts or queries.failures or ids or texts):
            yield self._listing(sort) if sort else Result(self._gallery.search(**self._options))
            return
        for batch in _batches(queries):
            if batch[0].text is not None:
                yield from self._texts([str(each.text) for each in batch])
            else:
                yield from self._images(batch)
        if ids:
            self._check_ids(ids)
            labels = [each.get("label") for each in self._gallery.store.get(ids).metadata]
            of_ids = self._gallery.search(id=list(ids), **self._options)
            yield from (Result(*pair) for pair in zip(of_ids, labels, strict=True))
        if texts:
            yield from self._texts(texts)

    def _listing(self, sort: Sequence[str]) -> Result:
        """Return the images that match, in an order."""
        import math
        from functools import partial

        from lookalike.search.hits import Hits, display_size
        from lookalike.search.ordering import sort_keys
        from lookalike.types import Hit

        where, keywords = self._options["where"], self._options["keywords"]
        listing = self._gallery.browse(where=where, keywords=keywords, sort=sort)
        start = self._options["offset"]
        items = listing[start : start + self._options["k"]]
        rows = tuple(
            Hit(rank, item.id, item.uri, math.nan, item.metadata)
            for rank, item in enumerate(items, start + 1)
        )
        reader = partial(self._gallery.read_images, reduce=display_size)
        name = keywords or where or _ALL
        metric = self._gallery.metric
        hits = Hits(name, metric, rows, None, reader, "sort", total=len(listing))
        return Result(hits, order=sort_keys(sort))

    def _check_ids(self, ids: Sequence[str]) -> None:
        """Check that there are rows with these ids.

        Raises:
            MissingRowError: there is none; the one that was meant is suggested.
        """
        from lookalike.gallery.ids import missing_row_error
        from lookalike.gallery.lookup import ids_like

        for each in ids:
            if each not in self._gallery:
                of_sources = [f"{source}:{each}" for source in self._gallery.sources]
                near = [other for other in of_sources if other in self._gallery]
                raise missing_row_error(each, near or ids_like(self._gallery.store, each))

    def combined(
        self,
        queries: Sequence[str] | None,
        ids: Sequence[str] | None,
        examples: tuple[Sequence[str] | None, ...],
    ) -> Result:
        """Search with one query of several examples: files, or IDs of indexed images, a text."""
        like, unlike = (None if names is None else self._examples(names) for names in examples[:2])
        text = examples[2]
        arguments: dict[str, Any] = {
            "query": queries or None,
            "id": ids or None,
            "like": like,
            "unlike": unlike,
            "text": text[0] if text and len(text) == 1 else text or None,
        }
        files = [
            name for name in (*(examples[0] or ()), *(examples[1] or ())) if Path(name).is_file()
        ]
        deeper = self._deeper(len(files))
        if deeper is None:
            return Result(self._gallery.search(**arguments, **self._options))
        hits = self._gallery.search(**arguments, **deeper)
        return Result(self._without(hits, files))

    def _examples(self, names: Sequence[str]) -> list[Any]:
        """Return images by id, or by file, URL or item of a data set."""
        examples: list[Any] = []
        for name in names:
            if name in self._gallery:
                examples.append(self._gallery[name])
                continue
            queries = read_queries([name])
            if queries.failures:
                raise queries.failures[0]
            examples += [name if each.image is None else each.image for each in queries]
        return examples

    def _texts(self, texts: Sequence[str]) -> Iterator[Result]:
        hits_of_texts = self._gallery.search(text=list(texts), **self._options)
        return (Result(hits) for hits in hits_of_texts)

    def _images(self, batch: Sequence[OneQuery]) -> Iterator[Result]:
        """Yield the results of images, encoded together unless one of them cannot be read."""
        from lookalike.errors import InputError

        try:
            hits_of_images = self._search([each.image for each in batch])
        except InputError as error:
            if len(batch) == 1:
                self.failures.append(error)
                return
            for each in batch:  # one by one, to know which
                yield from self._images([each])
            return
        for each, hits in zip(batch, hits_of_images, strict=True):
            yield Result(hits, each.label)

    def _search(self, images: Sequence[Any]) -> list[Hits]:
        deeper = self._deeper(1)
        if deeper is None:
            return list(self._gallery.search(list(images), **self._options))
        results = self._gallery.search(list(images), **deeper)
        return [self._without(hits, [hits.uri or ""]) for hits in results]

    def _deeper(self, files: int) -> dict[str, Any] | None:
        """Return the options of a search of which the files of a query are left out afterwards.

        None if they stay, or nothing deeper can be searched. Pages after the first one are cut out
        of the exact results, so that each follows the one before.
        """
        from lookalike.stores.base import MAX_K

        k, offset = self._options["k"], self._options["offset"]
        if self._include_self or not 0 < k + offset <= MAX_K - files:
            return None
        exact = self._options["exact"] or offset > 0
        return {**self._options, "k": offset + k + files, "offset": 0, "exact": exact}

    def _without(self, hits: Hits, files: Sequence[str]) -> Hits:
        """Return the page of hits, those of the query's own files left out."""
        page = slice(self._options["offset"], self._options["offset"] + self._options["k"])
        others, left_out = without_queries(hits, files, page)
        self.left_out += left_out
        return others


def _batches(queries: Iterable[OneQuery]) -> Iterator[list[OneQuery]]:
    """Yield runs of queries that are all images or all words."""
    batch: list[OneQuery] = []
    for query in queries:
        other = batch and (batch[0].text is None) != (query.text is None)
        if other or len(batch) == _BATCH:
            yield batch
            batch = []
        batch.append(query)
    if batch:
        yield batch


@dataclass(slots=True)
class _Outputs:
    """Everything that becomes of results: what is printed, and files.

    Args:
        new_format: makes what prints results.
        new_collector: makes what copies them.
        image: contact sheet to save.
        open_sheet: open the contact sheet.
        matches: drawing of matching points to save.
        force: overwrite what is an input.
        is_wanted: one was chosen.
    """

    new_format: Callable[[Paths], Output]
    new_collector: Callable[[Paths], Collector] | None
    image: Path | None
    open_sheet: bool
    matches: Path | None
    force: bool
    is_wanted: bool
    count: int = field(default=0, init=False)
    rows: int = field(default=0, init=False)
    failed: bool = field(default=False, init=False)
    notes: list[str] = field(default_factory=list, init=False)

    def write(
        self, results: Iterable[Result], searched: _Searched, count: int, inputs: Sequence[str]
    ) -> None:
        """Print results as they come; draw and open afterwards what is of all of them."""
        self._check_files(searched, inputs)
        if searched.summary:
            console.note(f"{printable(searched.typed)}: {searched.summary}")
        console.note_not_taken(searched.skipped)
        output = self.new_format(searched.paths)
        collector = self.new_collector and self.new_collector(searched.paths)
        if collector is not None:
            collector.open(several=count > 1)
        kept: list[Result] = []
        for result in results:
            self.count += 1
            self.rows += len(result.hits)
            output.write(result)
            self._say(result.hits.note, searched)
            if collector is not None:
                collector.write(result)
            if self.image is not None or self.open_sheet or (self.matches and not kept):
                kept.append(result)
        if collector is not None:
            collector.report()
            self.failed = not collector.is_complete
        if kept:
            self._draw(kept, searched.gallery)

    def _check_files(self, searched: _Searched, inputs: Sequence[str]) -> None:
        """Check formats, and that no input is overwritten and nothing added to what is searched."""
        if self.image is not None:
            from lookalike.search.contact_sheet import sheet_format

            sheet_format(self.image)
        for path in (self.image, self.matches):
            check_output(path, force=self.force, gallery=searched.gallery, inputs=inputs)
            if path is not None and not self.force:
                searched.paths.check_outside(path)

    def _say(self, note: str | None, searched: _Searched) -> None:
        """Say what a person should know about results, once for all of them."""
        from lookalike.search.search import split_note

        for text in split_note(note):
            if text not in self.notes:
                self.notes.append(text)
                folder = "FOLDER" if searched.paths.root is None else shlex.quote(searched.typed)
                console.note(f"note: {text.replace('FOLDER', folder)}")

    def _draw(self, results: Sequence[Result], gallery: galleries.Gallery) -> None:
        sheet = self.image
        if sheet is None and self.open_sheet:
            folder = tempfile.mkdtemp(prefix="lookalike-")
            sheet = Path(folder, "results.png")
        if sheet is not None:
            _save_contact_sheet(results, sheet)
        if sheet is not None and self.open_sheet:
            open_in_viewer(sheet)
        if self.matches is not None:
            _save_matches(gallery, results[0].hits, self.matches)


def _format(
    *, paths: bool, null: bool, as_csv: bool, as_json: bool, preview: str
) -> Callable[[Paths], Output]:
    """Return what makes the output in the one chosen format.

    Raises:
        SettingError: two formats are chosen.
        UnknownNameError: no such protocol of previews.
    """
    from lookalike.errors import SettingError

    chosen = {"paths": paths, "null": null and not paths, "as_csv": as_csv, "as_json": as_json}
    names = [name for name, is_chosen in chosen.items() if is_chosen]
    protocol = choose_protocol(preview)
    if names and preview not in (AUTO, OFF):
        names.append("preview")
    if len(names) > 1:
        raise SettingError(
            f"{{{names[0]}}} and {{{names[1]}}} exclude each other", **dict.fromkeys(names[:2])
        )
    if as_json:
        return lambda _: JsonLines()
    if as_csv:
        return CsvRows
    if paths or null:
        return lambda where: PathLines(where, null=null)
    return lambda where: Table(where, protocol)


def _collector(
    copy_to: Path | None, link_to: Path | None, *, force: bool
) -> Callable[[Paths], Collector] | None:
    """Return what makes the copies of results; None for none.

    Raises:
        SettingError: both copies and links are wanted.
    """
    from lookalike.errors import SettingError

    if copy_to is not None and link_to is not None:
        raise SettingError("{copy_to} and {link_to} exclude each other", copy_to=None, link_to=None)
    folder = copy_to or link_to
    if folder is None:
        return None
    return lambda where: Collector(folder, where, link=link_to is not None, force=force)


def _finish(
    unindexed: Sequence[Failure], failures: Sequence[InputError], *, failed: bool = False
) -> None:
    """List what could not be indexed or read; end with 1 if there is anything."""
    console.note_failed(unindexed)
    for failure in failures:
        console.note(f"failed: {message(failure)}")
    if unindexed or failures or failed:
        raise typer.Exit(1)


def _save_contact_sheet(results: Sequence[Result], path: Path) -> None:
    """Draw queries beside their hits, marked as correct or not where both have a label."""
    from lookalike.evaluation.relevance import mark_correct
    from lookalike.search.contact_sheet import contact_sheet

    sheet = contact_sheet(
        [result.hits for result in results],
        [mark_correct(result.hits, result.label) for result in results],
        query_titles=[None if result.label is None else str(result.label) for result in results],
    )
    sheet.save(path)
    console.note(f"contact sheet: {path}")


def _save_matches(gallery: galleries.Gallery, hits: Hits, path: Path) -> None:
    """Draw the local features that match between a query and its first hit."""
    from lookalike.errors import InputError
    from lookalike.images import local_features
    from lookalike.report import figures
    from lookalike.sources import open_items

    if hits.uri is None or not len(hits):
        raise InputError("{matches} needs a query image with a result", matches=None)
    query, row = (each[0].image() for each in (open_items([hits.uri]), gallery.open_rows(hits[:1])))
    match = local_features.match_features(
        local_features.extract_features(query, max_features=local_features.MAX_QUERY_FEATURES),
        local_features.extract_features(row),
    )
    figures.save(figures.matches(query, row, match, title=hits[0].id), path)
    console.note(f"matches: {path}, {format_count(match.inlier_count, 'matching point')}")
