"""What the verbs share: results on stdout, progress and notes on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lookalike.evaluation.human_judgements import HitJudgements
    from lookalike.evaluation.metrics import Estimate
    from lookalike.evaluation.model_selection import Choice
    from lookalike.evaluation.results import Evaluation
    from lookalike.evaluation.robustness import SelfRetrieval
    from lookalike.types import Failure, Progress, ProgressCallback

_PLAIN_EVERY_S = 10.0
_LISTED = 20


def need(package: str, purpose: str, extra: str) -> None:
    """See that an optional package is installed.

    Raises:
        MissingDependencyError: it is not; how to install it is said.
    """
    from importlib.util import find_spec

    from lookalike.errors import MissingDependencyError

    if find_spec(package) is None:
        raise MissingDependencyError(package, purpose, extra)


def note(text: str) -> None:
    """Print a remark to stderr."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any, *, one_line: bool = False) -> None:
    """Print a JSON document, or one line of a stream of them, to stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=None if one_line else 2), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print a table to stdout; columns whose every cell is a number are set to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for i, name in enumerate(columns):
        numeric = all(row[i][:1] in "0123456789.-+" for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False, markup=False).print(table)


def print_evaluation(found: Evaluation) -> None:
    """Print the table of scores, mAP first where not labels judge, and what it says."""
    from lookalike.evaluation.summary import ceiling_note, most_confused, ranking, verdict

    k = found.k
    rows = []
    for name, scores in ranking(found):
        precision = (f"precision@{k}", _estimate(scores.precision))
        average = (f"mAP@{k}", _estimate(scores.map))
        of_found = (f"mAP@{k} (found)", _estimate(scores.map_retrieved))
        first = ("R@1", f"{scores.recall_at_1.value:.4f}")
        recall = (f"recall@{k}", f"{scores.recall.value:.5f}")
        early = (f"first {scores.first.queries}", f"{scores.first.precision:.4f}")
        encoder = ("encoder", f"{name} *" if scores is found.scores else name)
        if found.basis.labeled:
            rows.append((encoder, precision, average, first, recall, early))
        else:
            rows.append((encoder, average, of_found, first, recall, precision))
    title = (
        f"{len(found.examples):,} queries from {found.queries}, {found.rows:,} rows, "
        f"{found.scores.metric.value}"
    )
    if found.protocol is not None:
        title = f"{found.protocol.name}: {title}"
    columns = [name for name, _ in rows[0]]
    print_table(columns, [[cell for _, cell in row] for row in rows], title=title)
    if not found.basis.labeled:
        print(
            f"right hits {found.basis.said}; mAP@{k} divides by min({k}, right answers), "
            f"mAP@{k} (found) by the right hits among the {k}"
        )
    if said := ceiling_note(found):
        print(said)
    if found.variants:
        _print_ways(found)
    print(f"* {verdict(found)}")
    if said := most_confused(found):
        print(f"most confused: {said}")
    print(f"one query: p50 {found.latency.p50:.2f} ms, p95 {found.latency.p95:.2f} ms")


def _print_ways(found: Evaluation) -> None:
    rows = [
        (
            name,
            _estimate(tried.scores.map),
            f"{tried.gain.value:+.4f} [{tried.gain.interval.low:+.4f}, "
            f"{tried.gain.interval.high:+.4f}]",
            f"{tried.scores.recall_at_1.value:.4f}",
            f"{tried.ms:.1f}",
        )
        for name, tried in found.variants.items()
    ]
    plain = (
        "plain",
        _estimate(found.scores.map),
        "",
        f"{found.scores.recall_at_1.value:.4f}",
        f"{found.latency.p50:.1f}",
    )
    columns = ("way of asking", f"mAP@{found.k}", "gain", "R@1", "ms, p50")
    print_table(columns, [plain, *rows])


def print_self_retrieval(found: SelfRetrieval) -> None:
    """Print the table of distortions and what it says."""
    from lookalike.evaluation.robustness import verdict

    rows = [
        (
            name,
            _estimate(scores.map),
            f"{scores.recall_at_1.value:.4f}",
            f"{scores.recall.value:.4f}",
            scores.summary,
        )
        for name, scores in found.scores.items()
    ]
    title = (
        f"{found.queries:,} images distorted, each to find its original among {found.rows:,} rows, "
        f"{found.metric.value}"
    )
    columns = ("distortion", f"mAP@{found.k}", "recall@1", f"recall@{found.k}", "how strong")
    print_table(columns, rows, title=title)
    print(verdict(found))


def print_hit_judgements(found: HitJudgements) -> None:
    """Print what people said of hits, by gallery and by pair of galleries."""
    rows = [
        (
            each.gallery,
            str(each.k),
            _estimate(each.precision),
            _estimate(each.map_retrieved),
            f"{each.recall_at_1.value:.4f}",
            f"{each.queries:,}",
            _share(each.agreement),
        )
        for each in found.hits
    ]
    columns = ("gallery", "k", "precision@k", "mAP@k (found)", "R@1", "queries", "agreement")
    if rows:
        print_table(columns, rows, title="Hits that people called right")
        print(
            "precision@k is of the hits shown, n or as many as there were; mAP@k (found) divides "
            "by the right ones among them"
        )
    pairs = [
        (
            f"{pair.a} : {pair.b}",
            f"{pair.for_a} : {pair.for_b}",
            str(pair.ties),
            _estimate(pair.share),
            _share(pair.agreement),
        )
        for pair in found.preferences
    ]
    if pairs:
        headings = ("galleries", "preferred", "neither", "share for the first", "agreement")
        print_table(headings, pairs, title="Which answers people preferred")
    for pair in found.preferences:
        print(pair.verdict())
    for each in found.hits:
        if each.left_out:
            note(
                f"{each.gallery}: {each.left_out} queries not judged to the end, or without hits, "
                "are left out"
            )
    for name in found.unfinished:
        note(f"{name}: no query was judged to the end")


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def print_choice(found: Choice) -> None:
    """Print the table of encoders, by quality where there were labels, and what it says."""
    from lookalike.evaluation.model_selection import verdict

    title = f"{len(found.items):,} images of {found.source}"
    if found.judgements is not None:
        title += f", {found.judgements.summary}"
    rows = []
    for each in found.candidates:
        cost = (f"{each.rate:,.0f}", str(each.encoder.dim), f"{each.bytes_per_image:,}")
        if each.quality is None:
            smoke = [f"{share:.2f}" for share in each.smoke.values()]
            rows.append((each.name, *cost, *smoke, "yes" if each.finds_itself else "no"))
            continue
        low, high = each.quality.difference.low, each.quality.difference.high
        difference = "" if each.best else f"[{low:+.3f}, {high:+.3f}]"
        marks = [
            word for word, is_so in (("best", each.best), ("cheapest", each.cheapest)) if is_so
        ]
        if each.quality.within_noise and not each.best:
            marks.append("within the noise")
        rows.append(
            (each.name, _estimate(each.quality.estimate), difference, *cost, ", ".join(marks))
        )
    costs = ("images/s", "dim", "bytes/image")
    if found.judgements is None:
        kinds = [f"found under {kind}" for kind in found.candidates[0].smoke]
        print_table(("encoder", *costs, *kinds, "finds itself"), rows, title=title)
    else:
        columns = ("encoder", found.judgements.measure, "difference to the best", *costs, "")
        print_table(columns, rows, title=title)
    print(verdict(found))
    for name, reason in found.not_tried.items():
        note(f"not tried: {name}: {reason}")


def note_skipped(skipped: Sequence[Failure], what: str) -> None:
    """Name what was skipped on stderr, the first twenty with their reasons."""
    for failure in skipped[:_LISTED]:
        note(f"skipped: {failure.uri}: {failure.reason}")
    if skipped:
        note(f"{len(skipped):,} {what} skipped")


def _estimate(e: Estimate) -> str:
    return f"{e.value:.4f} [{e.interval.low:.4f}, {e.interval.high:.4f}]"


@contextlib.contextmanager
def progress() -> Iterator[ProgressCallback]:
    """Show each task's progress, rate and remaining time on stderr while the block runs."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    with Bars(
        TextColumn("{task.description:24}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
        console=console,
    ) as bars:
        ids: dict[str, Any] = {}
        rates = _Rates()

        def show(p: Progress) -> None:
            if rates.note(p) or p.task not in ids:
                ids[p.task] = bars.add_task(p.task, total=p.total, rate="", note="")
            rate = rates.text(p)
            bars.update(ids[p.task], completed=p.done, total=p.total, rate=rate, note=p.note)

        yield show


