"""Resource limits of the service."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits per request and for the whole service; times in seconds, sizes in bytes.

    Attributes:
        upload_bytes: one uploaded image.
        batch_bytes: the body of a batch search.
        buffered_bytes: all request bodies in memory together; more are refused with 429.
        header_bytes: request line and headers of one request together.
        header_seconds: time to send the headers.
        body_seconds: time to send the body.
        send_seconds: time a client may stop reading a response.
        decode_seconds: time to decode one image.
        decode_memory: address space of a decoder process.
        fetch_seconds: time to fetch an image from a URL.
        redirects: HTTP redirects to follow when fetching.
        connections: open connections.
        concurrent_requests: requests in progress or queued; more are refused with 429.
        batch_queries: queries of a batch search.
        k: results per query.
    """

    upload_bytes: int = 20_000_000
    batch_bytes: int = 100_000_000
    buffered_bytes: int = 500_000_000
    header_bytes: int = 65_536
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    send_seconds: float = 60.0
    decode_seconds: float = 10.0
    decode_memory: int = 1_500_000_000
    fetch_seconds: float = 5.0
    redirects: int = 3
    connections: int = 2_000
    concurrent_requests: int = 32
    batch_queries: int = 64
    k: int = 1_000
