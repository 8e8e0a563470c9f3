"""How large a filter may be: whoever searches can send one, and each part costs a pass over rows.

The limits hold in every interface, before anything is evaluated.
"""

from __future__ import annotations

from lookalike.errors import InputError

MAX_DEPTH = 50
"""Maximum nesting depth of conditions."""

MAX_CONDITIONS = 1_000
MAX_VALUES = 10_000
"""Values in all lists of a filter together."""

MAX_PATTERN = 1_000
"""Characters of a pattern with wildcards."""

MAX_CHARACTERS = 1_000_000
"""Characters of a filter as text, or of all names and values of a structure."""

MAX_DIGITS = 1_000
"""Digits of an integer that a filter compares with."""

TOO_LONG = 10**MAX_DIGITS
"""The smallest integer with more digits than that."""


class Budget:
    """What a filter that is being parsed may still have.

    Every method raises InputError, which names the limit, when that is used up.
    """

    def __init__(self) -> None:
        self._conditions = MAX_CONDITIONS
        self._values = MAX_VALUES
        self._characters = MAX_CHARACTERS

    def take_conditions(self, count: int = 1) -> None:
        """Count conditions before they are parsed."""
        self._conditions -= count
        if self._conditions < 0:
            raise InputError(f"filter: has over {MAX_CONDITIONS:,} conditions, the limit")

    def take_values(self, count: int) -> None:
        """Count the values of a list before they are parsed."""
        self._values -= count
        if self._values < 0:
            raise InputError(f"filter: has over {MAX_VALUES:,} values in lists, the limit")

    def take_text(self, text: str) -> str:
        """Count the characters of a name or value; return it."""
        self._characters -= len(text)
        if self._characters < 0:
            raise InputError(f"filter: has over {MAX_CHARACTERS:,} characters, the limit")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"filter: character {error.start + 1} of a text is half of a surrogate pair, "
                    "which is not valid text"
                ) from None
        return text

    def take_pattern(self, text: str) -> str:
        """Check the length of a pattern; return it."""
        if len(text) > MAX_PATTERN:
            raise InputError(
                f"filter: a pattern of {len(text):,} characters; the limit is {MAX_PATTERN:,}"
            )
        return text
