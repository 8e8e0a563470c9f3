"""What this machine has of a model of the hub, without a request and without reading files."""

from __future__ import annotations

from pathlib import Path

from lookalike.hub.cache import ModelCache, OtherCache
from lookalike.hub.names import check_repo, check_revision


def local_files(repo: str, revision: str = "main") -> dict[str, Path]:
    """Return the files of a model that are in the cache, or in that of other tools, by path.

    They are those that :meth:`lookalike.hub.HubModel.fetch` would return without a download, unless
    one of them is damaged.

    Args:
        repo: OWNER/NAME.
        revision: a branch, a tag or a commit.

    Raises:
        InputError: the name or revision can be none of the hub.
    """
    cache, other = ModelCache(check_repo(repo)), OtherCache(repo)
    revision = check_revision(revision)
    commit = cache.record().revisions.get(revision) or other.commit(revision)
    if commit is None:
        return {}
    return {**other.files(commit), **cache.files(commit)}
