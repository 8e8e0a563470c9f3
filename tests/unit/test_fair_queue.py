"""Clients take turns by the cost of their work; of one client, ranks decide."""

from __future__ import annotations

from lookalike.server.fair_queue import FairQueue


def anything(_: object) -> bool:
    return True


def taken(queue: FairQueue[str], cost: float = 1.0) -> list[str]:
    """Take everything, and charge each item as much."""
    order = []
    while (entry := queue.take(anything)) is not None:
        client, item = entry
        queue.charge(client, cost)
        order.append(item)
    return order


def test_clients_take_turns() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        queue.put("a", 0, f"a{number}")
    for number in range(2):
        queue.put("b", 0, f"b{number}")
    assert len(queue) == 6
    assert taken(queue) == ["a0", "b0", "a1", "b1", "a2", "a3"]
    assert len(queue) == 0


def test_costly_work_is_paid_for() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(3):
        queue.put("dear", 0, f"dear{number}")
        queue.put("cheap", 0, f"cheap{number}")
    order = []
    while (entry := queue.take(anything)) is not None:
        queue.charge(entry[0], 10.0 if entry[0] == "dear" else 1.0)
        order.append(entry[1])
    assert order == ["dear0", "cheap0", "cheap1", "cheap2", "dear1", "dear2"]


def test_who_was_away_has_no_credit_and_no_debt_for_ever() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(50):
        queue.put("busy", 0, str(number))
    taken(queue)
    for number in range(3):
        queue.put("new", 0, f"new{number}")
        queue.put("busy", 0, f"busy{number}")
    assert taken(queue)[:4] in (
        ["new0", "busy0", "new1", "busy1"],
        ["new0", "new1", "busy0", "new2"],
    )


def test_ranks_of_one_client() -> None:
    queue: FairQueue[str] = FairQueue()
    for rank, item in ((2, "batch"), (1, "thumbnail"), (0, "query"), (0, "query2")):
        queue.put("", rank, item)
    assert taken(queue) == ["query", "query2", "thumbnail", "batch"]


def test_what_does_not_fit_waits_and_lets_others_pass() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put("a", 0, "large")
    queue.put("a", 1, "small")
    assert queue.take(lambda item: item != "large") == ("a", "small")
    assert queue.take(lambda item: item != "large") is None
    assert queue.take(anything) == ("a", "large")


def test_removed_items_are_not_taken() -> None:
    queue: FairQueue[str] = FairQueue()
    first, second = "first", "second"
    queue.put("a", 0, first)
    queue.put("a", 0, second)
    queue.remove("a", 0, first)
    queue.remove("a", 0, first)
    queue.remove("b", 1, first)
    assert taken(queue) == [second]


def test_clients_that_left_are_forgotten() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(1000):
        queue.put(str(number), 0, "x")
        taken(queue)
    assert len(queue._used) <= 2
