"""Names of models, revisions and files on the hub: what may become part of a path or an address."""

from __future__ import annotations

import re

from lookalike.errors import ArtifactError, InputError
from lookalike.files import bare_name
from lookalike.formatting import printable, shorten

_PART = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]{0,198}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ADDRESS = re.compile(r"(?:https?:)?//[^/]+/([^/?#]+/[^/?#]+)(?:/.*)?", re.DOTALL)
_EXAMPLE = "hub:Xenova/clip-vit-base-patch32"
_LONGEST_PATH = 1000


def check_repo(repo: str) -> str:
    """Return the name of a model, ``OWNER/NAME``.

    Raises:
        InputError: it is none; the message has the nearest name that could be one.
    """
    if (address := _ADDRESS.fullmatch(repo)) is not None and _is_repo(address[1]):
        raise InputError(f"hub:{_shown(repo)}: is an address; write hub:{address[1]}")
    if "/" not in repo:
        raise InputError(
            f"hub:{_shown(repo)}: a model of the hub has an owner: hub:OWNER/NAME, such as "
            f"{_EXAMPLE}"
        )
    if not _is_repo(repo):
        raise InputError(
            f"hub:{_shown(repo)}: not a model of the hub; write hub:OWNER/NAME[@REVISION], such as "
            f"{_EXAMPLE}"
        )
    return repo


def _is_repo(text: str) -> bool:
    parts = text.split("/")
    return len(parts) == 2 and all(map(_is_part, parts))


def _is_part(part: str) -> bool:
    hidden = ".." in part or "--" in part or part.endswith((".git", ".lock"))
    return _PART.fullmatch(part) is not None and not hidden


def check_revision(revision: str) -> str:
    """Return a branch, a tag or a commit; the latter in lower case.

    Raises:
        InputError: no revision can have that name.
    """
    parts = revision.split("/")
    if _REVISION.fullmatch(revision) is None or any(
        part in ("", ".", "..") or ".." in part or part.endswith((".", ".lock")) for part in parts
    ):
        raise InputError(
            f"{_shown(revision)!r}: not a revision of a model; name a branch, a tag or a commit, "
            "such as main"
        )
    lower = revision.lower()
    return lower if is_commit(lower) else revision


def is_commit(revision: str) -> bool:
    """Return whether a revision is the full name of a commit."""
    return _COMMIT.fullmatch(revision) is not None


def check_path(path: str, repo: str) -> str:
    """Return the path of a file in a model, with slashes.

    Raises:
        ArtifactError: it leads out of the model, or has characters that a file's name cannot have.
    """
    for part in path.split("/"):
        bare_name(part, f"hub:{repo}")
    if len(path) > _LONGEST_PATH:
        raise ArtifactError(f"hub:{repo}: {_shown(path)}: the path is too long")
    return path


def _shown(text: str) -> str:
    return shorten(printable(text), 80)
