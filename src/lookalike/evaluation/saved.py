"""The last evaluation of a gallery, saved in its folder for ``lookalike info`` and ``serve``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookalike.documents import Fields
from lookalike.evaluation.results import Evaluation
from lookalike.gallery.derived import EVALUATION, DerivedFile, Origin, Saved
from lookalike.gallery.gallery import Gallery

_IMAGE, _CHART = "image", "<svg"
"""The field of an image, and how a chart begins: both have labels and names, and no paths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedEvaluation(Saved):
    """An evaluation as it was saved.

    ``evaluation`` is the document of ``lookalike evaluate --json``, ``page`` the report's title,
    sections and figures; neither contains paths.
    """

    rows: int
    fingerprint: str
    verdict: str
    evaluation: Mapping[str, Any]
    page: Mapping[str, Any]


def save_evaluation(evaluation: Evaluation, gallery: Gallery, page: Mapping[str, Any]) -> Path:
    """Save an evaluation and its report in the gallery's folder; return the file.

    Raises:
        ArtifactError: the gallery is gone, or was replaced since it was evaluated.
        StorageError: it could not be written.
    """
    names = _file_names(evaluation, gallery)
    saved = SavedEvaluation(
        origin=Origin.now(evaluation.state),
        rows=evaluation.rows,
        fingerprint=gallery.fingerprint,
        verdict=evaluation.verdict(),
        evaluation={
            **_without_paths(evaluation.as_dict(), names),
            "gallery": gallery.path.absolute().name,
        },
        page=_without_paths(page, names),
    )
    return FILE.save(gallery, saved)


def load_saved_evaluation(gallery: Gallery) -> SavedEvaluation | None:
    """Return the evaluation that was saved last, None if there is none.

    Raises:
        FormatVersionError: another version of lookalike wrote the file.
        ArtifactError: the file is damaged.
    """
    return FILE.load(gallery)


def _from_document(document: Fields, origin: Origin) -> SavedEvaluation:
    _check_page(document.object("page"))
    return SavedEvaluation(
        origin=origin,
        rows=document.integer("rows", 0, 1 << 62),
        fingerprint=document.text("fingerprint"),
        verdict=document.text("verdict"),
        evaluation=document.mapping("evaluation"),
        page=document.mapping("page"),
    )


def _fields(saved: SavedEvaluation) -> dict[str, Any]:
    return {
        "rows": saved.rows,
        "fingerprint": saved.fingerprint,
        "verdict": saved.verdict,
        "evaluation": saved.evaluation,
        "page": saved.page,
    }


FILE = DerivedFile(
    EVALUATION,
    3,
    "evaluate again: lookalike evaluate {gallery} --save",
    _fields,
    _from_document,
)


def _check_page(page: Fields) -> None:
    """Check that a report can be shown: somebody else may have written it.

    Raises:
        ArtifactError: a field is missing or of another type.
    """
    for name in ("title", "subtitle", "verdict"):
        page.text(name)
    _check_optional_text(page, "highlight")
    for section in page.objects("sections"):
        section.text("title")
        section.text("text")
        _check_optional_text(section, "image")
        if section.has("chart"):  # a report of an older version has images instead
            chart = section.object("chart")
            for name in ("wide", "narrow"):
                chart.text(name)
        if "table" not in section.values or section.has("table"):
            table = section.object("table")
            table.texts("columns")
            table.flag("wrap")
            rows = table.items("rows")
            if not all(isinstance(row, list) and row for row in rows):
                raise table.invalid("rows", "a list of lists of texts")


def _check_optional_text(fields: Fields, name: str) -> None:
    if name not in fields.values or fields.has(name):  # a field, but null where there is none
        fields.text(name)


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
    if not isinstance(value, str) or value.startswith(_CHART):
        return value
    for path, name in names.items():
        value = value.replace(path, name)
    return Path(value).name if Path(value).is_absolute() else value
