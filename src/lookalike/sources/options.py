"""What of a source is taken, and how its images are decoded; recorded in the gallery."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from lookalike.arguments import as_texts
from lookalike.errors import SettingError
from lookalike.images.exif import EXIF_COLUMNS, GPS_COLUMNS
from lookalike.images.options import DEFAULT_OPTIONS, DecodeOptions
from lookalike.texts import folded

PAGES = ("first", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """What of a source is taken, and how its images are decoded.

    A pattern is a path with ``*``, ``?`` and ``[...]``, relative to the source; case is ignored and
    ``*`` also matches slashes. It matches files, and folders with all that is in them; without a
    slash, at any depth.

    Args:
        include: take only images that match one of these patterns; all by default.
        exclude: leave out images that match one of these patterns.
        pages: ``first`` page of a file with several, or ``all``, each as an item.
        allow_private_urls: fetch images also from hosts that are not on the public internet.
        exif: add what EXIF says of each photograph to its metadata: date, camera, exposure, size.
        gps: add the place where it was taken, too.
        decoding: of each image.

    Raises:
        SettingError: ``pages`` is neither, or a pattern is no text.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    pages: str = "first"
    allow_private_urls: bool = False
    exif: bool = False
    gps: bool = False
    decoding: DecodeOptions = DEFAULT_OPTIONS

    def __post_init__(self) -> None:
        if self.pages not in PAGES:
            raise SettingError(f"{{pages}} must be {' or '.join(PAGES)}", pages=self.pages)
        for name in ("include", "exclude"):
            object.__setattr__(self, name, as_texts(name, getattr(self, name)))

    def takes(self, path: str) -> bool:
        """Return whether a path relative to the source is taken by the patterns."""
        if not self.include and not self.exclude:
            return True
        included = not self.include or matches_glob(path, self.include)
        return included and not matches_glob(path, self.exclude)

    @property
    def header_columns(self) -> tuple[str, ...]:
        """Columns of metadata that come from the header of each file."""
        return (*(EXIF_COLUMNS if self.exif else ()), *(GPS_COLUMNS if self.gps else ()))

    def as_dict(self) -> dict[str, Any]:
        """Return the options that differ from the defaults, as JSON values."""
        fields = {
            "include": list(self.include),
            "exclude": list(self.exclude),
            "pages": None if self.pages == PAGES[0] else self.pages,
            "allow_private_urls": self.allow_private_urls,
            "exif": self.exif,
            "gps": self.gps,
            "max_megapixels": _json_limit(self.decoding.max_megapixels),
            "strict": self.decoding.strict,
            "window": None if self.decoding.window is None else list(self.decoding.window),
        }
        return {name: value for name, value in fields.items() if value}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> SourceOptions:
        """Return the options that :meth:`as_dict` wrote."""
        window = fields.get("window")
        largest = fields.get("max_megapixels")
        return cls(
            include=tuple(fields.get("include", ())),
            exclude=tuple(fields.get("exclude", ())),
            pages=fields.get("pages", PAGES[0]),
            allow_private_urls=fields.get("allow_private_urls", False),
            exif=fields.get("exif", False),
            gps=fields.get("gps", False),
            decoding=DecodeOptions(
                max_megapixels=math.inf if largest == NO_LIMIT else largest,
                strict=fields.get("strict", False),
                window=None if window is None else (float(window[0]), float(window[1])),
            ),
        )


DEFAULT_SOURCE_OPTIONS = SourceOptions()

NO_LIMIT = "none"


def pixels_key(decoding: DecodeOptions) -> str:
    """Return a text that differs if the same file is decoded to other pixels; default: empty."""
    window = decoding.window
    return "" if window is None else f"window={window[0]:g},{window[1]:g}"


def _json_limit(limit: float | None) -> float | str | None:
    """Return a limit as JSON has it, which has no infinity."""
    return NO_LIMIT if limit == math.inf else limit


def matches_glob(path: str, patterns: Sequence[str]) -> bool:
    """Return whether a path, or a folder that it is in, matches a pattern, in any case of letters.

    ``*`` matches slashes too. A pattern without a slash is for the name of the file or a folder.
    """
    parts = folded(path).split("/")
    paths = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    for pattern in patterns:
        wanted = folded(pattern).rstrip("/").removeprefix("./")
        if any(fnmatchcase(each, wanted) for each in (paths if "/" in wanted else parts)):
            return True
    return False
