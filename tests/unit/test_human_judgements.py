"""Human judgements: precision and preferences against values computed by hand; damaged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.stats import binomtest

import lookalike as la
from lookalike.errors import InputError
from lookalike.evaluation.human_judgements import (
    GalleryJudgements,
    JudgementsResult,
    Preference,
    QueryJudgement,
    read_judgement_files,
)
from lookalike.evaluation.metrics import Estimate, Interval
from lookalike.report import figures
from lookalike.report.human_judgements import write_judgements_report
from tests.integration.test_cli import lookalike

GALLERIES = {
    "shop": {"encoder": "hog", "fingerprint": "f1", "rows": 9},
    "other": {"encoder": "pixels", "fingerprint": "f2", "rows": 9},
}


def hits(query: str, marks: str, *, returned: int | None = None, gallery: str = "shop") -> Any:
    """Return the judgement of a query: y for relevant, n for not, by rank."""
    answers = [
        {"id": f"{query}-{rank}", "rank": rank, "relevant": mark == "y"}
        for rank, mark in enumerate(marks, 1)
    ]
    returned = len(marks) if returned is None else returned
    return {"gallery": gallery, "query": query, "k": 4, "returned": returned, "answers": answers}


def prefer(query: str, side: str, a: str = "shop", b: str = "other") -> Any:
    return {"query": query, "a": a, "b": b, "preferred": side}


def preference(a: str, b: str, for_a: int, for_b: int, share: Estimate) -> Preference:
    return Preference(
        a=a,
        b=b,
        queries=for_a + for_b,
        for_a=for_a,
        for_b=for_b,
        ties=0,
        share=share,
        agreement=None,
    )


def saved(path: Path, **changed: Any) -> Path:
    fields = {
        "format": "lookalike-judgements",
        "version": 2,
        "created_at": "2026-01-01T00:00:00Z",
        "galleries": GALLERIES,
        "hits": [],
        "preferences": [],
    }
    path.write_text(json.dumps({**fields, **changed}))
    return path


def test_precision_is_over_the_results_shown_of_finished_queries(
    tmp_path: Path,
) -> None:
    judgements = [hits("a", "yyny"), hits("b", "nn"), hits("c", "yy", returned=4), hits("d", "ny")]
    [result] = la.evaluate_judgements([saved(tmp_path / "a.json", hits=judgements)]).hits
    assert (result.queries, result.left_out, result.k, result.encoder) == (3, 1, 4, "hog")
    assert result.precision.value == pytest.approx((3 / 4 + 0 + 1 / 2) / 3)
    assert result.map_retrieved.value == pytest.approx(((1 + 1 + 3 / 4) / 3 + 0 + 1 / 2) / 3)
    assert result.recall_at_1.value == pytest.approx(1 / 3)
    assert result.precision.interval.low <= result.precision.value <= result.precision.interval.high
    assert result.agreement is None


def test_judgements_of_several_people_are_averaged(tmp_path: Path) -> None:
    one = saved(tmp_path / "1.json", hits=[hits("a", "yyyy"), hits("b", "nnnn")])
    two = saved(tmp_path / "2.json", hits=[hits("a", "yynn")])
    [result] = la.evaluate_judgements([one, two]).hits
    assert result.queries == 2
    assert result.precision.value == pytest.approx((0.75 + 0) / 2)
    assert result.agreement == pytest.approx(0.5)


def test_queries_without_results_are_left_out(tmp_path: Path) -> None:
    empty = saved(tmp_path / "1.json", hits=[hits("a", "", returned=0)])
    two = saved(tmp_path / "2.json", hits=[hits("a", "yn"), hits("b", "", returned=0)])
    [result] = la.evaluate_judgements([empty, two]).hits
    assert (result.queries, result.left_out, result.precision.value) == (1, 1, 0.5)


def test_k_results_were_returned_by_default(tmp_path: Path) -> None:
    whole, part = hits("a", "yyyn"), hits("b", "yy")
    del whole["returned"], part["returned"]
    [result] = la.evaluate_judgements([saved(tmp_path / "a.json", hits=[whole, part])]).hits
    assert (result.queries, result.left_out, result.precision.value) == (1, 1, 0.75)


def test_a_gallery_without_finished_queries_is_named(tmp_path: Path) -> None:
    judgements = [hits("a", "yn"), hits("a", "y", returned=3, gallery="other")]
    result = la.evaluate_judgements([saved(tmp_path / "a.json", hits=judgements)])
    assert [each.gallery for each in result.hits] == ["shop"]
    assert result.unfinished == ("other",)


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.randoms())
def test_answers_are_ordered_by_rank(
    tmp_path_factory: pytest.TempPathFactory, marks: list[bool], random: Any
) -> None:
    judgement = hits("a", "".join("y" if mark else "n" for mark in marks))
    judgement["k"] = len(marks)
    random.shuffle(judgement["answers"])
    path = saved(tmp_path_factory.mktemp("j") / "a.json", hits=[judgement])
    [result] = la.evaluate_judgements([path]).hits
    precisions = [sum(marks[: rank + 1]) / (rank + 1) for rank, mark in enumerate(marks) if mark]
    average = sum(precisions) / len(precisions) if precisions else 0
    assert result.precision.value == pytest.approx(sum(marks) / len(marks))
    assert result.map_retrieved.value == pytest.approx(average)
    assert result.recall_at_1.value == marks[0]


def test_files_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.json", hits=[hits("a", "yn", returned=3)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as some editors save it
    [file] = read_judgement_files([path])
    assert file.hits == [QueryJudgement("shop", "a", 4, 3, {"a-1": True, "a-2": False})]
    assert file.galleries == {"shop": ("hog", "f1"), "other": ("pixels", "f2")}


def test_files_of_version_1_are_read(tmp_path: Path) -> None:
    judgement = hits("a", "yn", returned=3)
    judgement["given"] = judgement.pop("returned")
    for answer in judgement["answers"]:
        answer["right"] = answer.pop("relevant")
    path = saved(tmp_path / "a.json", version=1, hits=[judgement])
    document = json.loads(path.read_text())
    document["made"] = document.pop("created_at")
    path.write_text(json.dumps(document))
    [file] = read_judgement_files([path])
    assert file.hits == [QueryJudgement("shop", "a", 4, 3, {"a-1": True, "a-2": False})]
    del document["hits"][0]["answers"][0]["right"]
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"answers\[0\].right' is missing"):
        read_judgement_files([path])


def test_results_are_by_gallery_and_k(tmp_path: Path) -> None:
    other = {**hits("a", "n", gallery="other"), "k": 1}
    result = la.evaluate_judgements([saved(tmp_path / "a.json", hits=[hits("a", "y"), other])])
    assert [(each.gallery, each.k, each.precision.value) for each in result.hits] == [
        ("other", 1, 0.0),
        ("shop", 4, 1.0),
    ]


def test_ties_count_half_in_either_order_of_the_galleries(tmp_path: Path) -> None:
    judgements = [prefer("a", "a"), prefer("b", "a"), prefer("c", "neither")]
    swapped = [prefer("d", "b", "other", "shop"), prefer("e", "a", "other", "shop")]
    [result] = la.evaluate_judgements(
        [
            saved(tmp_path / "a.json", preferences=judgements),
            saved(tmp_path / "b.json", preferences=swapped),
        ]
    ).preferences
    assert (result.a, result.b, result.for_a, result.for_b, result.ties) == (
        "shop",
        "other",
        3,
        1,
        1,
    )
    assert result.share.value == pytest.approx(3.5 / 5)
    assert not result.significant
    assert result.verdict() == "no significant difference between shop and other"


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_sign_test_ignores_ties(for_a: int, for_b: int) -> None:
    share = Estimate(0.5, Interval(0.4, 0.6))
    pair = preference("a", "b", for_a, for_b, share)
    decided = for_a + for_b
    expected = binomtest(for_a, decided, 0.5).pvalue if decided else 1
    assert pair.p_value == pytest.approx(expected)


@pytest.mark.parametrize(("queries", "significant"), [(5, False), (6, True)])
def test_five_unanimous_queries_are_not_significant(
    tmp_path: Path, queries: int, significant: bool
) -> None:
    judgements = [prefer(str(number), "b") for number in range(queries)]
    [result] = la.evaluate_judgements(
        [saved(tmp_path / "a.json", preferences=judgements)]
    ).preferences
    assert result.share.interval == Interval(0, 0)
    assert result.significant == significant


def test_opposite_preferences_of_two_people_are_a_tie(tmp_path: Path) -> None:
    one = saved(tmp_path / "1.json", preferences=[prefer("a", "a"), prefer("b", "b")])
    two = saved(tmp_path / "2.json", preferences=[prefer("a", "a", "other", "shop")])
    three = saved(tmp_path / "3.json", preferences=[prefer("b", "b")])
    [result] = la.evaluate_judgements([one, two, three]).preferences
    assert (result.queries, result.for_a, result.for_b, result.ties) == (2, 0, 1, 1)
    assert result.share.value == pytest.approx((0.5 + 0) / 2)
    assert result.agreement == pytest.approx(1 / 2)


@pytest.mark.parametrize(("side", "better"), [("a", "shop is"), ("b", "other is")])
def test_a_significant_preference_names_the_better_gallery(
    tmp_path: Path, side: str, better: str
) -> None:
    judgements = [prefer(str(number), side) for number in range(9)]
    result = la.evaluate_judgements([saved(tmp_path / "a.json", preferences=judgements)])
    assert result.preferences[0].verdict().startswith(better)
    assert result.as_dict()["preferences"][0]["significant"] is True


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "other"}, "not a judgement file"),
        ({"version": 3}, "newer"),
        ({"version": True}, "'version' must be a whole number"),
        ({"galleries": []}, "'galleries' must be an object"),
        ({"hits": {}}, "'hits' must be a list of objects"),
        ({}, "no judgements"),
        ({"hits": [3]}, "'hits' must be a list of objects"),
        (
            {"hits": [hits("a", "y", gallery="none")]},
            r"'hits\[0\]\.gallery' must be among the file's galleries, not 'none'",
        ),
        ({"hits": [hits("a", "yy", returned=1)]}, r"hits\[0\]: has ranks or answers beyond"),
        ({"hits": [hits("a", "yyyyy")]}, "beyond the 5 results"),
        ({"hits": [hits("a", "", returned=3)]}, r"a\.json: no query was judged completely"),
        ({"hits": [hits("a", "y"), hits("a", "n")]}, r"hits\[1\]: judges the same query as \[0\]"),
        (
            {"preferences": [prefer("a", "a"), prefer("a", "a", "other", "shop")]},
            r"preferences\[1\]: judges the same query as \[0\]",
        ),
        ({"hits": [{**hits("a", "y"), "k": 0}]}, r"'hits\[0\]\.k' must be a whole number from 1"),
        ({"hits": [{**hits("a", "y"), "k": float("nan")}]}, "NaN is not a number"),
        (
            {"hits": [{**hits("a", "y"), "query": None}]},
            r"'hits\[0\]\.query' must be a text, not None",
        ),
        ({"created_at": 3}, "'created_at' must be a text"),
        (
            {"galleries": {"x": {"encoder": "e", "fingerprint": "f"}}},
            "'galleries.x.rows' is missing",
        ),
        ({"galleries": {"\ud800": {}}}, "half of a surrogate pair"),
        (
            {"galleries": {"x": {"encoder": "\x1b[2J", "fingerprint": "f", "rows": 1}}},
            r"'galleries\.x\.encoder' must be printable",
        ),
        (
            {"preferences": [prefer("a", "c")]},
            r"'preferences\[0\]\.preferred' must be one of a, b, neither",
        ),
        ({"preferences": [prefer("a", "a", "shop", "shop")]}, "with itself"),
    ],
)
def test_errors_name_the_place_in_a_file(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        la.evaluate_judgements([saved(tmp_path / "a.json", **changed)])


def test_a_result_judged_twice_is_refused(tmp_path: Path) -> None:
    twice = hits("a", "yy")
    twice["answers"][1]["id"] = twice["answers"][0]["id"]
    with pytest.raises(InputError, match="twice"):
        la.evaluate_judgements([saved(tmp_path / "a.json", hits=[twice])])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"a\.json: cannot be read \(not valid JSON: .* at line 1, column 1\); save"),
        (b'{"format":\n x', r"a\.json: cannot be read .* at line 2, column 2"),
        (b"{\xff}", r"a\.json: cannot be read \(not UTF-8 at byte 1\)"),
        (b"[" * 100_000, r"a\.json: cannot be read .*levels deep"),
        (b'{"n": ' + b"9" * 5_000 + b"}", r"a\.json: cannot be read .*4,300 digits"),
        (b" " * 30_000_001, r"a\.json: too large"),
        (b"3", r"a\.json: must be a JSON object, not 3"),
    ],
    ids=["empty", "broken", "no text", "deep", "long number", "large", "a number"],
)
def test_damaged_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        la.evaluate_judgements([path])
    with pytest.raises(InputError, match="cannot be read"):
        la.evaluate_judgements([tmp_path])
    with pytest.raises(InputError, match="no judgement file"):
        la.evaluate_judgements([])
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        la.evaluate_judgements([tmp_path / "none.json"])


def test_a_file_given_twice_is_refused(tmp_path: Path) -> None:
    one = saved(tmp_path / "1.json", hits=[hits("a", "y")])
    two = saved(tmp_path / "2.json", hits=[hits("a", "y")])
    with pytest.raises(InputError, match=r"2\.json: same content as .*1\.json"):
        la.evaluate_judgements([one, two])


def test_files_of_different_encoders_are_refused(tmp_path: Path) -> None:
    changed = {**GALLERIES, "shop": {**GALLERIES["shop"], "fingerprint": "f9"}}
    one = saved(tmp_path / "1.json", hits=[hits("a", "y")])
    two = saved(tmp_path / "2.json", hits=[hits("a", "y")], galleries=changed)
    with pytest.raises(
        InputError, match=r"2\.json: judges another encoder of 'shop' than .*1\.json"
    ):
        la.evaluate_judgements([one, two])


def test_on_the_command_line(tmp_path: Path) -> None:
    votes = [prefer("a", "a"), prefer("b", "neither")]
    path = saved(
        tmp_path / "a.json", hits=[hits("a", "yn"), hits("b", "y", returned=2)], preferences=votes
    )
    process = lookalike("evaluate", "judgements", path)
    assert process.returncode == 0, process.stderr
    for text in ("0.5000 [none]", "1 : 0", "0.7500", "no significant difference"):
        assert text in process.stdout
    assert "1 query left out" in process.stderr
    result = json.loads(lookalike("evaluate", "judgements", path, "--json").stdout)
    assert result["hits"][0]["precision"] == {
        "value": 0.5,
        "interval": {"low": None, "high": None},
    }
    assert result["hits"][0]["left_out"] == 1
    assert result["preferences"][0]["share"]["value"] == 0.75
    report = tmp_path / "r.html"
    process = lookalike("evaluate", "judgements", path, "--report", report)
    assert f"report: {report}" in process.stderr
    page = report.read_text()
    assert page.count("<picture") == 2
    for text in ("no significant difference between shop and other", "<td>0.7500</td>", "hog"):
        assert text in page
    for wrong in (["x.gallery", path], [path, "--save"], []):
        process = lookalike("evaluate", "judgements", *wrong)
        assert (process.returncode, process.stderr.count("error:")) == (2, 1), process.stderr


def test_the_report_draws_precision_and_preferences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half, full = (Estimate(value, Interval(value - 0.1, value + 0.1)) for value in (0.5, 0.875))
    galleries = [
        GalleryJudgements(
            gallery=name,
            encoder="hog",
            k=7,
            queries=9,
            left_out=0,
            precision=full,
            map_retrieved=full,
            recall_at_1=full,
            agreement=None,
        )
        for name in ("$shop", r"$\frac$")
    ]
    pairs = [preference("$shop", r"$\frac$", 9, 0, full), preference("$shop", "c", 4, 5, half)]
    drawn: list[Figure] = []

    def interval_chart(*args: Any, **kwargs: Any) -> Figure:
        drawn.append(chart(*args, **kwargs))
        return drawn[-1]

    chart = figures.interval_chart
    monkeypatch.setattr(figures, "interval_chart", interval_chart)
    path = tmp_path / "report.html"
    write_judgements_report(JudgementsResult(1, tuple(galleries), tuple(pairs)), path)
    assert path.read_text().count("<picture") == 2
    axes: list[Any] = [figure.axes[0] for figure in drawn[::2]]  # each also for phones
    precision, preferred = axes
    names = [label.get_text() for label in precision.get_yticklabels()]
    assert names == ["$shop (k = 7)", r"$\frac$ (k = 7)"]
    assert [bar.get_width() for bar in precision.patches] == [0.875, 0.875]
    significant, tied = preferred.patches
    assert (significant.get_width(), tied.get_width()) == (0.875, 0.5)
    assert significant.get_facecolor() != tied.get_facecolor()
