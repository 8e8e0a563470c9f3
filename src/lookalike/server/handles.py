"""The galleries of a service, each in the state that it has now."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from lookalike.gallery.gallery import Gallery
from lookalike.gallery.state import GalleryState
from lookalike.server.admission import FairSlots
from lookalike.server.batching import Batcher

log = logging.getLogger(__name__)


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


class GalleryHandle:
    """A gallery with its name in the service, and the slot of its one writer.

    ``gallery`` is the gallery itself, which follows writes and replacements; :meth:`open` returns
    its current state.
    """

    def __init__(self, name: str, gallery: Gallery, threads: int) -> None:
        self.name = name
        self.gallery = gallery
        self.write_slot = FairSlots(1)
        self.writes = 0
        self._threads = threads
        self._opening = threading.Lock()
        view = gallery.snapshot()
        self.last = OpenGallery(self, view, view.state, Batcher(view.encoder, threads))
        """The state that was opened last."""

    def open(self) -> OpenGallery:
        """Return the gallery as it is now.

        Another gallery in its place is opened, with its encoder. Whatever is cached for a state is
        used only for that state.

        Raises:
            ArtifactError: the gallery is gone, or broken, or being replaced.
            UnreachableError: the vector store does not respond.
        """
        state = self.gallery.state
        if state == self.last.state:
            return self.last
        with self._opening:
            view = self.gallery.snapshot()
            last, state = self.last, view.state
            if state == last.state:
                return last
            batcher = last.batcher
            if view.fingerprint != last.gallery.fingerprint:
                batcher = Batcher(view.encoder, self._threads)
                last.batcher.close(wait=False)
            if state.identity != last.state.identity:
                log.warning("%s: another gallery is in its place, which is served now", self.name)
            self.last = OpenGallery(self, view, state, batcher)
            return self.last

    def without_paths(self, text: str) -> str:
        """Return a message with the gallery's name instead of its location."""
        path = self.gallery.path
        for location in (str(path.resolve()), str(path.absolute()), str(path)):
            text = text.replace(location, self.name)
        return text

    def close(self) -> None:
        """End the threads of the encoder."""
        self.last.batcher.close()
