"""Resource limits of the service."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits per request, per client and for the whole service; times in seconds, sizes in bytes.

    A client is an API key or, without keys, an IP address. What exceeds a limit of clients or of
    the whole service is refused with 429.

    Attributes:
        upload_bytes: one uploaded image.
        batch_bytes: the body of a batch search.
        json_bytes: the body of other requests in JSON.
        json_values: values in the body of a request in JSON.
        label_values: the same of a request with labels of many items.
        json_escapes: escaped characters in the body of a request in JSON.
        parameters: parameters in the URL of a request.
        buffered_bytes: all request bodies in memory together; three quarters for one client.
        header_bytes: request line and headers of one request together.
        header_seconds: time to send the headers.
        body_seconds: time to send the body.
        request_seconds: time from the whole request to the response.
        send_seconds: time a client may stop reading a response.
        unsent_bytes: all responses in memory that are not sent; three quarters for one client.
        response_bytes: one response in JSON.
        decode_seconds: time to decode one image.
        batch_decode_seconds: time to decode the images of a batch search, all together.
        decode_memory: address space of a decoder process.
        fetch_seconds: time to fetch an image from a URL.
        fetches: images that are fetched at a time.
        redirects: HTTP redirects to follow when fetching.
        connections: open connections; half of them from one address.
        requests: requests of one client that are processed or queued; four times as many together.
        concurrent_requests: those among them that search or write.
        queued_work: their cost; a plain search costs 1, see ``cost_of`` in ``queries.py``.
        files: image files that are sent to one client at a time; four times as many together.
        batch_queries: queries of a batch search.
        batch_hits: results of a batch search, of all its queries together.
        k: results per query.
        shared_images: query images that are stored because visitors shared them.
        shared_bytes: their size together.
    """

    upload_bytes: int = 20_000_000
    batch_bytes: int = 100_000_000
    json_bytes: int = 5_000_000
    json_values: int = 50_000
    label_values: int = 250_000
    json_escapes: int = 5_000_000
    parameters: int = 1_000
    buffered_bytes: int = 200_000_000
    header_bytes: int = 65_536
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    request_seconds: float = 30.0
    send_seconds: float = 30.0
    unsent_bytes: int = 100_000_000
    response_bytes: int = 32_000_000
    decode_seconds: float = 10.0
    batch_decode_seconds: float = 10.0
    decode_memory: int = 1_500_000_000
    fetch_seconds: float = 5.0
    fetches: int = 8
    redirects: int = 3
    connections: int = 2_000
    requests: int = 256
    concurrent_requests: int = 32
    queued_work: int = 600
    files: int = 64
    batch_queries: int = 64
    batch_hits: int = 10_000
    k: int = 1_000
    shared_images: int = 10_000
    shared_bytes: int = 2_000_000_000
