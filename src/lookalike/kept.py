"""The last evaluation of a gallery, kept in its folder for those who search it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lookalike.artifacts import write_atomically
from lookalike.errors import ArtifactError
from lookalike.gallery import Gallery
from lookalike.judged import Evaluation
from lookalike.verdicts import verdict

FILE = "evaluation.json"


@dataclass(frozen=True, slots=True)
class Kept:
    """An evaluation as it was kept.

    ``evaluation`` is the document of ``lookalike evaluate --json``, ``page`` the report's title,
    sections and figures; neither says where anything lies. ``stale``: the gallery's rows or
    encoder are others by now.
    """

    made: str
    rows: int
    fingerprint: str
    verdict: str
    evaluation: Mapping[str, Any]
    page: Mapping[str, Any]
    stale: bool


def keep(found: Evaluation, gallery: Gallery, page: Mapping[str, Any]) -> Path:
    """Keep an evaluation, with the report made of it; return the file.

    Raises:
        StorageError: it could not be written.
    """
    places = [place for place in (found.queries, found.gallery) if Path(place).exists()]
    document = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": found.rows,
        "fingerprint": gallery.encoder.fingerprint,
        "verdict": verdict(found),
        "evaluation": _without(found.as_dict(), places),
        "page": _without(page, places),
    }
    path = gallery.path / FILE
    write_atomically(path, json.dumps(document).encode())
    return path


def kept(gallery: Gallery) -> Kept | None:
    """Return the evaluation that was kept last, None if there is none.

    Raises:
        ArtifactError: the file is broken.
    """
    path = gallery.path / FILE
    try:
        found = json.loads(path.read_bytes())
        stale = found["rows"] != len(gallery) or found["fingerprint"] != gallery.encoder.fingerprint
        return Kept(**found, stale=stale)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtifactError(
            f"{path}: is no kept evaluation ({type(error).__name__}); make it again with "
            "lookalike evaluate --keep"
        ) from error


def _without(value: Any, places: Sequence[str]) -> Any:
    """Return JSON values whose texts name files and folders, but not where they lie."""
    if isinstance(value, Mapping):
        return {key: _without(inner, places) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without(inner, places) for inner in value]
    if not isinstance(value, str):
        return value
    for place in places:
        value = value.replace(place, Path(place).name)
    return Path(value).name if Path(value).is_absolute() else value
