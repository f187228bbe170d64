"""The layer under both stand-ins, byte for byte: what clients of Firecracker and Cloud Hypervisor have to live with."""

import array
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support.vmm import wire
from support.vmm.faults import Fault, Faults

SERVED = b"HTTP/1.1 200 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n"
DROPPED = "\nAll previous unanswered requests will be dropped."


class Bench:
    """A server in a thread whose handler remembers what it was asked."""

    def __init__(self, path: Path, **options) -> None:
        self.path = path
        self.asked: list[tuple[str, str, bytes | None, int]] = []
        self.faults = options.pop("faults", [])
        self.server = wire.Server(path, self._handle, faults=Faults(self.faults), **options)
        self.thread = threading.Thread(target=self.server.serve)
        self.thread.start()
        self.clients: list[socket.socket] = []

    def _handle(self, method, path, body, descriptors):
        self.asked.append((method, path, body, len(descriptors)))
        if path == "/nothing":
            return 204, None, {"Deprecation": "true"}
        if path == "/empty":
            return 200, None, {}
        if path == "/read":
            return 200, os.read(descriptors[0], 100).decode(), {}
        return 200, {"path": path}, {}

    def client(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(5)
        made.connect(str(self.path))
        self.clients.append(made)
        return made

    def ask(self, *parts: bytes, client: socket.socket | None = None) -> bytes:
        client = client or self.client()
        for part in parts:
            client.sendall(part)
        return answer(client)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.server.stop()
        self.thread.join()
        self.server.close()


def answer(client: socket.socket) -> bytes:
    """One answer, read as far as its length says; or what came before the connection ended."""
    seen = b""
    while b"\r\n\r\n" not in seen:
        part = client.recv(1)
        if not part:
            return seen
        seen += part
    headers = seen.lower()
    if b"content-length: " not in headers:
        return seen
    missing = int(headers.split(b"content-length: ")[1].split(b"\r\n")[0])
    while missing:
        part = client.recv(missing)
        if not part:
            return seen
        seen += part
        missing -= len(part)
    return seen


@pytest.fixture
def start(tmp_path):
    made: list[Bench] = []

    def begin(**options) -> Bench:
        made.append(Bench(tmp_path / f"{len(made)}.sock", **options))
        return made[-1]

    yield begin
    for each in made:
        each.close()


def refused(text: str) -> bytes:
    body = f'{{ "error": "{text}{DROPPED}" }}'.encode()
    return (
        b"HTTP/1.1 400 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n"
        b"Content-Type: application/json\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
    )


def test_an_answer_has_no_reason_no_date_and_a_space_behind_its_status(start):
    body = b'{"path":"/a"}'
    tail = b"Content-Type: application/json\r\nContent-Length: 13\r\n\r\n"
    assert start().ask(b"GET /a HTTP/1.1\r\n\r\n") == SERVED + tail + body


def test_no_content_has_no_length_and_headers_of_the_handler_are_there(start):
    assert start(name="X").ask(b"PUT /nothing HTTP/1.1\r\n\r\n") == (
        b"HTTP/1.1 204 \r\nServer: X\r\nConnection: keep-alive\r\nDeprecation: true\r\n\r\n"
    )


def test_an_empty_success_has_a_length(start):
    answered = start().ask(b"GET /empty HTTP/1.1\r\n\r\n")
    assert answered.endswith(b"Content-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (b"POST / HTTP/1.1\r\n", "Invalid HTTP Method: Unsupported HTTP method."),
        (b"get / HTTP/1.1\r\n", "Invalid HTTP Method: Unsupported HTTP method."),
        (b"GET / HTTP/2\r\n", "Invalid HTTP Version: Unsupported HTTP version."),
        (b"GET  HTTP/1.1\r\n", "Invalid URI: Empty URI not allowed."),
        (b"GET /\r\n", "Invalid request."),
        (b"nonsense\r\n", "Invalid request."),
        (b"GET /" + b"a" * 1100, "Invalid request."),
        (b"GET / HTTP/1.1\r\nno colon\r\n", "Invalid header. Reason: Header is incorrectly formatted. Key: no colon"),
        (
            b"GET / HTTP/1.1\r\nContent-Length: x\r\n",
            "Invalid header. Reason: Invalid value. Key:Content-Length; Value: x",
        ),
        (
            b"GET / HTTP/1.1\r\nAccept-Encoding: identity;q=0\r\n",
            "Invalid header. Reason: Invalid value. Key:Accept-Encoding; Value:identity;q=0",
        ),
    ],
)
def test_what_is_wrong_is_answered_with_a_newline_that_no_json_may_hold(start, request_, words):
    answered = start().ask(request_)
    assert answered == refused(words)
    with pytest.raises(json.JSONDecodeError):
        json.loads(answered.partition(b"\r\n\r\n")[2])


