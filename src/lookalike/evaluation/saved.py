"""The last evaluation of a gallery, load_saved_evaluation in its folder for those who search it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lookalike.artifacts import write_atomically
from lookalike.errors import ArtifactError
from lookalike.evaluation.results import Evaluation
from lookalike.evaluation.summary import verdict
from lookalike.gallery.gallery import Gallery

FILE = "evaluation.json"

_IMAGE = "image"
_KINDS = {
    "made": str,
    "rows": int,
    "fingerprint": str,
    "verdict": str,
    "evaluation": dict,
    "page": dict,
}


@dataclass(frozen=True, slots=True)
class SavedEvaluation:
    """An evaluation as it was load_saved_evaluation.

    ``made`` is when, in UTC. ``evaluation`` is the document of ``lookalike evaluate --json``,
    ``page`` the report's title, sections and figures; neither says where anything lies. ``stale``:
    the gallery's rows or encoder are others by now.
    """

    made: str
    rows: int
    fingerprint: str
    verdict: str
    evaluation: Mapping[str, Any]
    page: Mapping[str, Any]
    stale: bool


def save_evaluation(found: Evaluation, gallery: Gallery, page: Mapping[str, Any]) -> Path:
    """Keep an evaluation, with the report made of it; return the file.

    Raises:
        StorageError: it could not be written.
    """
    names = _names(found, gallery)
    document = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": found.rows,
        "fingerprint": gallery.fingerprint,
        "verdict": verdict(found),
        "evaluation": {
            **_named(found.as_dict(), names),
            "gallery": gallery.path.absolute().name,
        },
        "page": _named(page, names),
    }
    path = gallery.path / FILE
    write_atomically(path, json.dumps(document).encode())
    return path


def load_saved_evaluation(gallery: Gallery) -> SavedEvaluation | None:
    """Return the evaluation that was load_saved_evaluation last, None if there is none.

    Raises:
        ArtifactError: the file is broken.
    """
    try:
        found = json.loads((gallery.path / FILE).read_bytes())
        for name, kind in _KINDS.items():
            if not isinstance(found[name], kind):
                raise TypeError(name)
        stale = (found["rows"], found["fingerprint"]) != (len(gallery), gallery.fingerprint)
        return SavedEvaluation(**found, stale=stale)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        # The gallery's name and not its place: who searches it over HTTP reads this too.
        raise ArtifactError(
            f"{FILE} of {gallery.path.absolute().name}: is no load_saved_evaluation evaluation "
            f"({type(error).__name__}); make it again with lookalike evaluate --save"
        ) from error


def _names(found: Evaluation, gallery: Gallery) -> dict[str, str]:
    """Return the files and folders that an evaluation may speak of, and their names alone."""
    ground_truth = [found.criterion.ground_truth.file] if found.criterion.ground_truth else []
    said = {
        found.queries,
        found.gallery,
        str(gallery.path),
        *gallery.sources.values(),
        *ground_truth,
    }
    places = {each for each in said if Path(each).is_absolute() or Path(each).exists()}
    named = {each: Path(each).name for each in places if len(Path(each).parts) > 1}
    return dict(sorted(named.items(), key=lambda pair: -len(pair[0])))


def _named(value: Any, names: Mapping[str, str]) -> Any:
    """Return JSON values whose texts name files and folders, but not where they lie."""
    if isinstance(value, Mapping):
        return {
            key: inner if key == _IMAGE and isinstance(inner, str) else _named(inner, names)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_named(inner, names) for inner in value]
    if not isinstance(value, str):
        return value
    for place, name in names.items():
        value = value.replace(place, name)
    return Path(value).name if Path(value).is_absolute() else value
