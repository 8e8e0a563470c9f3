"""Filters written as text: tokens, and recursive descent over them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lookalike.errors import InputError
from lookalike.filters.conditions import (
    MAX_DEPTH,
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

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>-?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    | (?P<quoted>`(?:[^`]|``)+`)
    | (?P<word>[^\W\d][\w.\-]*)
    | (?P<sign><=|>=|!=|<>|==|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE,
)
_SIGNS = {"==": "eq", "<>": "ne", **{sign: name for name, sign in OPERATORS.items()}}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.lower() in words


def parse(text: str) -> Filter:
    """Return a filter from a text such as ``year >= 2020 and tag in ('a', 'b')``.

    Comparisons are ``= != < <= > >=``, ``[not] in (...)``, ``[not] like 'a%'`` and
    ``is [not] null``; they are joined by ``and``, ``or``, ``not`` and brackets. Texts stand in
    quotes, single or double, where a quote within is doubled; names of columns with other
    characters than letters, digits, ``_``, ``-`` and ``.`` in backquotes.

    Raises:
        InputError: it cannot be understood; the place is shown.
    """
    return _Parser(text).parse()


class _Parser:
    """Recursive descent over the tokens of a text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = self._tokens()
        self.at = 0
        self.depth = 0

    def parse(self) -> Filter:
        if len(self.tokens) == 1:
            raise InputError("filter: it is empty; leave it out to search everything")
        found = self._either()
        if self._peek().kind != "end":
            raise self._error("expected 'and', 'or' or the end")
        return found

    def _tokens(self) -> list[_Token]:
        tokens, at = [], 0
        end = len(self.text.rstrip())
        while at < end:
            match = _TOKEN.match(self.text, at)
            if match is None:
                start = at + len(self.text[at:]) - len(self.text[at:].lstrip())
                raise _syntax_error(self.text, start, "cannot be read here")
            kind = str(match.lastgroup)
            tokens.append(_Token(kind, match[kind], match.start(kind)))
            at = match.end()
        return [*tokens, _Token("end", "", end)]

    def _either(self) -> Filter:
        parts = [self._both()]
        while self._taken("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _both(self) -> Filter:
        parts = [self._negated()]
        while self._taken("and"):
            parts.append(self._negated())
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _negated(self) -> Filter:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._error(f"is nested more than {MAX_DEPTH} deep")
        try:
            if self._taken("not"):
                return Not(self._negated())
            if self._sign("("):
                inner = self._either()
                self._expect(")")
                return inner
            return self._comparison()
        finally:
            self.depth -= 1

    def _comparison(self) -> Filter:
        column = self._column()
        negated = self._taken("not")
        found: Filter
        if self._taken("in"):
            found = In(column, self._list())
        elif self._taken("like"):
            token = self._peek()
            pattern = self._value()
            if not isinstance(pattern, str):
                raise _syntax_error(self.text, token.start, "expected a text in quotes")
            found = Like(column, pattern)
        elif negated:
            raise self._error("expected 'in' or 'like'")
        elif self._taken("is"):
            negated = self._taken("not")
            if not self._taken("null"):
                raise self._error("expected 'null'")
            found = IsNull(column)
        else:
            token = self._peek()
            if token.text not in _SIGNS:
                raise self._error("expected = != < <= > >=, in, like or is null")
            self.at += 1
            found = Compare(column, _SIGNS[token.text], self._value())
        return Not(found) if negated else found

    def _column(self) -> str:
        token = self._peek()
        if token.kind == "quoted":
            self.at += 1
            return token.text[1:-1].replace("``", "`")
        if token.kind != "word" or token.is_word("and", "or", "in", "like", "is", "null"):
            raise self._error("expected the name of a column")
        self.at += 1
        return token.text

    def _list(self) -> tuple[Scalar, ...]:
        self._expect("(")
        values = [self._value()]
        while self._sign(","):
            values.append(self._value())
        self._expect(")")
        return tuple(values)

    def _value(self) -> Scalar:
        token = self._peek()
        self.at += 1
        if token.kind == "text":
            quote = token.text[0]
            return token.text[1:-1].replace(quote * 2, quote)
        if token.kind == "number":
            whole = not set(token.text) & set(".eE")
            return int(token.text) if whole else float(token.text)
        if token.is_word("true", "false"):
            return token.text.lower() == "true"
        self.at -= 1
        hint = f"; put the text in quotes: '{token.text}'" if token.kind == "word" else ""
        raise self._error(f"expected a text in quotes, a number, true or false{hint}")

    def _peek(self) -> _Token:
        return self.tokens[self.at]

    def _taken(self, word: str) -> bool:
        found = self._peek().is_word(word)
        self.at += found
        return found

    def _sign(self, sign: str) -> bool:
        token = self._peek()
        found = token.kind == "sign" and token.text == sign
        self.at += found
        return found

    def _expect(self, sign: str) -> None:
        if not self._sign(sign):
            raise self._error(f"expected {sign!r}")

    def _error(self, reason: str) -> InputError:
        return _syntax_error(self.text, self._peek().start, reason)


def _syntax_error(text: str, at: int, reason: str) -> InputError:
    before, after = text[max(0, at - 30) : at], text[at : at + 30]
    return InputError(f"filter, character {at + 1}: {reason}: {before}>>>{after or ' (the end)'}")