def test_a_header_line_may_have_1024_bytes_and_no_more(start):
    bench = start()
    assert bench.ask(b"GET / HTTP/1.1\r\n", b"X: " + b"a" * 1019 + b"\r\n\r\n").startswith(SERVED)
    client = bench.client()
    client.sendall(b"GET / HTTP/1.1\r\n")
    assert b"Invalid content length. Header: X: aaa" in bench.ask(b"X: " + b"a" * 1100, client=client)


@pytest.mark.parametrize(("limit", "name"), [(wire.FIRECRACKER_BODY, "f"), (wire.CLOUD_HYPERVISOR_BODY, "c")])
def test_a_body_has_a_limit(start, limit, name):
    bench = start(body_limit=limit, name=name)
    head = b"PUT /x HTTP/1.1\r\nContent-Length: "
    assert b"200" in bench.ask(head + str(limit).encode() + b"\r\n\r\n" + b"a" * limit)
    assert bench.asked[-1][2] == b"a" * limit
    assert bench.ask(head + str(limit + 1).encode() + b"\r\n\r\n") == refused(
        f"Request payload with size {limit + 1} is larger than the limit of {limit} allowed by server."
    )


def test_only_a_length_frames_a_body_and_zero_is_no_body(start):
    bench = start()
    bench.ask(b"PUT /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
    bench.ask(b"PUT /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n")
    bench.ask(b"PUT /x HTTP/1.1\r\nContent-Type: odd/thing\r\ncontent-length:3\r\n\r\n", b"a", b"bc")
    assert [body for _, _, body, _ in bench.asked] == [None, None, b"abc"]


def test_who_expects_to_be_told_to_go_on_is_told(start):
    bench = start()
    client = bench.client()
    told = bench.ask(b"PUT /x HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", client=client)
    assert told == b"HTTP/1.1 100 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n"
    assert bench.ask(b"{}", client=client).startswith(SERVED)


def test_requests_in_one_breath_are_answered_in_turn(start):
    bench = start()
    client = bench.client()
    first = bench.ask(b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n", client=client)
    assert first.endswith(b'{"path":"/a"}')
    assert answer(client).endswith(b'{"path":"/b"}')


def test_a_bad_request_takes_those_before_it_along_and_the_connection_goes_on(start):
    bench = start()
    client = bench.client()
    assert b"Unsupported HTTP method" in bench.ask(b"GET /a HTTP/1.1\r\n\r\nPOST /b HTTP/1.1\r\n", client=client)
    assert bench.asked == []
    assert bench.ask(b"GET /c HTTP/1.1\r\n\r\n", client=client).endswith(b'{"path":"/c"}')


def test_the_eleventh_connection_is_told_off_and_there_is_room_again_when_one_leaves(start):
    bench = start(name="Another API")
    ten = [bench.client() for _ in range(wire.MAX_CONNECTIONS)]
    assert b"200" in bench.ask(b"GET /a HTTP/1.1\r\n\r\n", client=ten[-1])
    late = bench.client()
    assert answer(late) == wire.FULL
    assert late.recv(1) == b""
    ten[0].close()
    assert b"200" in bench.ask(b"GET /a HTTP/1.1\r\n\r\n", client=ten[1])
    assert b"200" in bench.ask(b"GET /a HTTP/1.1\r\n\r\n")


def test_who_stops_sending_hears_nothing_any_more(start):
    bench = start(faults=[Fault(kind="slow", seconds=0.2)])
    client = bench.client()
    client.sendall(b"GET /a HTTP/1.1\r\n\r\n")
    client.shutdown(socket.SHUT_WR)
    try:
        assert answer(client) == b""
    except ConnectionResetError:  # it had not even read the request
        assert bench.asked == []


def test_everybody_waits_for_the_slow_one(start):
    bench = start(faults=[Fault(kind="slow", path="/slow", seconds=0.3)])
    slow, quick = bench.client(), bench.client()
    slow.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
    while not bench.server._connections:
        pass
    quick.sendall(b"GET /quick HTTP/1.1\r\n\r\n")
    assert b"200" in answer(slow)
    assert b"200" in answer(quick)
    assert [path for _, path, _, _ in bench.asked] == ["/slow", "/quick"]


def test_descriptors_ride_along_and_are_closed_afterwards(start):
    bench = start()
    client = bench.client()
    reading, writing = os.pipe()
    os.write(writing, b"hello")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [reading, writing]))]
    client.sendmsg([b"PUT /read HTTP/1.1\r\n\r\n"], rights)
    assert answer(client).endswith(b'"hello"')
    assert bench.asked == [("PUT", "/read", None, 2)]
    os.close(writing)
    os.close(reading)
    os.close(os.dup(0))
    assert bench.ask(b"PUT /x HTTP/1.1\r\n\r\n", client=client).startswith(SERVED)
    assert bench.asked[-1][3] == 0


