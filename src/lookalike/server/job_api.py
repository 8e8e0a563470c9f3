"""HTTP API, version 1: index jobs."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Response

from lookalike.errors import InputError
from lookalike.server import job_schemas as schemas
from lookalike.server.dependencies import GalleryDep, ServiceDep
from lookalike.server.json_bodies import JsonRoute
from lookalike.server.openapi import error_responses
from lookalike.server.problems import ProblemError
from lookalike.server.webhooks import Webhook

router = APIRouter(prefix="/v1/galleries/{gallery}/jobs", tags=["jobs"], route_class=JsonRoute)

JobId = Annotated[
    str, Path(max_length=100, description="ID of the job.", examples=["8d1f0c2b9a7e6354"])
]

_LINKS = {
    "links": {
        name: {
            "operationId": name,
            "parameters": {
                "path.gallery": "$request.path.gallery",
                "path.job": "$response.body#/id",
            },
        }
        for name in ("get_job", "cancel_job")
    }
}


@router.post(
    "",
    status_code=202,
    summary="Begin an index job",
    responses={202: {"description": "Queued", **_LINKS}, **error_responses(409, 507)},
)
async def start_job(
    opened: GalleryDep, service: ServiceDep, response: Response, body: schemas.NewJob
) -> schemas.Job:
    """Sync the gallery with its sources, in a process of its own; the gallery can be searched.

    One job of all galleries runs at a time; others wait. It is a 409 if the gallery has a job
    already, or if another process indexes it.
    """
    handle, webhook = opened.handle, None
    if body.webhook is not None:
        if not service.settings.allow_webhooks:
            raise ProblemError(
                403,
                "forbidden",
                "ask for the job's state with GET instead, or start the service with: lookalike "
                "serve GALLERY --allow-webhooks",
            )
        webhook = Webhook(body.webhook.url, body.webhook.secret.get_secret_value())
        try:
            webhook.check()
        except InputError as error:
            raise error.about("webhook/url") from None
    start = partial(
        service.jobs.start,
        handle,
        body.sources,
        allow_removals=body.allow_removals,
        rehash=body.rehash,
        restore_removed=body.restore_removed,
        webhook=webhook,
    )
    async with service.slot():
        job = await service.in_thread(start)
    response.headers["location"] = f"/v1/galleries/{handle.name}/jobs/{job.id}"
    return schemas.described(job, handle)


@router.get("", summary="List the index jobs of a gallery", responses=error_responses())
async def list_jobs(opened: GalleryDep, service: ServiceDep) -> schemas.JobList:
    """Return jobs since the service was started, the newest first; of those that ended, 100."""
    handle = opened.handle
    jobs = [schemas.described(job, handle) for job in service.jobs.list(handle.name)]
    return schemas.JobList(jobs=jobs)


@router.get("/{job}", summary="Get an index job", responses=error_responses())
async def get_job(opened: GalleryDep, service: ServiceDep, job: JobId) -> schemas.Job:
    """Return a job with its state, its progress and what it has done so far."""
    return schemas.described(service.jobs.get(opened.name, job), opened.handle)


@router.delete("/{job}", summary="Cancel an index job", responses=error_responses())
async def cancel_job(opened: GalleryDep, service: ServiceDep, job: JobId) -> schemas.Job:
    """End a job, and return it. What it has written stays; one that has ended stays as it is."""
    cancelled = await service.in_thread(service.jobs.cancel, opened.name, job)
    return schemas.described(cancelled, opened.handle)
