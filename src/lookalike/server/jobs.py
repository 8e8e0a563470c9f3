"""Index jobs: a gallery is synced with its sources in a process of its own, while it is searched.

One job runs at a time, and others wait; there is one of each gallery. A job that is cancelled, or
whose service stops, is killed: what it has written stays, and the next one goes on from there.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from lookalike import errors
from lookalike.artifacts import sole_writer
from lookalike.errors import InputError, LookalikeError, SettingError
from lookalike.files import unescape_name
from lookalike.gallery.ids import UPLOADS
from lookalike.gallery.storage import INDEXING
from lookalike.server.handles import GalleryHandle
from lookalike.server.problems import ProblemError, problem_of, without_folders
from lookalike.server.webhooks import Webhook, deliver

log = logging.getLogger(__name__)

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]

_COMMAND = (sys.executable, "-m", "lookalike.server.job_process")

_KEPT = 100
"""Jobs that have ended and can still be read."""

MAX_QUEUED = 16
"""Jobs that wait or run."""

_WINDOW_S = 15.0
"""Seconds of progress from which the rate is computed."""

_WEBHOOKS = 2
"""Webhooks that are sent at a time."""

_MAX_LINE = 1 << 20

_COUNTS = ("added", "updated", "moved", "removed", "unchanged", "kept")


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job is.

    Args:
        source: that is being synced.
        task: what is being done.
        done: units so far.
        total: of all units; None if that is unknown.
        unit: such as images.
        per_second: units in each of the last seconds; None at first.
        remaining_seconds: until this task is done, at this rate; None if that is unknown.
    """

    source: str
    task: str
    done: int
    total: int | None
    unit: str
    per_second: float | None = None
    remaining_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class SourceResult:
    """What a job did with one source.

    Args:
        source: its name.
        counts: images by what was done with them; empty if the source could not be synced.
        failed: name and reason of images that could not be read, the first 100.
        failures: their number.
        skipped: files that are not taken, by reason.
        error: why the source could not be synced.
    """

    source: str
    counts: Mapping[str, int] = field(default_factory=dict)
    failed: Sequence[tuple[str, str]] = ()
    failures: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    error: LookalikeError | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is at one time.

    Args:
        id: identifies it in the service.
        gallery: name of the gallery in the service.
        sources: names of the sources to sync with.
        allow_removals: allow removing more than half of a source's rows.
        rehash: read files again that seem unchanged.
        restore_removed: add images again that were removed.
        created_at: ISO 8601, UTC; the others are None until then.
        webhook: where to tell that it has ended.
        error: why it failed as a whole.
    """

    id: str
    gallery: str
    sources: Sequence[str]
    allow_removals: bool = False
    rehash: bool = False
    restore_removed: bool = False
    state: State = "queued"
    created_at: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    progress: JobProgress | None = None
    results: tuple[SourceResult, ...] = ()
    error: LookalikeError | None = None
    webhook: Webhook | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state not in ("queued", "running")


class Jobs:
    """The index jobs of a service.

    Args:
        describe: returns the JSON of a job of a gallery that has ended, for its webhook.
    """

    def __init__(self, describe: Callable[[Job, GalleryHandle], bytes]) -> None:
        self._describe = describe
        self._lock = threading.Lock()
        self._jobs: dict[str, _Running] = {}
        self._stopping = threading.Event()
        self._runner = ThreadPoolExecutor(1, thread_name_prefix="lookalike-job")
        self._sender = ThreadPoolExecutor(_WEBHOOKS, thread_name_prefix="lookalike-webhook")

    def start(
        self,
        handle: GalleryHandle,
        sources: Sequence[str] | None = None,
        *,
        allow_removals: bool = False,
        rehash: bool = False,
        restore_removed: bool = False,
        webhook: Webhook | None = None,
    ) -> Job:
        """Begin a job, or let it wait for others.

        Args:
            handle: of the gallery.
            sources: names of its sources; all by default.
            allow_removals: allow removing more than half of a source's rows, or all.
            rehash: read files again whose size and modification time are unchanged.
            restore_removed: add images again that were removed from the gallery.
            webhook: where to tell that it has ended.

        Raises:
            InputError: the gallery has no such source, or none.
            BusyError: another process syncs the gallery.
            StorageError: the gallery cannot be written.
            ProblemError: there is a job of the gallery already, or there are too many.
        """
        gallery = handle.gallery
        recorded = [name for name in gallery.sources if name != UPLOADS]
        chosen = recorded if sources is None else list(dict.fromkeys(sources))
        for name in chosen:
            if name not in recorded:
                raise InputError(
                    f"{{sources}}: {name[:80]!r} is no source of the gallery; there are: "
                    f"{', '.join(recorded) or 'none'}",
                    sources=None,
                )
        if not chosen:
            raise SettingError(
                "the gallery has no sources to sync with; add one: lookalike index GALLERY SOURCE"
            )
        with self._lock:
            self._refuse_second(handle.name)
        gallery.check_writable()
        with sole_writer(gallery.path / INDEXING, what=f"the gallery {handle.name}"):
            pass  # nobody else syncs it now
        job = Job(
            secrets.token_hex(8),
            handle.name,
            chosen,
            allow_removals,
            rehash,
            restore_removed,
            created_at=_now(),
            webhook=webhook,
        )
        with self._lock:
            self._refuse_second(handle.name)
            self._add(_Running(job, handle))
        return job

    def _refuse_second(self, gallery: str) -> None:
        """Raise ProblemError if there is a job of a gallery already, or too many of others."""
        active = [each for each in self._jobs.values() if not each.job.is_over]
        for each in active:
            if each.job.gallery == gallery:
                raise ProblemError(
                    409,
                    "job-exists",
                    f"the job {each.job.id} is {each.job.state}; wait until it has ended, or "
                    "cancel it",
                    extensions={"job": each.job.id},
                )
        if len(active) >= MAX_QUEUED:
            raise ProblemError(
                429,
                "too-many-requests",
                f"{len(active)} jobs are waiting, the limit; try again later",
                {"retry-after": "10"},
            )

    def _add(self, running: _Running) -> None:
        """Let a job run when it is its turn; forget the oldest ones."""
        over = [each.job.id for each in self._jobs.values() if each.job.is_over]
        for job_id in over[: max(0, len(over) + 1 - _KEPT)]:
            del self._jobs[job_id]
        self._jobs[running.job.id] = running
        self._runner.submit(self._run, running)

    def list(self, gallery: str) -> list[Job]:
        """Return the jobs of a gallery, the newest first."""
        with self._lock:
            jobs = [each.job for each in self._jobs.values()]
        return [job for job in reversed(jobs) if job.gallery == gallery]

    def get(self, gallery: str, job_id: str) -> Job:
        """Return a job of a gallery.

        Raises:
            ProblemError: there is no such job.
        """
        return self._find(gallery, job_id).job

    def cancel(self, gallery: str, job_id: str) -> Job:
        """End a job; return it as it is then. What it has written stays.

        Raises:
            ProblemError: there is no such job.
        """
        running = self._find(gallery, job_id)
        if not running.job.is_over:
            running.cancel()
            running.ended.wait(_END_S)
        return running.job

    def _find(self, gallery: str, job_id: str) -> _Running:
        with self._lock:
            running = self._jobs.get(job_id)
        if running is None or running.job.gallery != gallery:
            raise ProblemError(
                404,
                "job-not-found",
                f"there is no job {job_id[:80]!r} of this gallery; the last {_KEPT} are known "
                "since the service was started",
            )
        return running

    def _run(self, running: _Running) -> None:
        """Run a job in this thread."""
        running.run()
        if running.job.webhook is not None and not self._stopping.is_set():
            self._sender.submit(self._tell, running)

    def _tell(self, running: _Running) -> None:
        webhook = running.job.webhook
        assert webhook is not None
        body = self._describe(running.job, running.handle)
        running.update(webhook=deliver(webhook, body, self._stopping))

    def close(self) -> None:
        """End all jobs, and wait for that."""
        self._stopping.set()
        with self._lock:
            jobs = list(self._jobs.values())
        for each in jobs:
            if not each.job.is_over:
                each.cancel()
        for pool in (self._runner, self._sender):
            pool.shutdown(wait=False, cancel_futures=True)
        for each in jobs:
            if each.process is not None:
                each.ended.wait(_END_S)


_END_S = 3.0
"""Seconds to wait for the end of a process that was killed."""


class _Running:
    """A job, and the process that does it."""

    def __init__(self, job: Job, handle: GalleryHandle) -> None:
        self.job = job
        self.ended = threading.Event()
        self.process: subprocess.Popen[bytes] | None = None
        self.handle = handle
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, **changes: Any) -> None:
        """Change the job."""
        with self._lock:
            self.job = replace(self.job, **changes)

    def cancel(self) -> None:
        """End the job, whether it has begun or not."""
        with self._lock:
            self._is_cancelled = True
            process = self.process
        if process is not None:
            process.kill()
        elif self.job.state == "queued":
            self._end("cancelled")

    def run(self) -> None:
        """Run the job, in a process."""
        try:
            with self._lock:
                if self._is_cancelled:
                    return
                self.process = process = subprocess.Popen(
                    _COMMAND,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C in the shell goes to the service only
                )
            self.update(state="running", started_at=_now())
            with process:
                self._follow(process)
        except OSError as error:
            self.update(error=LookalikeError(f"the process of the job ended: {error}"))
        except Exception:
            log.exception("%s: job %s", self.job.gallery, self.job.id)
            self.update(error=LookalikeError("a bug in the service; see the service's log"))
        finally:
            self._end(self._outcome())

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        """Send the request, and read messages until the process ends."""
        assert process.stdin is not None
        assert process.stdout is not None
        request = {
            "gallery": str(self.handle.gallery.location),
            "sources": list(self.job.sources),
            "allow_removals": self.job.allow_removals,
            "rehash": self.job.rehash,
            "restore_removed": self.job.restore_removed,
        }
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        while line := process.stdout.readline(_MAX_LINE):
            self._receive(json.loads(line))
        if process.wait() and not self._is_cancelled and self.job.error is None:
            self.update(
                error=LookalikeError(
                    f"the process of the job ended with status {process.returncode}; what it has "
                    "written stays: start a new job to go on"
                )
            )

    def _receive(self, message: Mapping[str, Any]) -> None:
        if "progress" in message:
            self.update(progress=self._progress(message["progress"]))
        elif "report" in message:
            report = message["report"]
            result = SourceResult(
                message["source"],
                {name: report[name] for name in _COUNTS},
                [self._failure(each["uri"], each["reason"]) for each in message["failed"]],
                report["failures"],
                report["skipped"],
            )
            self.update(results=(*self.job.results, result))
        elif "source" in message:
            result = SourceResult(message["source"], error=_error_of(message["error"]))
            self.update(results=(*self.job.results, result))
        else:
            self.update(error=_error_of(message["error"]))

    @staticmethod
    def _failure(uri: str, reason: str) -> tuple[str, str]:
        """Return name and reason of a failed image, without folders."""
        name = re.split(r"[/\\]", uri.partition("?")[0])[-1]
        reason = reason.replace(uri, name).removeprefix(f"{name}: ")
        return name, without_folders(reason)

    def _progress(self, fields: Mapping[str, Any]) -> JobProgress:
        """Return progress with its rate in the last seconds."""
        progress = JobProgress(**fields)
        before, now, samples = self.job.progress, time.monotonic(), self._samples
        is_same = before is not None and (before.source, before.task) == (
            progress.source,
            progress.task,
        )
        if not is_same:
            samples.clear()
        samples.append((now, progress.done))
        while len(samples) > 2 and samples[0][0] < now - _WINDOW_S:
            samples.popleft()
        start, done = samples[0]
        seconds = now - start
        if seconds <= 0 or progress.done <= done:
            return progress
        rate = (progress.done - done) / seconds
        left = None if progress.total is None else (progress.total - progress.done) / rate
        return replace(progress, per_second=rate, remaining_seconds=left)

    def _outcome(self) -> State:
        job = self.job
        if self._is_cancelled:
            return "cancelled"
        all_failed = bool(job.results) and all(each.error is not None for each in job.results)
        return "failed" if job.error is not None or all_failed else "succeeded"

    def _end(self, state: State) -> None:
        with self._lock:
            if not self.job.is_over:
                self.job = replace(self.job, state=state, finished_at=_now())
        self.ended.set()


def _error_of(fields: Mapping[str, str]) -> LookalikeError:
    """Return an error that the process sent."""
    kind = getattr(errors, fields["kind"], LookalikeError)
    is_error = isinstance(kind, type) and issubclass(kind, LookalikeError)
    error: LookalikeError = LookalikeError.__new__(kind if is_error else LookalikeError)
    LookalikeError.__init__(error, fields["message"])
    return error


def problem_of_job(error: LookalikeError, handle: GalleryHandle) -> ProblemError:
    """Return the problem that reports an error of a job, without locations of files."""

    def without_sources(text: str) -> str:
        for name, spec in handle.gallery.sources.items():
            for place in (unescape_name(spec), spec):
                text = text.replace(place, name)
        return text

    problem = problem_of(error, hide=[handle.without_paths, without_sources, without_folders])
    return replace(problem, headers={}, about=())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
