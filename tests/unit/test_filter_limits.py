"""Filters from strangers: bounded before they cost anything, linear in the text, cancellable."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.cancellation import Cancellation, cancellable
from lookalike.errors import CancelledError, InputError, LookalikeError
from lookalike.filters import Like, MetadataColumns, as_filter, parse
from lookalike.filters.limits import MAX_CHARACTERS, MAX_CONDITIONS, MAX_PATTERN, MAX_VALUES
from lookalike.filters.wildcards import Wildcards
from lookalike.texts import FORMS, Form, folded, normalized

JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
        st.sampled_from(("\ud800", "%_", "and")), st.just(10).map(lambda ten: ten**5_000),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(("and", "or", "not", "a", "eq", "in", "like", "null", "lt", "x")),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=15,
)  # fmt: skip
WORDS = st.sampled_from(
    ("year", "and", "or", "not", "in", "like", "is", "null", "(", ")", ",", "=", "<", "'a'", '"',
     "'", "`", "1", "1.", ".5e", "-", "%", "\0", "\ud800", "true", "１", "\n", "\u2003")
)  # fmt: skip
ROWS = MetadataColumns([{"year": 1, "a": ["x", 2, {"b": None}]}, {"a": "\u0301e", "x": True}])


def evaluate(where: Any) -> None:
    """Parse and evaluate; only errors of this library may be raised."""
    message = ""
    try:
        as_filter(where).mask(ROWS)
    except LookalikeError as error:
        message = str(error)
    assert len(message) < 3_000


@settings(max_examples=700, deadline=None)
@given(st.one_of(st.text(max_size=40), st.lists(WORDS, max_size=12).map(" ".join)))
def test_no_text_is_more_than_an_input_error(text: str) -> None:
    evaluate(text)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_are_more_than_an_input_error(data: bytes) -> None:
    evaluate(data.decode("utf-8", "surrogateescape"))
    evaluate(data.decode("latin-1"))


@settings(max_examples=700, deadline=None)
@given(JSON)
def test_no_structure_is_more_than_an_input_error(where: Any) -> None:
    evaluate(where)


def slow_like(pattern: str, text: str) -> bool:
    """Match by all ways to divide a text, letter by letter."""
    places = {0}
    for each in folded(pattern):
        if each == "%":
            places = set(range(min(places, default=len(text) + 1), len(text) + 1))
        else:
            places = {p + 1 for p in places if p < len(text) and each in ("_", text[p])}
    return len(text) in places


@settings(max_examples=2_000, deadline=None)
@given(st.text("ab_%é", max_size=8), st.text("abé\n", max_size=12))
def test_like_equals_an_obvious_reference(pattern: str, text: str) -> None:
    assert Wildcards(pattern).matches(text) is slow_like(pattern, text)
    assert Wildcards(pattern.upper()).matches(text) is slow_like(pattern, text)


@pytest.mark.parametrize("pattern", ["%ab_%", "ab_", "%a%_", "_%", "%", "", "__", "%_b_a%b_%"])
def test_like_on_texts_over_the_size_of_a_check(pattern: str) -> None:
    for text in ("ab" * 5_000, "ab" * 5_000 + "a", "a" * 9_000 + "b"):
        assert Wildcards(pattern).matches(text) is slow_like(pattern, text)


HOSTILE_PATTERNS = (
    "%_" * 400 + "#",
    "%a" * 400 + "#",
    "%" + "a" * 400 + "_" + "a" * 400 + "b%",
    "%" + "a_" * 450 + "b%",
    "_" * 900 + "%#",
    "%" + "_a" * 10 + "%b" + "_" * 500,
)


@pytest.mark.parametrize("pattern", HOSTILE_PATTERNS)
def test_a_pattern_takes_a_bounded_number_of_steps_per_character(pattern: str) -> None:
    """Lines of Python that run are counted, and calls into C are few and linear in the text."""
    text = "a" * 20_000
    column = MetadataColumns([{"x": text}])
    steps = 0

    def count(*_: object) -> Callable[..., Any]:
        nonlocal steps
        steps += 1
        return count

    like = Like("x", pattern)
    assert not like.mask(column).any()
    sys.settrace(count)
    try:
        like.mask(column)
    finally:
        sys.settrace(None)
    assert steps < 10 * (len(text) + len(pattern)) + 2_000


def ended_by(cancellation: Cancellation) -> Iterator[str]:
    """Yield values of a column; cancel the work once it has read a hundred of them."""
    for place in range(20_000):
        if place == 100:
            cancellation.cancel()
        yield f"value {place}"


def test_evaluation_ends_when_it_is_cancelled() -> None:
    cancellation = Cancellation()
    columns = MetadataColumns([{"x": text} for text in ended_by(cancellation)])
    for where in ("x like '%a_1%'", "x = 'a'", "x != 'a'", "x > 'a'", "x in ('a')", "x is null"):
        with cancellable(cancellation), pytest.raises(CancelledError):
            as_filter(where).mask(columns)
        as_filter(where).mask(columns)  # and nothing half done is left behind
    with cancellable(cancellation), pytest.raises(CancelledError):
        as_filter("x = 'a'").mask(columns)


def test_a_single_long_value_ends_when_it_is_cancelled() -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    for value in ("a" * 100_000, ["a"] * 100_000, {"deep": ["a"] * 100_000}):
        columns = MetadataColumns([{"x": value}])
        with cancellable(cancellation), pytest.raises(CancelledError):
            as_filter("x like '%a_b%'").mask(columns)


@pytest.mark.parametrize(
    "where",
    [
        {"and": [{"x": 1}] * (MAX_CONDITIONS + 1)},
        {"or": [{"x": {"eq": 1}}] * 200_000},
        {f"c{i}": 1 for i in range(MAX_CONDITIONS + 1)},
        {"or": [{"and": [{"x": 1}] * 40}] * 40},
        {"x": {str(i): 1 for i in range(MAX_CONDITIONS + 1)}},
        " or ".join(["x = 1"] * (MAX_CONDITIONS + 1)),
    ],
)
def test_conditions_are_bounded(where: Any) -> None:
    with pytest.raises(InputError, match="over 1,000 conditions"):
        as_filter(where)


@pytest.mark.parametrize(
    "where",
    [
        {"x": {"in": [1] * (MAX_VALUES + 1)}},
        {"or": [{"x": {"in": [1] * 600}} for _ in range(20)]},
        f"x in ({', '.join(['1'] * (MAX_VALUES + 1))})",
    ],
)
def test_values_are_bounded(where: Any) -> None:
    with pytest.raises(InputError, match="over 10,000 values"):
        as_filter(where)


def test_limits_leave_room_for_lists_of_ids() -> None:
    ids = [f"photos:class0/{i:05}.jpg" for i in range(MAX_VALUES)]
    assert as_filter({"id": {"in": ids}}) == as_filter(f"id in ({repr(ids)[1:-1]})")
    as_filter({"or": [{"x": i} for i in range(MAX_CONDITIONS // 3)]})


def test_characters_and_patterns_are_bounded() -> None:
    text = "a" * (MAX_CHARACTERS + 1)
    many = {"x": {"in": ["a" * 600] * 2_000}}
    texts: tuple[Any, ...] = (f"x = '{text}'", {"x": text}, many)
    for where in texts:
        with pytest.raises(InputError, match="over 1,000,000 characters"):
            as_filter(where)
    pattern = "_" * (MAX_PATTERN + 1)
    patterns: tuple[Any, ...] = (f"x like '{pattern}'", {"x": {"like": pattern}})
    for where in patterns:
        with pytest.raises(InputError, match="a pattern of 1,001 characters; the limit is 1,000"):
            as_filter(where)


def test_depth_is_bounded_before_recursion() -> None:
    where: dict[str, Any] = {"x": 1}
    for _ in range(100_000):
        where = {"not": where}
    for each in (where, {"and": [where]}, {"x": where}, {"x": {"in": [where]}}):
        with pytest.raises(InputError, match=r"levels deep|compared with|no operator 'not'"):
            as_filter(each)
    for text in ("(" * 100_000, "not " * 100_000, "(" * 40 + "not " * 40 + "x = 1"):
        with pytest.raises(InputError, match="more than 50 levels deep"):
            parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "x = '" + "a" * 200_000,
        "x = " + "'" * 200_001,
        "x = " + "1" * 200_000 + "x",
        "x = 1." + "1" * 200_000 + "x",
        "x = 1e" + "1" * 200_000 + "x",
        " " * 200_000 + "#",
        "x" * 200_000,
        "x = " + "x" * 200_000,
        "`" + "``" * 100_000,
        "x in (" + "'a'," * 9_000,
    ],
)
def test_hostile_texts_are_read_once(text: str) -> None:
    with cancellable(Cancellation(60)), pytest.raises(InputError) as error:
        parse(text)
    assert len(str(error.value)) < 300


def test_messages_show_little_of_a_large_filter() -> None:
    columns = MetadataColumns([{f"column {i}": i for i in range(5_000)}])
    with pytest.raises(InputError, match=r"columns: column 0, .* and 4,980 more") as error:
        as_filter({"y" * 100_000: 1}).mask(columns)
    assert len(str(error.value)) < 1_000
    with pytest.raises(InputError) as error:
        as_filter({"x": {"in": {"a": ["b"] * 1_000_000}}})
    assert len(str(error.value)) < 300


MANY_MARKS = re.compile("[\u3099\u0301\u0323\u093c\u09be\u1161\u11a8]{90}")


def marks(count: int) -> str:
    """Return a letter with combining marks, which Unicode has to sort one by one."""
    return "e" + "\u0301" * count + "\u0323" * count


def test_texts_are_normalized_in_short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting all of these marks at once would take the square of their number."""
    lengths: list[int] = []
    original = unicodedata.normalize

    def normalize(form: Form, text: str) -> str:
        lengths.append(len(text))
        return original(form, text)

    with monkeypatch.context() as patch:
        patch.setattr("lookalike.texts.unicodedata.normalize", normalize)
        for form in FORMS:
            assert len(normalized(form, marks(100_000))) <= 200_001
        columns = MetadataColumns([{"x": marks(50_000)}])
        assert as_filter({"x": {"like": "%é%"}}).mask(columns).all()
        assert not parse(f"x = '{marks(20_000)}'").mask(columns).any()
    assert max(lengths) <= 200
    assert sum(lengths) < 700_000


@settings(max_examples=300, deadline=None)
@given(
    st.text(
        st.sampled_from("aÉか\u3099\u0301\u0323क\u093c\u1100\u1161\u11a8가\uac01\u09c7\u09be 字"),
        max_size=900,
    ).filter(lambda text: MANY_MARKS.search(text) is None)
)
def test_normalization_in_parts_equals_that_of_the_whole(text: str) -> None:
    for form in FORMS:
        assert normalized(form, text) == unicodedata.normalize(form, text)
    assert folded(text) == unicodedata.normalize("NFC", text.casefold())


def test_columns_that_do_not_fit_into_memory_are_encoded_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lookalike.filters.columns.KEPT_BYTES", 8 * (3 + 3 * 64))
    columns = MetadataColumns([{f"c{i:02}": i * row for i in range(40)} for row in range(3)])
    for _ in range(2):
        for place, name in enumerate(columns.names):
            column = columns.encoded(name)
            assert [column.values[code] for code in column.codes] == [0, place, 2 * place]
    assert 8 <= len(columns._encoded) <= 9
