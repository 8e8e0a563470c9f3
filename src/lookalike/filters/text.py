"""Parse filters from text: a tokenizer and a recursive-descent parser."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from lookalike.errors import InputError
from lookalike.filters.conditions import (
    OPERATORS,
    AllOf,
    AnyOf,
    Compare,
    Filter,
    In,
    IsNull,
    Like,
    Not,
    Scalar,
)
from lookalike.filters.limits import MAX_DEPTH, MAX_DIGITS, Budget

_TOKEN = re.compile(  # of possessive repeats, which never try again what they have read
    r"""\s*+(?:
      (?P<number>-?(?:\d++(?:\.\d*+)?+|\.\d++)(?:[eE][-+]?\d++)?+(?![\w.]))
    | (?P<text>'(?:[^']|'')*+'|"(?:[^"]|"")*+")
    | (?P<quoted>`(?:[^`]|``)++`)
    | (?P<word>[^\W\d][\w.\-]*+)
    | (?P<sign><=|>=|!=|<>|==|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE,
)
_LONGEST_WORD = 60
"""Characters of a word that a message repeats."""

_SIGNS = {"==": "eq", "<>": "ne", **{sign: name for name, sign in OPERATORS.items()}}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    stop: int

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.lower() in words


def parse(text: str) -> Filter:
    """Parse a filter from text such as ``year >= 2020 and tag in ('a', 'b')``.

    Comparisons are ``= != < <= > >=``, ``[not] in (...)``, ``[not] like 'a%'`` and
    ``is [not] null``; combine them with ``and``, ``or``, ``not`` and parentheses. Texts are in
    single or double quotes; double a quote inside. Column names with characters other than letters,
    digits, ``_``, ``-`` and ``.`` are in backquotes.

    Raises:
        InputError: it cannot be parsed, and the message shows the position; or it is larger than
            the limits of :mod:`lookalike.filters.limits`.
    """
    return _Parser(text).parse()


class _Parser:
    """A recursive-descent parser over the tokens of a text."""

    def __init__(self, text: str) -> None:
        self._budget = Budget()
        self.text = self._budget.take_text(text)
        self.end = len(text.rstrip())
        self.depth = 0
        self.token = self._read(0)

    def parse(self) -> Filter:
        if self.token.kind == "end":
            raise InputError("filter: it is empty; remove it to search all rows")
        condition = self._parse_or()
        if self.token.kind != "end":
            raise self._error("expected 'and', 'or' or the end")
        return condition

    def _read(self, position: int) -> _Token:
        """Return the token at a position: each is read when it is needed, so that limits hold."""
        if position >= self.end:
            return _Token("end", "", self.end, self.end)
        match = _TOKEN.match(self.text, position)
        if match is None:
            rest = self.text[position:]
            start = position + len(rest) - len(rest.lstrip())
            raise _syntax_error(self.text, start, "unexpected character")
        kind = str(match.lastgroup)
        return _Token(kind, match[kind], match.start(kind), match.end())

    def _advance(self) -> None:
        self.token = self._read(self.token.stop)

    def _parse_or(self) -> Filter:
        parts = [self._parse_and()]
        while self._take_word("or"):
            parts.append(self._parse_and())
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _parse_and(self) -> Filter:
        parts = [self._parse_not()]
        while self._take_word("and"):
            parts.append(self._parse_not())
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _parse_not(self) -> Filter:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._error(f"nested more than {MAX_DEPTH} levels deep")
        try:
            if self._take_word("not"):
                return Not(self._parse_not())
            if self._take_sign("("):
                inner = self._parse_or()
                self._expect(")")
                return inner
            return self._parse_comparison()
        finally:
            self.depth -= 1

    def _parse_comparison(self) -> Filter:
        self._budget.take_conditions()
        column = self._parse_column()
        negated = self._take_word("not")
        condition: Filter
        if self._take_word("in"):
            condition = In(column, self._parse_list())
        elif self._take_word("like"):
            token = self.token
            pattern = self._parse_value()
            if not isinstance(pattern, str):
                raise _syntax_error(self.text, token.start, "expected a text in quotes")
            condition = Like(column, self._budget.take_pattern(pattern))
        elif negated:
            raise self._error("expected 'in' or 'like'")
        elif self._take_word("is"):
            negated = self._take_word("not")
            if not self._take_word("null"):
                raise self._error("expected 'null'")
            condition = IsNull(column)
        else:
            sign = self.token.text
            if sign not in _SIGNS:
                raise self._error("expected = != < <= > >=, in, like or is null")
            self._advance()
            condition = Compare(column, _SIGNS[sign], self._parse_value())
        return Not(condition) if negated else condition

    def _parse_column(self) -> str:
        token = self.token
        if token.kind == "quoted":
            self._advance()
            return token.text[1:-1].replace("``", "`")
        if token.kind != "word" or token.is_word("and", "or", "in", "like", "is", "null"):
            raise self._error("expected the name of a column")
        self._advance()
        return token.text

    def _parse_list(self) -> tuple[Scalar, ...]:
        self._expect("(")
        values = [self._parse_value()]
        while self._take_sign(","):
            self._budget.take_values(1)
            values.append(self._parse_value())
        self._budget.take_values(1)
        self._expect(")")
        return tuple(values)

    def _parse_value(self) -> Scalar:
        token = self.token
        value: Scalar
        if token.kind == "text":
            quote = token.text[0]
            value = token.text[1:-1].replace(quote * 2, quote)
        elif token.kind == "number":
            is_integer = not set(token.text) & set(".eE")
            if is_integer and len(token.text) > MAX_DIGITS:
                raise _syntax_error(self.text, token.start, f"over {MAX_DIGITS:,} digits")
            value = int(token.text) if is_integer else float(token.text)
            if value in (math.inf, -math.inf):
                raise _syntax_error(self.text, token.start, "too large a number")
        elif token.is_word("true", "false"):
            value = token.text.lower() == "true"
        else:
            word = token.text if len(token.text) <= _LONGEST_WORD else "..."
            hint = f"; put the text in quotes: '{word}'" if token.kind == "word" else ""
            raise self._error(f"expected a text in quotes, a number, true or false{hint}")
        self._advance()
        return value

    def _take_word(self, word: str) -> bool:
        matches = self.token.is_word(word)
        if matches:
            self._advance()
        return matches

    def _take_sign(self, sign: str) -> bool:
        matches = self.token.kind == "sign" and self.token.text == sign
        if matches:
            self._advance()
        return matches

    def _expect(self, sign: str) -> None:
        if not self._take_sign(sign):
            raise self._error(f"expected {sign!r}")

    def _error(self, reason: str) -> InputError:
        return _syntax_error(self.text, self.token.start, reason)


def _syntax_error(text: str, position: int, reason: str) -> InputError:
    rest = text[position : position + 30].strip()
    where = f"at: {rest}" if rest else "at the end"
    return InputError(f"filter, character {position + 1}: {reason}, {where}")
