"""Requests to the hub of models, over plain HTTP.

A file is described by the response to ``HEAD ENDPOINT/OWNER/NAME/resolve/REVISION/PATH``: its
commit (``X-Repo-Commit``), size (``X-Linked-Size``, else ``Content-Length``) and sum
(``X-Linked-Etag``, else ``ETag``). The hub redirects large files to another host, which is sent no
token.
"""

from __future__ import annotations

import http.client
import re
from dataclasses import dataclass
from urllib.parse import quote

from lookalike.config import HubSettings
from lookalike.errors import FetchError
from lookalike.formatting import printable, shorten
from lookalike.hub.names import is_commit
from lookalike.transfer.client import (
    MAX_REDIRECTS,
    REDIRECTS,
    Transfer,
    entity_tag,
    host_of,
    status_of,
)
from lookalike.transfer.sums import RemoteFile

_MAX_BYTES = 50_000_000_000


@dataclass(frozen=True, slots=True)
class Description:
    """A commit, and a file of it, None if it has no such file."""

    commit: str
    file: RemoteFile | None


class MissingRevisionError(FetchError):
    """The model has no such revision."""


class HubClient(Transfer):
    """The hub, for one model.

    Args:
        config: its address and token.
        repo: OWNER/NAME, checked.
    """

    setting = "HF_ENDPOINT"
    offline_hint = ", or use what is cached: HF_HUB_OFFLINE=1"

    def __init__(self, config: HubSettings, repo: str) -> None:
        super().__init__(f"hub:{repo}", config.endpoint, config.token)
        self._config = config
        self._repo = repo

    def describe(self, revision: str, path: str) -> Description | None:
        """Return the commit of a revision and one of its files.

        None: the hub says that something is not there, but not whether the file, the revision or
        the model.

        Raises:
            FetchError: the model or revision is not there or may not be read, or the hub does not
                answer.
        """
        results: list[Description | None] = []
        self.retry(lambda: results.append(self._describe(revision, path)), lambda: 0)
        return results[0]

    def _describe(self, revision: str, path: str) -> Description | None:
        url, commit, tag, size = self.url(revision, path), "", "", ""
        for _ in range(MAX_REDIRECTS + 1):
            with self.open("HEAD", url, {}) as response:
                headers, status = response.headers, response.status
                says_commit = headers.get("X-Repo-Commit", "")
                commit = commit or says_commit
                tag = tag or headers.get("X-Linked-Etag", "")
                size = size or headers.get("X-Linked-Size", "")
                if status in REDIRECTS:
                    target = self.redirect(url, headers)
                    if commit and tag and size:
                        break
                    url = target
                    continue
                if status == http.client.NOT_FOUND:
                    return self._not_found(headers, revision, commit)
                self.check(response, url, self.label(path))
                if says_commit or self.is_own(url):
                    tag = tag or headers.get("ETag", "")
                size = size or headers.get("Content-Length", "")
                break
        else:
            raise FetchError(f"{self.label(path)}: redirected more than {MAX_REDIRECTS} times")
        self._check_commit(commit, revision)
        if not re.fullmatch("[0-9]{1,15}", size) or int(size) > _MAX_BYTES:
            raise FetchError(
                f"{self.label(path)}: {self._config.endpoint} does not say its size, or one of "
                f"over {_MAX_BYTES / 1e9:g} GB"
            )
        return Description(commit, RemoteFile.of_sum(int(size), entity_tag(tag)))

    def _not_found(
        self, headers: http.client.HTTPMessage, revision: str, commit: str
    ) -> Description | None:
        """Return the description of a file that is not there.

        Raises:
            FetchError: the model is not there.
            MissingRevisionError: the revision is not there.
        """
        name = self.name
        match headers.get("X-Error-Code", ""):
            case "RepoNotFound":
                raise self._no_model()
            case "RevisionNotFound":
                raise MissingRevisionError(
                    f"{name}: has no revision {revision!r}; see "
                    f"{self._config.endpoint}/{self._repo}/tree/main for its branches and tags"
                )
            case "EntryNotFound" if commit or is_commit(revision):
                self._check_commit(commit or revision, revision)
                return Description(commit or revision, None)
        return None

    def _check_commit(self, commit: str, revision: str) -> None:
        """Check that a response is of a commit, and of the one that was asked for."""
        endpoint = self._config.endpoint
        if not is_commit(commit):
            raise FetchError(
                f"{self.name}: {endpoint} does not answer as a hub of models does (without "
                f"X-Repo-Commit); check {self.setting} and the proxy"
            )
        if is_commit(revision) and commit != revision:
            raise FetchError(
                f"{self.name}: {endpoint} answered with commit {commit[:12]}, not "
                f"{revision[:12]}; try again"
            )

    def check(self, response: http.client.HTTPResponse, url: str, label: str) -> None:
        """Check that a response is a success; see :meth:`Transfer.check`."""
        status, headers = response.status, response.headers
        if status < 300:
            return
        config, name = self._config, self.name
        code, text = headers.get("X-Error-Code", ""), headers.get("X-Error-Message", "")
        text = shorten(printable(text), 200)
        page = f"{config.endpoint}/{self._repo}"
        if not self.is_own(url):
            answer = f"{host_of(url)} answered {status_of(response)}"
            raise FetchError(f"{label}: {answer}; try again")
        if code == "GatedRepo":
            token = (
                f"the account of the token in {config.token_source}"
                if config.token
                else f"an account, and set HF_TOKEN to a token of it ({config.endpoint}"
                "/settings/tokens)"
            )
            raise FetchError(
                f"{name}: gated: its owner has to grant access. Accept its license at {page} with "
                f"{token}"
            )
        if status == http.client.UNAUTHORIZED and config.token and "credential" in text.lower():
            raise FetchError(
                f"{name}: {config.endpoint} does not accept the token in {config.token_source}; "
                f"renew it ({config.endpoint}/settings/tokens), or send none with "
                "HF_HUB_DISABLE_IMPLICIT_TOKEN=1"
            )
        if status == http.client.UNAUTHORIZED or code == "RepoNotFound":
            raise self._no_model()
        if status == http.client.FORBIDDEN:
            token = config.token_source or "HF_TOKEN, which is not set"
            raise FetchError(
                f"{name}: may not be read{text and f' ({text})'}. See {page}; the token is the one "
                f"in {token}"
            )
        answer = f"{host_of(url)} answered {status_of(response)}"
        raise FetchError(f"{label}: {answer}{text and f' ({text})'}")

    def _no_model(self) -> FetchError:
        config = self._config
        access = (
            f"the token in {config.token_source} has no access to it"
            if config.token
            else "it is private: then set HF_TOKEN to a token with access"
        )
        return FetchError(
            f"{self.name}: {config.endpoint} has no such model, or {access}. Check the "
            f"spelling of owner and name at {config.endpoint}/models?search="
            f"{quote(self._repo.partition('/')[2])}"
        )

    def url(self, revision: str, path: str) -> str:
        """Return the address of a file."""
        place = f"{quote(revision, safe='')}/{quote(path)}"
        return f"{self._config.endpoint}/{self._repo}/resolve/{place}"

    def label(self, path: str) -> str:
        """Return what a file is called in messages."""
        return f"{self.name}: {path}"
