"""Fetching by URL: what is brought, what is refused, what is gone on with."""

import asyncio
import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nacre.errors import InvalidInputError, NacreError, TooLargeError, UnavailableError
from nacre.lib.addresses import AddressGuard, parse_networks
from nacre.lib.fetch import Begun, Fetcher, Limits, Resume, check_url
from support.webserver import Names, serving

pytestmark = pytest.mark.anyio

CONTENT = bytes(range(256)) * 4096 * 3
LOCAL = AddressGuard(parse_networks(["127.0.0.1/32"]))
FETCHER = Fetcher(guard=LOCAL, limits=Limits(connect_s=5, silence_s=5, total_s=30))


class Memory:
    """A sink that keeps everything."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)
        self.begun: list[Begun] = []

    async def begin(self, begun: Begun) -> None:
        del self.content[begun.offset :]
        self.begun.append(begun)

    async def write(self, data: bytes) -> None:
        self.content += data

    @property
    def resume(self) -> Resume:
        return Resume(offset=len(self.content), validator=self.begun[-1].validator)


async def refusal(url: str, fetcher: Fetcher = FETCHER) -> NacreError:
    with pytest.raises(NacreError) as refused:
        await fetcher.fetch(url, Memory())
    assert refused.value.hint
    return refused.value


async def test_a_file_is_brought_whole() -> None:
    async with serving(CONTENT) as site:
        sink = Memory()
        assert await FETCHER.fetch(site.url(), sink) == len(CONTENT)
    assert bytes(sink.content) == CONTENT
    assert sink.begun == [Begun(offset=0, total=len(CONTENT), validator='"one"')]


async def test_a_file_without_an_announced_length_is_brought_whole() -> None:
    async with serving(CONTENT, hide_length=True) as site:
        sink = Memory()
        await FETCHER.fetch(site.url(), sink)
    assert (bytes(sink.content), sink.begun[0].total) == (CONTENT, None)


async def test_a_broken_fetch_goes_on_where_it_broke_off() -> None:
    async with serving(CONTENT, break_after=1 << 20) as site:
        sink = Memory()
        with pytest.raises(UnavailableError) as broken:
            await FETCHER.fetch(site.url(), sink)
        assert broken.value.retryable
        have = len(sink.content)
        assert 0 < have < len(CONTENT)
        assert await FETCHER.fetch(site.url(), sink, sink.resume) == len(CONTENT)
        assert site.asked[-1] == ("/disk.img", f"bytes={have}-")
    assert bytes(sink.content) == CONTENT
    assert sink.begun[-1] == Begun(offset=have, total=len(CONTENT), validator='"one"')


async def test_a_file_that_changed_meanwhile_is_brought_from_the_start() -> None:
    async with serving(CONTENT, break_after=1 << 20) as site:
        sink = Memory()
        with pytest.raises(UnavailableError):
            await FETCHER.fetch(site.url(), sink)
        site.etag, site.content = '"two"', b"new" * 100
        await FETCHER.fetch(site.url(), sink, sink.resume)
    assert bytes(sink.content) == b"new" * 100


async def test_a_server_that_knows_no_ranges_begins_again() -> None:
    async with serving(CONTENT, break_after=1 << 20, ranges=False) as site:
        sink = Memory()
        with pytest.raises(UnavailableError):
            await FETCHER.fetch(site.url(), sink)
        await FETCHER.fetch(site.url(), sink, sink.resume)
    assert bytes(sink.content) == CONTENT


async def test_a_file_that_is_there_already_is_not_brought_again() -> None:
    async with serving(CONTENT) as site:
        sink = Memory(CONTENT)
        assert await FETCHER.fetch(site.url(), sink, Resume(offset=len(CONTENT), validator='"one"')) == len(CONTENT)
    assert bytes(sink.content) == CONTENT


async def test_redirects_are_followed_to_a_limit() -> None:
    async with serving(CONTENT) as site:
        site.redirects = {f"/{n}": f"/{n + 1}" for n in range(1, 9)} | {"/7": "disk.img"}
        sink = Memory()
        await FETCHER.fetch(site.url("/3"), sink)
        assert bytes(sink.content) == CONTENT
        assert (await refusal(site.url("/1"))).code == "fetch_redirects"


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("http://169.254.169.254/latest/meta-data/", "fetch_address"),
        ("http://127.0.0.2/", "fetch_address"),
        ("http://[::1]/", "fetch_address"),
        ("file:///etc/passwd", "fetch_url"),
        ("ftp://127.0.0.1/x", "fetch_url"),
        ("http://user:secret@127.0.0.1/", "fetch_url"),
        ("http://", "fetch_redirects"),
        ("http://127.0.0.1:22/", "fetch_url"),
        ("", "fetch_redirects"),
    ],
)
async def test_a_redirect_is_checked_like_the_first_url(target: str, code: str) -> None:
    async with serving(redirects={"/disk.img": target}) as site:
        error = await refusal(site.url())
    assert error.code == code
    assert "secret" not in error.message


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x", "http://127.1/x", "http://0x7f000001/x", "http://2130706433/x", "http://0177.0.0.1/x",
        "http://[::1]/x", "http://[::ffff:127.0.0.1]/x", "http://10.0.0.1/", "http://169.254.169.254/",
        "https://192.168.0.1/", "http://[fe80::1]/", "http://0/",
    ],
)  # fmt: skip
async def test_addresses_inside_are_refused_at_once(url: str) -> None:
    assert (await refusal(url, Fetcher())).code == "fetch_address"


@pytest.mark.parametrize(
    "url",
    ["", "disk.img", "/etc/passwd", "file:///etc/passwd", "gopher://x/", "http:///x", "http://a:b@example.org/",
     "http://example.org:99999/", "http://[::1/", "http://example.org:25/", "data:text/plain,x", "javascript:x"],
)  # fmt: skip
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        check_url(url, AddressGuard())
    assert refused.value.code == "fetch_url"


async def test_a_name_that_leads_inside_is_refused_when_it_is_connected_to() -> None:
    async with serving(CONTENT) as site:
        for inside in (["127.0.0.1"], ["10.0.0.1", "169.254.169.254"], ["::1"], ["::ffff:127.0.0.1"]):
            names = Names({"images.example.org": [inside]})
            error = await refusal(site.url(host="images.example.org"), Fetcher(resolver=names))
            assert (error.code, error.retryable) == ("fetch_address", False)
        assert site.asked == []


async def test_a_name_that_changes_its_mind_gains_nothing() -> None:
    async with serving(CONTENT) as site:
        site.redirects = {"/disk.img": site.url("/again", host="rebind.example.org")}
        names = Names({"rebind.example.org": [["127.0.0.1"], ["127.0.0.2"]]})
        fetcher = Fetcher(guard=LOCAL, resolver=names)
        error = await refusal(site.url(host="rebind.example.org"), fetcher)
        assert error.code == "fetch_address"
        assert names.asked == ["rebind.example.org"] * 2
        assert site.asked == [("/disk.img", "")]


async def test_of_several_addresses_the_permitted_one_is_used() -> None:
    async with serving(CONTENT) as site:
        names = Names({"images.example.org": [["127.0.0.2", "127.0.0.1"]]})
        sink = Memory()
        await Fetcher(guard=LOCAL, resolver=names).fetch(site.url(host="images.example.org"), sink)
    assert bytes(sink.content) == CONTENT


async def test_more_bytes_than_the_limit_are_refused_announced_or_not() -> None:
    fetcher = Fetcher(guard=LOCAL, limits=Limits(max_bytes=len(CONTENT) - 1))
    for hidden in (False, True):
        async with serving(CONTENT, hide_length=hidden) as site:
            sink = Memory()
            with pytest.raises(TooLargeError):
                await fetcher.fetch(site.url(), sink)
            assert len(sink.content) < len(CONTENT)


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(404, False), (403, False), (401, False), (204, False), (500, True), (503, True), (429, True)],
)
async def test_an_answer_that_is_not_the_file_is_an_error(status: int, retryable: bool) -> None:
    async with serving(status=status) as site:
        error = await refusal(site.url("/secret?token=abc"))
    assert error.retryable is retryable
    assert str(status) in error.message
    assert "token" not in error.message + error.hint


async def test_a_server_that_falls_silent_is_given_up() -> None:
    fetcher = Fetcher(guard=LOCAL, limits=Limits(silence_s=0.2))
    async with serving(CONTENT, stall_after=1000) as site:
        assert (await refusal(site.url(), fetcher)).retryable


async def test_a_fetch_without_end_is_given_up() -> None:
    fetcher = Fetcher(guard=LOCAL, limits=Limits(total_s=0.3))
    async with serving(CONTENT, stall_after=1000) as site:
        assert (await refusal(site.url(), fetcher)).retryable


async def test_nobody_at_the_other_end_is_a_passing_trouble() -> None:
    async with serving() as site:
        url = site.url()
    error = await refusal(url)
    assert (error.code, error.retryable) == ("fetch_failed", True)


async def test_an_unknown_name_is_a_passing_trouble() -> None:
    error = await refusal("http://nowhere.example.org/", Fetcher(resolver=Names({})))
    assert (error.code, error.retryable) == ("fetch_failed", True)


async def test_a_fetch_can_be_cancelled() -> None:
    async with serving(CONTENT, stall_after=1000) as site:
        sink = Memory()
        task = asyncio.create_task(FETCHER.fetch(site.url(), sink))
        while not sink.begun:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server on 127.0.0.1 and of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "images.example.org")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("images.example.org")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, private = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(pem, private)
    return server, ssl.create_default_context(cafile=str(pem))


async def test_https_is_verified_and_not_left_for_http(tmp_path: Path) -> None:
    server, trusting = certificate(tmp_path)
    async with serving(CONTENT) as plain, serving(CONTENT, tls=server) as site:
        site.redirects = {"/down": plain.url()}
        url = site.url(host="images.example.org")
        names = Names({"images.example.org": [["127.0.0.1"]]})
        sink = Memory()
        trusted = Fetcher(guard=LOCAL, resolver=names, tls=trusting)
        await trusted.fetch(url, sink)
        assert bytes(sink.content) == CONTENT
        assert (await refusal(url, Fetcher(guard=LOCAL, resolver=names))).code == "fetch_certificate"
        down = site.url("/down", host="images.example.org")
        assert (await refusal(down, trusted)).code == "fetch_downgrade"
