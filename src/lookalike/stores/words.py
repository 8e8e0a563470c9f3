"""The words of rows and of queries, for full-text search: pure functions of texts.

Names are indexed as they are and split where case or letters and digits meet: ``redBicycle12.jpg``
has the words redbicycle12, red, bicycle, 12 and jpg. Chinese, Japanese and Korean have no spaces
between words; there each character is a word, and a keyword is a phrase.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

from lookalike.errors import InputError
from lookalike.files import valid_text
from lookalike.metadata import MAX_LEVELS
from lookalike.stores.same_columns import SameColumns

MAX_CHARACTERS = 2_000
"""Characters of the keywords of a search."""

MAX_WORDS = 50
"""Keywords and phrases of a search."""

_MIXED = re.compile("[a-z][A-Z]|[A-Za-z][0-9]|[0-9][A-Za-z]|[A-Z][A-Z][a-z]")
"""Where a name without spaces has another word: redBicycle, IMG2041, 4x, XMLFile."""

_PARTS = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\\x00-\\x7f]+")
"""The words that a name is made of."""

_IDEOGRAPH = re.compile(
    "([\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff])"
)
"""A character of Chinese, Japanese or Korean."""

_HASH = re.compile("[0-9a-f]{24,}(-[0-9a-f]+)?")


class RowTexts(NamedTuple):
    """What is indexed of rows, in the order of the rows; texts without a word are empty.

    Args:
        metadata: all texts and numbers of the metadata of each.
        names: what they are called.
        sources: the names of their sources.
    """

    metadata: list[str]
    names: list[str]
    sources: list[str]


def row_texts(ids: Sequence[str], uris: Sequence[str], metadata: Sequence[SameColumns]) -> RowTexts:
    """Return what is indexed of rows. Equal rows have equal texts, also after they were stored.

    The name is the key of the id, and the name of the file if that is another. The number of an
    image in a file of several, such as of a data set, is no name. The name of the source is kept
    apart: it tells rows apart only if there are several sources.
    """
    names, sources = [], []
    for row_id, uri in zip(ids, uris, strict=True):
        source, _, key = row_id.partition(":")
        if not key:
            source, key = "", row_id
        if "#" in uri or not uri.endswith(f"/{key}"):
            if key.isdecimal() and uri.endswith(f"#{key}"):
                key = ""
            file = _file_name(uri)
            if file and file not in row_id:
                key = f"{key} {file}"
        names.append(key)
        sources.append(source)
    source_texts = {source: _name_text(source) for source in dict.fromkeys(sources)}
    return RowTexts(
        _metadata_texts(metadata, len(ids)),
        [*map(_name_text, names)],
        [source_texts[source] for source in sources],
    )


def _metadata_texts(metadata: Sequence[SameColumns], count: int) -> list[str]:
    """Return all metadata of each row as one text."""
    texts = [""] * count
    for group in metadata:
        columns = [
            column
            for _, values in sorted(zip(group.names, group.values, strict=True), key=itemgetter(0))
            if any(column := _value_texts(values))
        ]
        if columns:
            rows: Iterable[Iterable[str]] = zip(*columns, strict=True)
            if any("" in column for column in columns):
                rows = (filter(None, row) for row in rows)
            for place, text in zip(group.places, map(" ".join, rows), strict=True):
                texts[place] = separated(text)
    return texts


def _value_texts(values: list[Any]) -> list[str]:
    """Return the words of each value of a column."""
    kinds = set(map(type, values))
    if kinds == {str}:
        return values
    if kinds == {int}:
        return [*map(str, values)]
    return [" ".join(_words_of(value)) for value in values]


def _words_of(value: object, level: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple) and level < MAX_LEVELS:
        for inner in value:
            yield from _words_of(inner, level + 1)
    elif isinstance(value, float):
        if math.isfinite(value):
            yield f"{value:g}"
    elif isinstance(value, int) and not isinstance(value, bool):
        yield str(value)


def _name_text(name: str) -> str:
    """Return a name and the words that it is made of."""
    return separated(f"{name} {split_name(name)}" if is_mixed(name) else name)


def is_mixed(name: str) -> bool:
    """Return whether a name has several words without anything between them."""
    return not name.isdecimal() and _MIXED.search(name) is not None


def split_name(name: str) -> str:
    """Return the words that a name is made of, separated by spaces."""
    return " ".join(_PARTS.findall(name))


def separated(text: str) -> str:
    """Return a text with spaces around each character that is a word, as SQLite can store it."""
    if "\0" in text:
        text = text.replace("\0", "\\x00")  # as stored metadata have it
    if text.isascii():
        return text
    return _IDEOGRAPH.sub(r" \1 ", unicodedata.normalize("NFC", valid_text(text)))


def plain_word(word: str) -> str:
    """Return a word in lower case without accents, as it is in the index."""
    letters = unicodedata.normalize("NFD", word.lower())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _file_name(uri: str) -> str:
    """Return the name of a file without its suffix, or its place in a file of several.

    It is empty for a file that is named by a hash of its content, as images that were added are.
    """
    name = uri.rpartition("#")[2] if "#" in uri else uri.partition("?")[0].rpartition("/")[2]
    name = name.rpartition(".")[0] or name
    return "" if len(name) >= 24 and _HASH.fullmatch(name) else name


@dataclass(frozen=True, slots=True)
class Term:
    """A keyword, or a phrase that was in quotes, as queries of FTS5: every character is literal.

    Args:
        text: its words.
        quoted: it was in quotes: only whole words match.
    """

    text: str
    quoted: bool

    @property
    def for_metadata(self) -> str:
        """The query for metadata: words that begin with it."""
        return f'"{separated(self.text)}"' + ("" if self.quoted else "*")

    @property
    def for_names(self) -> str:
        """The query for names, which match also by their words; whole words rank higher."""
        text = separated(self.text)
        if self.quoted:
            return f'"{text}"'
        forms = (text, split_name(text)) if is_mixed(text) else (text,)
        return " OR ".join(f'"{form}" OR "{form}"*' for form in forms)

    @property
    def for_id(self) -> str | None:
        """The query for names if it is an id, ``SOURCE:KEY``, or its beginning; None if not."""
        source, _, key = separated(self.text).partition(":")
        if not (any(map(str.isalnum, source)) and any(map(str.isalnum, key))):
            return None
        star = "" if self.quoted else "*"
        return f'({{source}} : "{source}" AND {{name}} : "{key}"{star})'


def parse_keywords(keywords: str) -> list[Term]:
    """Return the keywords and phrases of a text.

    Raises:
        InputError: there is none, or more than 50, or more than 2,000 characters.
    """
    if len(keywords) > MAX_CHARACTERS:
        raise InputError(
            f"{{keywords}} has {len(keywords):,} characters, at most {MAX_CHARACTERS:,} are "
            "allowed",
            keywords=None,
        )
    terms = [
        Term(quoted or word, bool(quoted))
        for quoted, word in re.findall(r'"([^"]*)"|([^\s"]+)', valid_text(keywords))
        if any(map(str.isalnum, quoted or word)) and "\0" not in quoted + word
    ]
    if not terms:
        raise InputError("{keywords} has no word to search for", keywords=keywords[:40])
    if len(terms) > MAX_WORDS:
        raise InputError(
            f"{{keywords}} has {len(terms)} words, at most {MAX_WORDS} are allowed", keywords=None
        )
    return terms
