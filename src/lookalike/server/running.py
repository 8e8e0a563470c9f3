"""Requests that are being processed: each ends at its deadline, or when its client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope

from lookalike.cancellation import Cancellation, cancellable
from lookalike.errors import TimeLimitError
from lookalike.server.metrics import Metrics
from lookalike.server.problems import problem_of, stopping
from lookalike.server.sending import ResponseSender


class ClientDisconnected(Exception):  # noqa: N818 - not an error
    """The client disconnected before it got a response."""


class _Running:
    """The work for one request. Its threads see the cancellation, its task is cancelled."""

    def __init__(
        self, cancellation: Cancellation, work: asyncio.Task[None], sender: ResponseSender
    ) -> None:
        self._cancellation = cancellation
        self._work = work
        self._sender = sender
        self.reason: Exception | None = None

    def end(self, reason: Exception) -> None:
        """End the work, unless it is done."""
        if self.reason is None and not self._work.done():
            self.reason = reason
            self._cancellation.cancel()
            self._work.cancel()

    def disconnect(self, watch: asyncio.Task[None]) -> None:
        """End the work, since the client disconnected."""
        if not watch.cancelled() and not self._sender.is_complete:
            self.end(ClientDisconnected())

    def stop(self) -> None:
        """End the work, since the service stops."""
        if not self._sender.started:
            self.end(stopping())

    def time_out(self, seconds: float) -> None:
        """End the work, since it took too long; sending its result has limits of its own."""
        if not self._sender.started:
            limit = f"the request took longer than {seconds:g} s, the limit"
            self.end(problem_of(TimeLimitError(limit)))


class RunningRequests:
    """Runs the application for requests whose bodies have been read.

    Args:
        seconds: time until a response starts; sending it has limits of its own.
        metrics: counts requests that are ended.
    """

    def __init__(self, seconds: float, metrics: Metrics) -> None:
        self._seconds = seconds
        self._metrics = metrics
        self._running: set[_Running] = set()

    async def run(
        self,
        app: ASGIApp,
        scope: Scope,
        take_body: Callable[[], bytes],
        receive: Receive,
        sender: ResponseSender,
    ) -> None:
        """Run the application; ``take_body`` returns the body of the request, once.

        Raises:
            ClientDisconnected: the client disconnected.
            ProblemError: the time for the request is over, or the service stops.
        """
        cancellation = Cancellation(self._seconds)
        gone = asyncio.create_task(_wait_for_disconnect(receive))

        async def call() -> None:
            await app(scope, _replay(take_body, gone), sender)

        with cancellable(cancellation):
            work = asyncio.create_task(call())
        running = _Running(cancellation, work, sender)
        gone.add_done_callback(running.disconnect)
        timer = asyncio.get_running_loop().call_later(
            self._seconds, running.time_out, self._seconds
        )
        self._running.add(running)
        try:
            await work
        except asyncio.CancelledError:
            if running.reason is None:
                raise
            raise running.reason from None
        finally:
            cancellation.cancel()  # also of threads whose results are not needed any more
            timer.cancel()
            gone.cancel()
            self._running.discard(running)
            if running.reason is not None:
                self._metrics.cancelled.labels(_label(running.reason)).inc()

    def stop(self) -> None:
        """End all requests whose responses have not started, since the service stops."""
        for running in list(self._running):
            running.stop()


def _label(reason: Exception) -> str:
    return getattr(reason, "kind", "disconnected")


async def _wait_for_disconnect(receive: Receive) -> None:
    """Wait until the client disconnects, or has got its response."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _replay(take_body: Callable[[], bytes], gone: asyncio.Task[None]) -> Receive:
    """Return a receive that yields a body that was read before, then waits for a disconnect."""
    pending = [take_body]

    async def receive() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop()(), "more_body": False}
        await asyncio.wait((gone,))
        return {"type": "http.disconnect"}

    return receive
