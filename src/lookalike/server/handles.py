"""The galleries of a service, each in the state that it has now."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from lookalike.gallery.gallery import Gallery
from lookalike.gallery.state import GalleryState
from lookalike.server.admission import FairSlots
from lookalike.server.batching import Batcher
from lookalike.stores.base import replaced_error

log = logging.getLogger(__name__)

IDLE_S = 2.0
"""Seconds without a request after which the rows of a gallery are no longer held open."""


@dataclass(frozen=True, slots=True)
class GalleryFacts:
    """What is known of a gallery in one state without reading it again."""

    state: GalleryState
    dim: int
    metric: str
    encoder: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class OpenGallery:
    """A gallery of the service in one state: a snapshot of its rows, and its encoder in batches."""

    handle: GalleryHandle
    gallery: Gallery
    state: GalleryState
    batcher: Batcher

    @property
    def name(self) -> str:
        """The gallery's name in the service."""
        return self.handle.name

    def now(self) -> OpenGallery:
        """Return the gallery as it is now; one on a server, which checks its rows itself, as it is.

        Raises:
            ReplacedError: another gallery is in its place, or one with another encoder.
            ArtifactError: it is gone, or broken, or being replaced.
        """
        if self.gallery.address is not None:
            return self
        now = self.handle.open()
        if now.state.identity != self.state.identity or now.batcher is not self.batcher:
            raise replaced_error(self.name)
        return now


class GalleryHandle:
    """A gallery with its name in the service, and the slot of its one writer.

    ``gallery`` is the gallery itself, which follows writes and replacements; :meth:`open` returns
    its current state. The snapshot of it is kept for the next request, but only for seconds: it is
    a transaction of the database, whose log cannot be emptied past it, and would grow.
    """

    def __init__(self, name: str, gallery: Gallery, threads: int) -> None:
        self.name = name
        self.gallery = gallery
        self.write_slot = FairSlots(1)
        self.writes = 0
        self._threads = threads
        self._opening = threading.Lock()
        view = gallery.snapshot()
        self._batcher = Batcher(view.encoder, threads)
        self._last: OpenGallery | None = None
        self._keep(view)

    def _keep(self, view: Gallery) -> OpenGallery:
        """Keep a snapshot and its facts."""
        self._used_at = time.monotonic()
        self._last = opened = OpenGallery(self, view, view.state, self._batcher)
        self.facts = GalleryFacts(
            state=opened.state,
            dim=view.store.dim,
            metric=view.metric.value,
            encoder=self._batcher.encoder.name,
            fingerprint=view.fingerprint,
        )
        """Of the state that was opened last."""
        return opened

    def open(self) -> OpenGallery:
        """Return the gallery as it is now.

        Another gallery in its place is opened, with its encoder. Whatever is cached for a state is
        used only for that state.

        Raises:
            ArtifactError: the gallery is gone, or broken, or being replaced.
            UnreachableError: the vector store does not respond.
        """
        self._used_at = time.monotonic()
        last = self._last
        if last is not None and last.state == self.gallery.state:
            return last
        with self._opening:
            view = self.gallery.snapshot()
            last, before = self._last, self.facts
            if last is not None and last.state == view.state:
                return last
            if view.fingerprint != before.fingerprint:
                old, self._batcher = self._batcher, Batcher(view.encoder, self._threads)
                old.close(wait=False)
            if view.state.identity != before.state.identity:
                log.warning("%s: another gallery is in its place, which is served now", self.name)
            return self._keep(view)

    @property
    def last(self) -> OpenGallery | None:
        """The state that was opened last, if that is held and on this machine.

        There may be a later one: :meth:`OpenGallery.now` must return the rows that are read.
        """
        return None if self.gallery.address is not None else self._last

    def release_idle(self, seconds: float = IDLE_S) -> None:
        """Drop the snapshot if no request opened the gallery for some time.

        Requests that still use it keep it until they end.
        """
        if time.monotonic() - self._used_at >= seconds:
            self._last = None

    def without_paths(self, text: str) -> str:
        """Return a message with the gallery's name instead of its location."""
        path = self.gallery.path
        for location in (str(path.resolve()), str(path.absolute()), str(path)):
            text = text.replace(location, self.name)
        return text

    def close(self) -> None:
        """End the threads of the encoder."""
        self._batcher.close()
