"""Fetching from URLs only reaches the public internet, however the host is written."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from lookalike import url_fetch
from lookalike.cancellation import Cancellation, cancellable
from lookalike.errors import CancelledError, FetchError, ImageError, InputError, TimeLimitError
from lookalike.gallery.gallery import Gallery
from lookalike.server.limits import Limits
from lookalike.server.settings import ServeSettings
from lookalike.sources.urls import read_url
from lookalike.url_fetch import FetchOptions, fetch, is_public, is_public_or_private
from tests.canary_server import Canary, canary_server
from tests.serving import Serving, serving

OPTIONS = FetchOptions(timeout=2.0, max_bytes=50_000, max_redirects=3)
LOCAL = replace(OPTIONS, is_allowed=lambda address: address == "127.0.0.1")
PATIENCE = 10.0
"""Seconds within which a fetch with a timeout of two seconds has surely ended."""

# Spellings of 127.0.0.1 that the system's resolver understands.
LOOPBACK_SPELLINGS = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "0x7f.1",
    "0X7F.1",
    "0x7f000001",
    "0x7f.0x0.0x0.0x1",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "0177.1",
    "0.0.0.0",
    "0",
    "0x0",
    "localhost",
    "LocalHost",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
]

PRIVATE = [
    "127.0.0.2",
    "127.255.255.254",
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::127.0.0.1]",
    "[::7f00:1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
    "[2001::1]",
    "[::ffff:169.254.169.254]",
    "[::169.254.169.254]",
    "[::ffff:10.0.0.1]",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.1.254",
    "100.64.0.1",
    "100.127.255.254",
    "169.254.0.1",
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.0.8",
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.19.255.255",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "[fc00::1]",
    "[fdff::1]",
    "[fe80::1]",
    "[febf::1]",
    "[fec0::1]",
    "[feff::1]",
    "[ff02::1]",
    "[ff0e::1]",
    "[100::1]",
    "[2001:db8::1]",
    "[2001:10::1]",
    "[2001:20::1]",
    "[3fff::1]",
    "[5f00::1]",
    "[4000::1]",
]

INVALID_URLS = [
    "",
    "/",
    "image.png",
    "//127.0.0.1:{port}/image",
    "file:///etc/passwd",
    "file://127.0.0.1/etc/passwd",
    "ftp://127.0.0.1:{port}/image",
    "gopher://127.0.0.1:{port}/_GET",
    "dict://127.0.0.1:{port}/d",
    "ldap://127.0.0.1:{port}/",
    "unix:///var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    "data:image/png;base64,AAAA",
    "javascript:alert(1)",
    "jar:http://127.0.0.1:{port}/!/",
    "view-source:http://127.0.0.1:{port}/",
    "http:",
    "http://",
    "http:///image",
    "http:/127.0.0.1:{port}/image",
    "http:127.0.0.1:{port}/image",
    "http://:{port}/image",
    "http://#@127.0.0.1:{port}/",
    "http://?@127.0.0.1:{port}/",
    "http://user@127.0.0.1:{port}/image",
    "http://user:secret@127.0.0.1:{port}/image",
    "http://@127.0.0.1:{port}/image",
    "http://:@127.0.0.1:{port}/image",
    "http://example.org@127.0.0.1:{port}/image",
    "http://example.org:80@127.0.0.1:{port}/image",
    "http://127.0.0.1:{port}@example.org/image",
    "http://a@b@127.0.0.1:{port}/image",
    "http://example.org\\@127.0.0.1:{port}/image",
    "http://127.0.0.1:{port}\\@example.org/image",
    "http://example.org\\.127.0.0.1:{port}/image",
    "http:\\\\127.0.0.1:{port}\\image",
    "\\\\127.0.0.1\\image",
    "http://127.0.0.1:{port}/ima\r\nge",
    "http://127.0.0.1:{port}/image HTTP/1.1\r\nx: y\r\n",
    "http://127.0.0.1:{port}/\r\n\r\nGET /image",
    "http://127.0.0.1\r\n:{port}/image",
    "http://127.0.0.1\t:{port}/image",
    "http://127.0.0.1 :{port}/image",
    " http://127.0.0.1:{port}/image",
    "http://127.0.0.1:{port}/image ",
    "http://127.0.0.1:{port}/a b",
    "http://127.0.0.1:{port}/\x00",
    "http://127.0.0.1\x00.example.org:{port}/",
    "http://127.0.0.1:{port}/\x7f",
    "http://127。0。0。1:{port}/image",
    "http://127．0．0．1:{port}/image",
    "http://①②⑦.⓪.⓪.①:{port}/image",
    "http://١٢٧.0.0.1:{port}/image",
    "http://ⓛocalhost:{port}/image",
    "http://loc\u00adalhost:{port}/image",
    "http://127.0.0.1:{port}/ä",
    "http://%31%32%37.0.0.1:{port}/image",
    "http://127%2e0%2e0%2e1:{port}/image",
    "http://localhost%00.example.org:{port}/image",
    "http://[fe80::1%25lo]:{port}/image",
    "http://[::1%25lo]:{port}/image",
    "http://[::1%lo]:{port}/image",
    "http://[v1.127.0.0.1%25lo]:{port}/image",
    "http://[127.0.0.1]:{port}/image",
    "http://[::1:{port}/image",
    "http://::1:{port}/image",
    "http://127.0.0.1:0x50/image",
    "http://127.0.0.1:-1/image",
    "http://127.0.0.1:65536/image",
    "http://127.0.0.1:99999999999/image",
    "http://127.0.0.1:８0/image",
    "http://127.0.0.1:{port}:{port}/image",
    "http://127.0.0.1:{port},example.org/image",
    "http://127.0.0.1:{port}#@example.org/",
    "http://127.0.0.1:{port}?@example.org/",
    "http://127.0.0.1:{port};@example.org/",
    "http://{{127.0.0.1}}:{port}/",
    "http://`127.0.0.1`:{port}/",
]


@pytest.fixture(scope="module")
def image() -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), 200).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def canary(image: bytes) -> Iterator[Canary]:
    with canary_server(image) as running:
        yield running


@pytest.fixture
def unreached(canary: Canary) -> Iterator[Canary]:
    """A canary that must not be reached, and still runs when the test ends."""
    yield canary
    assert canary.connections == 0
    assert fetch(canary.url(), LOCAL) == canary.image


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
def test_loopback_is_refused_in_every_spelling(unreached: Canary, host: str) -> None:
    for scheme in ("http", "https", "HTTP"):
        with pytest.raises(InputError, match="not on the public internet"):
            fetch(unreached.url(host=host).replace("http", scheme, 1), OPTIONS)


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
def test_loopback_spellings_resolve_to_this_machine(canary: Canary, host: str) -> None:
    """The spellings are real: each reaches this machine if all addresses are allowed."""
    assert fetch(canary.url(host=host), replace(OPTIONS, is_allowed=lambda _: True)) == canary.image


@pytest.mark.parametrize("host", PRIVATE)
def test_private_addresses_are_refused(unreached: Canary, host: str) -> None:
    with pytest.raises(InputError, match="not on the public internet"):
        fetch(unreached.url(host=host), OPTIONS)
    if not host[0].isdigit() or host.count(".") == 3:
        assert not is_public(host.strip("[]"))


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "100.128.0.1",
        "172.15.255.255",
        "172.32.0.1",
        "168.63.129.15",
        "198.17.255.255",
        "223.255.255.255",
        "2001:4860:4860::8888",
        "2606:4700::1111",
        "2a00:1450::1",
    ],
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


OWN_NETWORK = ["127.0.0.1", "::1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "100.64.0.1", "fd12::1"]
NEVER = [
    *("169.254.169.254", "169.254.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    *("0.0.0.0", "::", "fe80::1", "fd00:ec2::254", "fd20:ce::254", "::ffff:169.254.169.254"),
    *("64:ff9b::a9fe:a9fe", "224.0.0.1", "ff02::1", "240.0.0.1", "255.255.255.255"),
]


def test_private_networks_do_not_include_addresses_of_cloud_credentials() -> None:
    assert [each for each in OWN_NETWORK if not is_public_or_private(each)] == []
    assert [each for each in OWN_NETWORK if is_public(each)] == []
    assert [each for each in NEVER if is_public_or_private(each)] == []
    assert is_public_or_private("1.1.1.1")


def test_rows_never_reach_addresses_of_cloud_credentials() -> None:
    with pytest.raises(ImageError, match="never fetched from"):
        read_url("http://169.254.169.254/latest/meta-data/", allow_private=True)


@pytest.mark.parametrize("url", INVALID_URLS)
def test_invalid_urls_are_refused_before_name_resolution(
    unreached: Canary, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any, **__: Any) -> Any:
        raise AssertionError("a name was looked up")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", none)
        options = replace(OPTIONS, is_allowed=lambda _: False)
        if url.startswith(("http://127.0.0.1:{port}#", "http://127.0.0.1:{port}?")):
            patch.undo()  # well-formed addresses of this machine
        with pytest.raises(InputError):
            fetch(url.replace("{port}", str(unreached.port)), options)


def fake_dns(patch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Resolve any name to these addresses, one list after the other; return the names resolved."""
    real, names = socket.getaddrinfo, []
    remaining = list(answers)

    def resolve(host: str, port: int, *rest: Any, **options: Any) -> list[Any]:
        names.append(host)
        addresses = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return [each for text in addresses for each in real(text, port, *rest, **options)]

    patch.setattr(socket, "getaddrinfo", resolve)
    return names


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["10.0.0.1"],
        ["1.1.1.1", "127.0.0.1"],
        ["127.0.0.1", "1.1.1.1"],
        ["2606:4700::1111", "::ffff:127.0.0.1"],
        ["1.1.1.1", "169.254.169.254"],
    ],
)
@pytest.mark.parametrize(
    "host", ["image.example", "localhost.", "localhost.localdomain", "a.nip.io"]
)
def test_names_that_resolve_to_private_addresses(
    unreached: Canary, host: str, addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fake_dns(patch, addresses)
        with pytest.raises(InputError, match="not on the public internet") as refused:
            fetch(unreached.url(host=host), OPTIONS)
    assert not any(address in str(refused.value) for address in addresses)


def test_dns_rebinding(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is resolved once per connection, and the checked address is used."""
    tried = []
    connect = socket.socket.connect

    def noted(self: socket.socket, address: Any) -> None:
        tried.append(address[0])
        if address[0] == "1.1.1.1":
            raise ConnectionRefusedError
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", noted)
    names = fake_dns(monkeypatch, ["1.1.1.1"], ["127.0.0.1"])
    with pytest.raises(FetchError):
        fetch(canary.url(host="rebinds.example"), OPTIONS)
    assert names == ["rebinds.example"]
    assert tried == ["1.1.1.1"]
    with pytest.raises(InputError):
        fetch(canary.url(host="rebinds.example"), OPTIONS)
    assert tried == ["1.1.1.1"]
    assert canary.connections == 0


def test_dns_rebinding_between_redirects(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name resolves to the canary, which stands for the internet, then to a private address."""
    fake_dns(monkeypatch, ["127.0.0.1"], ["10.0.0.1"])
    with pytest.raises(InputError, match="not on the public internet"):
        fetch(canary.url("/redirect//image", host="rebinds.example"), LOCAL)
    assert canary.paths == ["/redirect//image"]


def test_fetch_an_image(canary: Canary) -> None:
    assert fetch(canary.url(), LOCAL) == canary.image
    assert fetch(canary.url("/image#fragment"), LOCAL) == canary.image
    assert fetch(canary.url("/image?a=b#@example.org/"), LOCAL) == canary.image
    assert canary.paths == ["/image", "/image", "/image?a=b"]


def test_redirects_are_limited(canary: Canary) -> None:
    assert fetch(canary.url("/hops/2"), LOCAL) == canary.image
    canary.paths.clear()
    with pytest.raises(FetchError, match="redirected more than 3 times"):
        fetch(canary.url("/hops/3"), LOCAL)
    assert len(canary.paths) == 4
    with pytest.raises(FetchError, match="redirected more than 3 times"):
        fetch(canary.url("/redirect_nowhere"), LOCAL)


@pytest.mark.parametrize(
    "where",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "data:image/png;base64,AAAA",
        "//10.0.0.1/image",
        "http://127.0.0.2:{port}/image",
        "http://localhost.:{port}/image",
        "http://[::1]:{port}/image",
        "http://169.254.169.254/latest/meta-data/",
        "http://user@127.0.0.1:{port}/image",
        "http://127。0。0。1:{port}/image",
        "https://10.0.0.1/",
        "http://[::1",
    ],
)
def test_each_redirect_is_checked(
    canary: Canary, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *a, **k: real("127.0.0.2" if "local" in host else host, *a, **k),
    )
    path = "/redirect/" + quote(where.replace("{port}", str(canary.port)), safe="")
    with pytest.raises(FetchError if where == "http://[::1" else InputError):
        fetch(canary.url(path), LOCAL)
    assert len(canary.paths) == 1


@pytest.mark.parametrize(
    "path", ["/with_length/50001", "/without_length/60000", "/with_length/10000000000000"]
)
def test_too_large_files_are_refused(canary: Canary, path: str) -> None:
    with pytest.raises(FetchError, match="50,000"):
        fetch(canary.url(path), LOCAL)


def test_files_of_the_maximum_size_are_accepted(canary: Canary) -> None:
    assert len(fetch(canary.url("/without_length/50000"), LOCAL)) == 50_000


def test_truncated_files_are_refused(canary: Canary) -> None:
    with pytest.raises(FetchError, match="999 bytes short"):
        fetch(canary.url("/with_length/1000"), LOCAL)


@pytest.mark.parametrize("code", [204, 400, 401, 404, 418, 500, 503])
def test_http_errors_are_reported(canary: Canary, code: int) -> None:
    with pytest.raises(FetchError, match=f"responded {code}"):
        fetch(canary.url(f"/status/{code}"), LOCAL)


@pytest.mark.parametrize("path", ["/slow_body", "/endless_headers", "/endless_continue"])
def test_slow_servers_time_out(canary: Canary, path: str) -> None:
    start_time = time.monotonic()
    with pytest.raises(FetchError, match="took longer than 2 s"):
        fetch(canary.url(path), LOCAL)
    assert OPTIONS.timeout / 2 < time.monotonic() - start_time < PATIENCE


@contextlib.contextmanager
def raw_server(first: bytes, chunk: bytes) -> Iterator[int]:
    """Yield the port of a server that sends ``first`` and then ``chunk`` again and again."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            with contextlib.suppress(OSError):
                client, _ = server.accept()
                with client:
                    client.sendall(first)
                    while not ended.wait(0.1):
                        client.sendall(chunk)

        thread = threading.Thread(target=talk)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("chunk", [b"", b"\x00"])
def test_slow_tls_servers_time_out(chunk: bytes) -> None:
    """The server announces a long handshake record and sends it byte by byte, or never."""
    start_time = time.monotonic()
    hello = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc"
    with raw_server(hello, chunk) as port, pytest.raises(FetchError):
        fetch(f"https://127.0.0.1:{port}/", LOCAL)
    assert time.monotonic() - start_time < PATIENCE


@pytest.mark.parametrize(
    "first",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"\x00" * 100,
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500,
    ],
)
def test_responses_that_are_not_http_are_reported(first: bytes) -> None:
    with raw_server(first, b"") as port, pytest.raises(FetchError):
        fetch(f"http://127.0.0.1:{port}/", LOCAL)


def test_https_requires_a_valid_certificate(canary: Canary) -> None:
    with pytest.raises(FetchError):
        fetch(f"https://127.0.0.1:{canary.port}/image", LOCAL)
    assert canary.paths == []


def test_proxy_variables_are_ignored(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch(canary.url(), LOCAL) == canary.image


def test_a_name_that_is_never_resolved_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def hang(*_: Any, **__: Any) -> Any:
        ended.wait()
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        with pytest.raises(FetchError, match=r"took longer than 0\.2 s"):
            fetch("http://image.example/", replace(OPTIONS, timeout=0.2))
    finally:
        ended.set()


@pytest.mark.parametrize("path", ["/slow_body", "/endless_headers"])
def test_a_fetch_ends_when_its_work_is_cancelled(canary: Canary, path: str) -> None:
    work = Cancellation()

    def run() -> bytes:
        with cancellable(work):
            return fetch(canary.url(path), replace(LOCAL, timeout=600.0))

    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(run)
        while not canary.paths:
            assert not fetching.done()
        work.cancel()
        assert isinstance(fetching.exception(), CancelledError)


def test_a_fetch_ends_with_the_time_of_its_work(canary: Canary) -> None:
    with cancellable(Cancellation(0.2)), pytest.raises(TimeLimitError):
        fetch(canary.url("/slow_body"), replace(LOCAL, timeout=600.0))


def test_the_advice_for_private_addresses(canary: Canary) -> None:
    with pytest.raises(InputError, match=r"127\.0\.0\.1: is not on the public internet; do that"):
        fetch(canary.url(), replace(OPTIONS, advice="do that"))
    assert canary.connections == 0


def search_url(served: Serving, url: str) -> tuple[int, dict[str, Any]]:
    body = json.dumps({"url": url, "k": 1}).encode()
    response, response_body = served.request(
        "POST", "/v1/galleries/digits/search", body, {"content-type": "application/json"}
    )
    document = json.loads(response_body)
    document.pop("request_id", None)  # which differs between equal answers
    return response.status, document


def test_service_does_not_fetch_urls_by_default(unreached: Canary, gallery: Gallery) -> None:
    with serving({"digits": gallery}, ServeSettings(allow_writes=True)) as served:
        for url in (unreached.url(), "http://example.org/", "file:///etc/passwd"):
            status, document = search_url(served, url)
            assert status == 403
            assert "--allow-urls" in document["detail"]


def test_service_reveals_nothing_about_private_addresses(
    unreached: Canary, gallery: Gallery
) -> None:
    """Neither whether a port is open, nor what an internal name resolves to."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    with serving({"digits": gallery}, ServeSettings(allow_urls=True)) as served:
        for host in ("127.0.0.1", "localhost", "0x7f.1"):
            answers = {
                port: search_url(served, f"http://{host}:{port}/image")
                for port in (unreached.port, closed)
            }
            for port, (status, document) in answers.items():
                assert status == 422
                assert document["type"] == "urn:lookalike:problem:invalid-request"
                assert str(port) not in document["detail"]
                assert host == "127.0.0.1" or "127.0.0.1" not in document["detail"]
            assert answers[unreached.port] == answers[closed]


def test_service_searches_with_a_fetched_image(
    canary: Canary, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url_fetch, "is_public", lambda address: address == "127.0.0.1")
    with serving({"digits": gallery}, ServeSettings(allow_urls=True)) as served:
        status, document = search_url(served, canary.url())
        assert status == 200
        assert len(document["hits"]) == 1
        assert document["query"] == canary.url()
        assert search_url(served, canary.url("/status/404"))[0] == 502
        assert search_url(served, canary.url("/without_length/1000"))[0] == 422
        assert search_url(served, canary.url("/redirect/file%3a%2f%2f%2fetc%2fpasswd"))[0] == 422
        body = {"queries": [{"url": canary.url()}, {"url": "http://10.0.0.1/"}]}
        batch = served.client().json("POST", "/v1/galleries/digits/search/batch", body)["results"]
        assert batch[0]["result"] is not None
        assert batch[1]["problem"]["status"] == 422


def test_slow_urls_do_not_delay_other_searches(
    canary: Canary, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url_fetch, "is_public", lambda address: address == "127.0.0.1")
    limits = Limits(fetch_seconds=4.0)
    with (
        serving({"digits": gallery}, ServeSettings(allow_urls=True, limits=limits)) as served,
        ThreadPoolExecutor(12) as pool,
    ):
        slow = [pool.submit(search_url, served, canary.url("/slow_body")) for _ in range(6)]
        while not canary.connections:
            time.sleep(0.01)
        remote = served.client().gallery("digits")
        for row_id in gallery.store.ids()[:5]:
            assert len(remote.search(id=row_id)) == 7
        assert not any(each.done() for each in slow)
        assert [each.result()[0] for each in slow] == [502] * 6
