"""Examining a table file by file, and going back to the last version that can be read.

After a power failure the newest version may be damaged although the disk acknowledged it. Versions
of the last minutes before it are still there, and all of their files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.artifacts import flush, storage_error
from lookalike.cancellation import check_cancelled
from lookalike.errors import ArtifactError, LookalikeError
from lookalike.stores.lance.files import (
    CHECKSUMS,
    DATA,
    Checksums,
    check_links,
    check_version,
    data_files,
    file_hash,
    versions,
)
from lookalike.stores.lance.snapshot import first_line, reading
from lookalike.stores.lance.store import open_version
from lookalike.stores.lance.table import embedding_matrix

_BATCH = 4_096
_BROKEN = ".broken"
"""Suffix of the manifests of versions that were given up."""


@dataclass(frozen=True, slots=True)
class TableReport:
    """The state of a table.

    Args:
        newest: number of its newest version.
        rows: of the newest version; 0 if it is damaged.
        problems: of the newest version, one a line; empty if every row was read.
        readable: number of the newest version without problems; 0 if there is none.
        readable_rows: its rows.
        checked: files that were compared with their recorded checksums.
        unchecked: files of which none is recorded, since an older lookalike wrote them.
        orphans: data files that no version names, as an interrupted write leaves them; they do no
            harm, and Lance deletes them after a week.
    """

    newest: int
    rows: int
    problems: tuple[str, ...]
    readable: int
    readable_rows: int
    checked: int
    unchecked: int
    orphans: tuple[str, ...]


def examine(path: Path) -> TableReport:
    """Read every file and row of a table.

    Raises:
        ArtifactError: there is no table, or it has links.
    """
    check_links(path)
    with reading(path):
        manifests = versions(path)
        known = Checksums(path).read()
    if not manifests:
        raise ArtifactError(f"{path}: has no version of the table; index the images again")
    changed, checked, unchecked = _compare(path, known)
    newest = next(iter(manifests))
    reports = {}
    for number in manifests:
        reports[number] = _examine_version(path, number, changed)
        if not reports[number].problems:
            break
    readable = next((number for number, each in reports.items() if not each.problems), 0)
    good = [number for number in manifests if manifests[number].name not in _names(changed)]
    used = _used_files(path, good)
    data = sorted(each.name for each in (path / DATA).glob("*")) if (path / DATA).is_dir() else []
    return TableReport(
        newest=newest,
        rows=reports[newest].rows,
        problems=(*reports[newest].problems,),
        readable=readable,
        readable_rows=reports[readable].rows if readable else 0,
        checked=checked,
        unchecked=unchecked,
        orphans=tuple(name for name in data if name not in used),
    )


def go_back(path: Path) -> TableReport:
    """Make the newest version that can be read the newest one of a table; return the new state.

    The manifests of damaged versions are renamed to ``*.broken``; nothing is deleted. Nobody may
    write meanwhile.

    Raises:
        ArtifactError: no version can be read.
        StorageError: a manifest cannot be renamed.
    """
    report = examine(path)
    if not report.readable:
        raise ArtifactError(
            f"{path}: no version of the table can be read; restore a copy of the gallery, or index "
            "the images into a new one"
        )
    try:
        for number, manifest in versions(path).items():
            if number > report.readable:
                manifest.rename(manifest.with_name(manifest.name + _BROKEN))
                flush(manifest.parent)
        Checksums(path).forget_deleted(always=True)  # the next version has the same name
    except OSError as error:
        raise storage_error(path, error) from error
    return examine(path)


@dataclass(frozen=True, slots=True)
class _Version:
    rows: int
    problems: list[str]


def _compare(path: Path, known: dict[str, str]) -> tuple[set[str], int, int]:
    """Return the files that have changed since they were written, and counts of the others."""
    changed: set[str] = set()
    checked = unchecked = 0
    for file in sorted(path.rglob("*")):
        check_cancelled()
        name = file.relative_to(path).as_posix()
        if not file.is_file() or file.name.endswith((".json", CHECKSUMS, _BROKEN)):
            continue
        if name not in known:
            unchecked += 1
            continue
        checked += 1
        try:
            if file_hash(file) != known[name]:
                changed.add(name)
        except OSError:
            changed.add(name)
    return changed, checked, unchecked


def _examine_version(path: Path, number: int, changed: set[str]) -> _Version:
    """Read all rows of a version; return how many there are, and what is wrong with them."""
    problems: list[str] = []
    rows = 0
    try:
        manifest = versions(path)[number].relative_to(path).as_posix()
        if manifest in changed:  # which Lance may not survive
            return _Version(0, [f"{manifest} has changed since it was written"])
        with reading(path):
            dataset = open_version(path, number)
            check_version(dataset, path, number)
            rows = int(dataset.count_rows())
            problems += [
                f"{DATA}/{name} has changed since it was written"
                for name, _ in data_files(dataset, path)
                if f"{DATA}/{name}" in changed
            ]
            if not problems:
                problems += _read(dataset, rows)
    except LookalikeError as error:
        problems.append(first_line(error.__cause__ or error))
    return _Version(rows, problems)


def _read(dataset: Any, rows: int) -> list[str]:
    """Return what is wrong with the rows of a version."""
    dim = dataset.schema.field("embedding").type.list_size
    read = 0
    problems = []
    for batch in dataset.to_batches(batch_size=_BATCH):
        check_cancelled()
        read += len(batch)
        if not np.isfinite(embedding_matrix(pa.Table.from_batches([batch]), dim)).all():
            problems = ["embeddings that are not finite"]
    ids = pc.count_distinct(dataset.to_table(columns=["id"])["id"]).as_py()
    if read != rows or ids != rows:
        problems.append(f"{read:,} of {rows:,} rows, with {ids:,} different ids")
    return problems


def _names(paths: set[str]) -> set[str]:
    return {path.rpartition("/")[2] for path in paths}


def _used_files(path: Path, numbers: Iterable[int]) -> set[str]:
    """Return the names of the data files of all versions that can be opened."""
    used: set[str] = set()
    for number in numbers:
        try:
            with reading(path):
                used |= {name for name, _ in data_files(open_version(path, number), path)}
        except LookalikeError:
            continue
    return used