class _Rates:
    """When each task started, and so how fast it goes; a task that begins again starts anew."""

    def __init__(self) -> None:
        self._started: dict[str, tuple[float, int]] = {}
        self._last: dict[str, int] = {}

    def note(self, p: Progress) -> bool:
        """Take note of where a task stands; tell whether it begins again."""
        again = p.done < self._last.get(p.task, 0)
        if again or p.task not in self._started:
            self._started[p.task] = time.monotonic(), p.done
        self._last[p.task] = p.done
        return again

    def per_second(self, p: Progress) -> float:
        start, first = self._started[p.task]
        seconds = time.monotonic() - start
        return (p.done - first) / seconds if seconds > 0.2 else 0.0

    def text(self, p: Progress) -> str:
        rate = self.per_second(p)
        return f"{rate:,.0f} {p.unit}/s" if rate else ""


class _Lines:
    """Progress where stderr is a file: a line at each task's end and now and then before."""

    def __init__(self) -> None:
        self._rates = _Rates()
        self._said = time.monotonic()

    def __call__(self, p: Progress) -> None:
        self._rates.note(p)
        now = time.monotonic()
        if p.done != p.total and now - self._said < _PLAIN_EVERY_S:
            return
        self._said = now
        count = f"{p.done:,}" if p.total is None else f"{p.done:,} of {p.total:,}"
        rate = self._rates.per_second(p)
        left = f"{(p.total - p.done) / rate:.0f} s left" if rate and p.total else ""
        said = [f"{p.task}: {count} {p.unit}", self._rates.text(p), left, p.note]
        note("  ".join(part for part in said if part))
