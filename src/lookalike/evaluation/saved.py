"""The last evaluation of a gallery, saved in its folder for ``lookalike info`` and ``serve``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lookalike.artifacts import write_atomically
from lookalike.errors import ArtifactError, FormatVersionError
from lookalike.evaluation.results import Evaluation
from lookalike.evaluation.summary import verdict
from lookalike.gallery.gallery import Gallery

FILE = "evaluation.json"
FORMAT = 2
"""Raise it with every change of the fields. Version 1 had no number."""

_IMAGE = "image"
_FIELDS = {
    "created_at": str,
    "rows": int,
    "fingerprint": str,
    "verdict": str,
    "evaluation": dict,
    "page": dict,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedEvaluation:
    """An evaluation as it was saved.

    ``created_at`` is in UTC, ISO 8601. ``evaluation`` is the document of ``lookalike evaluate
    --json``, ``page`` the report's title, sections and figures; neither contains paths. ``stale``:
    the gallery's rows or encoder have changed since.
    """

    created_at: str
    rows: int
    fingerprint: str
    verdict: str
    evaluation: Mapping[str, Any]
    page: Mapping[str, Any]
    stale: bool


def save_evaluation(evaluation: Evaluation, gallery: Gallery, page: Mapping[str, Any]) -> Path:
    """Save an evaluation and its report in the gallery's folder; return the file.

    Raises:
        StorageError: it could not be written.
    """
    names = _file_names(evaluation, gallery)
    document = {
        "format": FORMAT,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": evaluation.rows,
        "fingerprint": gallery.fingerprint,
        "verdict": verdict(evaluation),
        "evaluation": {
            **_without_paths(evaluation.as_dict(), names),
            "gallery": gallery.path.absolute().name,
        },
        "page": _without_paths(page, names),
    }
    path = gallery.path / FILE
    write_atomically(path, json.dumps(document).encode())
    return path


def load_saved_evaluation(gallery: Gallery) -> SavedEvaluation | None:
    """Return the evaluation that was saved last, None if there is none.

    Raises:
        FormatVersionError: another version of lookalike wrote the file.
        ArtifactError: the file is damaged.
    """
    # The gallery's name and not its path: clients of the HTTP service read these messages too.
    name = gallery.path.absolute().name
    again = f"evaluate again: lookalike evaluate {name} --save"
    try:
        document = json.loads((gallery.path / FILE).read_bytes())
        version = document.pop("format", 1)
        if version != FORMAT and isinstance(version, int) and "page" in document:
            age = "an older" if version < FORMAT else "a newer"
            raise FormatVersionError(
                f"{FILE} of {name}: written by {age} lookalike (format {version}, not {FORMAT}); "
                f"{again}"
            )
        if version != FORMAT:
            raise TypeError("format")
        for field, kind in _FIELDS.items():
            if not isinstance(document[field], kind):
                raise TypeError(field)
        stale = (document["rows"], document["fingerprint"]) != (len(gallery), gallery.fingerprint)
        return SavedEvaluation(**document, stale=stale)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ArtifactError(
            f"{FILE} of {name}: not a saved evaluation ({type(error).__name__}); {again}"
        ) from error


def _file_names(evaluation: Evaluation, gallery: Gallery) -> dict[str, str]:
    """Return the paths that an evaluation may contain, longest first, and their file names."""
    truth = evaluation.criterion.ground_truth
    texts = {
        evaluation.queries,
        evaluation.gallery,
        str(gallery.path),
        *gallery.sources.values(),
        *([truth.file] if truth else []),
    }
    paths = {text for text in texts if Path(text).is_absolute() or Path(text).exists()}
    names = {path: Path(path).name for path in paths if len(Path(path).parts) > 1}
    return dict(sorted(names.items(), key=lambda pair: -len(pair[0])))


def _without_paths(value: Any, names: Mapping[str, str]) -> Any:
    """Return JSON values with paths replaced by file names."""
    if isinstance(value, Mapping):
        return {
            key: inner if key == _IMAGE and isinstance(inner, str) else _without_paths(inner, names)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without_paths(inner, names) for inner in value]
    if not isinstance(value, str):
        return value
    for path, name in names.items():
        value = value.replace(path, name)
    return Path(value).name if Path(value).is_absolute() else value
