"""Requests and responses of index jobs, as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from lookalike.errors import LookalikeError
from lookalike.server import jobs
from lookalike.server.handles import GalleryHandle
from lookalike.server.job_process import MAX_FAILURES
from lookalike.server.schemas import MAX_TEXT, Problem, RequestModel

_MAX_SOURCES = 1_000


class NewWebhook(RequestModel):
    """Where to tell that a job has ended, if the service allows webhooks."""

    url: Annotated[str, Field(max_length=MAX_TEXT)] = Field(
        description="http or https URL on the public internet; the job is sent to it with POST, "
        "as JSON, up to four times.",
        examples=["https://hooks.example.org/lookalike"],
    )
    secret: Annotated[SecretStr, Field(min_length=16, max_length=256)] = Field(
        description="Key of the signature in the header X-Lookalike-Signature: t=SECONDS,v1=HEX, "
        "the HMAC-SHA256 of SECONDS.BODY. It is not returned.",
        examples=["a-long-random-text"],
    )


class NewJob(RequestModel):
    """A job to begin."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"kind": "sync"}]})

    kind: Literal["sync"] = Field(
        description="sync: bring the rows up to date with the gallery's sources, as "
        "lookalike index GALLERY does."
    )
    sources: (
        Annotated[
            list[Annotated[str, Field(max_length=MAX_TEXT)]],
            Field(min_length=1, max_length=_MAX_SOURCES),
        ]
        | None
    ) = Field(None, description="Names of sources; all by default.", examples=[["photos"]])
    allow_removals: bool = Field(
        False, description="Allow removing more than half of a source's items, or all."
    )
    rehash: bool = Field(
        False, description="Read files again whose size and modification time are unchanged."
    )
    restore_removed: bool = Field(
        False, description="Add images again that were removed from the gallery."
    )
    webhook: NewWebhook | None = Field(None, description="Called when the job has ended.")


class JobProgress(BaseModel):
    """How far a job is."""

    source: str = Field(description="Name of the source that is being synced.")
    task: str = Field(description="What is being done.")
    done: int = Field(description="Units that are done.")
    total: int | None = Field(description="All units; null if that is unknown.")
    unit: str = Field(description="What is counted, such as images.")
    per_second: float | None = Field(
        description="Units per second in the last 15 s; null at first."
    )
    remaining_seconds: float | None = Field(
        description="Seconds until the task is done, at this rate; null if that is unknown."
    )


class FailedImage(BaseModel):
    """An image that could not be indexed."""

    name: str = Field(description="Name of the file, without its folder.")
    reason: str = Field(description="What is wrong with it.")


class SyncSummary(BaseModel):
    """What a sync did, in images."""

    added: int = Field(0, description="New images.")
    updated: int = Field(0, description="Images whose content or metadata changed.")
    moved: int = Field(0, description="Images that were recognized under a new ID.")
    removed: int = Field(0, description="Items whose file is gone.")
    unchanged: int = Field(0, description="Images that are as they were.")
    kept: int = Field(0, description="Items whose file exists but is not read now.")
    failed: int = Field(0, description="Images that could not be read or encoded.")
    skipped: int = Field(0, description="Files that are not taken.")


class SyncedSource(BaseModel):
    """What a job did with one source."""

    source: str = Field(description="Name of the source.")
    summary: SyncSummary | None = Field(
        description="What was done; null if the source could not be synced."
    )
    failed: list[FailedImage] = Field(
        description=f"Images that could not be read or encoded, the first {MAX_FAILURES}."
    )
    skipped: dict[str, int] = Field(description="Files that are not taken, by reason.")
    problem: Problem | None = Field(description="Why the source could not be synced; usually null.")


class JobWebhook(BaseModel):
    """What became of a webhook."""

    origin: str = Field(description="Scheme and host of its URL.")
    state: Literal["pending", "delivered", "failed"] = Field(
        description="pending until the job has ended and the webhook was called."
    )
    attempts: int = Field(description="Requests that were sent.")
    error: str | None = Field(description="Why the last one failed; null if none did.")


class Job(BaseModel):
    """An index job."""

    id: str = Field(description="ID of the job.")
    kind: Literal["sync"] = Field(description="Kind of the job.")
    gallery: str = Field(description="Name of the gallery.")
    state: jobs.State = Field(
        description="queued, running, succeeded (some images may have failed), failed (see "
        "problem, or those of the sources), or cancelled."
    )
    created_at: str = Field(description="Time of the request (ISO 8601, UTC).")
    started_at: str | None = Field(description="Time of the start; null until then.")
    finished_at: str | None = Field(description="Time of the end; null until then.")
    progress: JobProgress | None = Field(description="How far it is, or was; null at first.")
    summary: SyncSummary = Field(description="What was done with all sources so far.")
    sources: list[SyncedSource] = Field(description="What was done with each source so far.")
    problem: Problem | None = Field(
        description="Why the job failed as a whole; null if it did not."
    )
    webhook: JobWebhook | None = Field(None, description="Its webhook; null if it has none.")


class JobList(BaseModel):
    """The jobs of a gallery."""

    jobs: list[Job] = Field(description="Jobs since the service was started, newest first.")


def described(job: jobs.Job, handle: GalleryHandle) -> Job:
    """Return a job as it is described to clients."""
    sources = [_source(each, handle) for each in job.results]
    summaries = [each.summary for each in sources if each.summary is not None]
    total = {
        name: sum(getattr(each, name) for each in summaries) for name in SyncSummary.model_fields
    }
    progress, webhook = job.progress, job.webhook
    return Job(
        id=job.id,
        kind="sync",
        gallery=job.gallery,
        state=job.state,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        progress=None
        if progress is None
        else JobProgress(**{name: getattr(progress, name) for name in JobProgress.model_fields}),
        summary=SyncSummary(**total),
        sources=sources,
        problem=None if job.error is None else _problem(job.error, handle),
        webhook=None
        if webhook is None
        else JobWebhook(
            origin=webhook.origin,
            state=webhook.state,
            attempts=webhook.attempts,
            error=webhook.error,
        ),
    )


def _source(result: jobs.SourceResult, handle: GalleryHandle) -> SyncedSource:
    summary = None
    if result.error is None:
        skipped = sum(result.skipped.values())
        summary = SyncSummary(**result.counts, failed=result.failures, skipped=skipped)
    return SyncedSource(
        source=result.source,
        summary=summary,
        failed=[FailedImage(name=name, reason=reason) for name, reason in result.failed],
        skipped=dict(result.skipped),
        problem=None if result.error is None else _problem(result.error, handle),
    )


def _problem(error: LookalikeError, handle: GalleryHandle) -> Problem:
    return Problem(**jobs.problem_of_job(error, handle).as_dict())
