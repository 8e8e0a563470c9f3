"""Galleries whose rows can be read here: what works on all of them cannot use a service."""

from __future__ import annotations

from lookalike.errors import InputError
from lookalike.gallery.gallery import Gallery


def local_gallery(gallery: object) -> Gallery:
    """Return an argument that must be a gallery of this machine.

    Raises:
        InputError: it is something else, such as a path or a gallery of a service.
    """
    if isinstance(gallery, Gallery):
        return gallery
    raise InputError(
        "gallery: expected a lookalike.Gallery, as of Gallery.open('photos.gallery'), got "
        f"{type(gallery).__name__}"
    )
