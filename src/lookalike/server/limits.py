"""What one client may ask of the service."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the service; times in seconds, sizes in bytes.

    ``waiting`` is how many requests may be at work or wait for it; one more is turned away with
    429. ``held_bytes`` bounds all bodies that are held at a time, ``header_bytes`` a request's
    line and headers together.
    """

    upload_bytes: int = 20_000_000
    batch_bytes: int = 100_000_000
    held_bytes: int = 500_000_000
    header_bytes: int = 65_536
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    send_seconds: float = 60.0
    decode_seconds: float = 10.0
    decode_memory: int = 1_500_000_000
    fetch_seconds: float = 5.0
    redirects: int = 3
    connections: int = 2_000
    waiting: int = 32
    batch: int = 64
    k: int = 1_000