def test_a_path_in_full_is_read_without_its_host(start):
    bench = start()
    bench.ask(b"GET http://localhost/a/b HTTP/1.1\r\n\r\n")
    bench.ask(b"GET a HTTP/1.1\r\n\r\n")
    assert [path for _, path, _, _ in bench.asked] == ["/a/b", ""]


def test_a_path_that_is_there_is_not_taken_over_and_stays_when_the_server_leaves(tmp_path):
    server = wire.Server(tmp_path / "a.sock", lambda *_: (204, None, {}))
    with pytest.raises(OSError, match="in use"):
        wire.Server(tmp_path / "a.sock", lambda *_: (204, None, {}))
    server.close()
    assert (tmp_path / "a.sock").exists()


def test_requests_are_kept_for_those_who_check_them(start, tmp_path):
    bench = start(trace=tmp_path / "trace")
    bench.ask(b"PUT /a HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
    assert [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()] == [
        {"server": "Firecracker API", "method": "PUT", "path": "/a", "body": "{}"}
    ]


# What can be made to go wrong


def test_faults_hit_what_they_fit_as_often_as_they_are_to(start):
    bench = start(faults=[Fault(kind="refuse", method="PUT", path="/x", after=1, times=1, body={"no": 1})])
    asked = [b"GET /x HTTP/1.1\r\n\r\n", *[b"PUT /x HTTP/1.1\r\n\r\n"] * 3, b"PUT /y HTTP/1.1\r\n\r\n"]
    assert [int(bench.ask(each).split()[1]) for each in asked] == [200, 200, 400, 200, 200]
    assert len(bench.asked) == 4


def test_an_answer_may_break_off_or_never_come(start):
    bench = start(faults=[Fault(kind="drop", path="/half"), Fault(kind="silent", path="/never")])
    half = bench.ask(b"GET /half HTTP/1.1\r\n\r\n")
    assert half.startswith(b"HTTP/1.1 200")
    assert b"path" not in half
    assert bench.ask(b"GET /never HTTP/1.1\r\n\r\n") == b""
    assert [path for _, path, _, _ in bench.asked] == ["/half", "/never"]
    assert b"200" in bench.ask(b"GET /well HTTP/1.1\r\n\r\n")


def test_a_server_may_be_full_at_any_time(start):
    assert start(faults=[Fault(kind="503")]).ask(b"GET /x HTTP/1.1\r\n\r\n") == wire.FULL


def test_a_server_that_hangs_answers_nobody(start):
    bench = start(faults=[Fault(kind="hang", path="/x")])
    first, second = bench.client(), bench.client()
    for client in (first, second):
        client.settimeout(0.3)
        client.sendall(b"GET /x HTTP/1.1\r\n\r\n")
        with pytest.raises(TimeoutError):
            client.recv(1)


@pytest.mark.parametrize(("kind", "handled"), [("crash", False), ("crash-after", True)])
def test_the_process_may_die_of_a_request_as_a_file_says(tmp_path, kind, handled):
    faults = tmp_path / "faults.json"
    faults.write_text(json.dumps([{"kind": kind, "path": "/x", "after": 1, "exit_code": 7}]))
    path = tmp_path / "a.sock"
    program = f"""
from support.vmm import faults, wire
def handle(*asked):
    print(asked[1], flush=True)
    return 204, None, {{}}
wire.Server({str(path)!r}, handle, faults=faults.Faults.from_environment()).serve()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "NACRE_STAND_IN_FAULTS": str(faults)},
    )
    while not path.exists() or not _listens(path):
        assert process.poll() is None
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        for expected in (b"HTTP/1.1 204", b""):
            client.sendall(b"GET /x HTTP/1.1\r\n\r\n")
            assert client.recv(12) == expected
            client.recv(500)
    assert process.wait(5) == 7
    assert process.stdout is not None
    assert process.stdout.read() == "/x\n" * (1 + handled)
    process.stdout.close()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
