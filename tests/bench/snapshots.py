"""How long a guest stands still while a live snapshot is taken of a volume that it writes to."""

import itertools
import math
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Any

from websockets.sync.client import connect

from bench.results import Result
from support.guests import tiny_image
from support.platform import Platform, eventually, free_port, platform

SNAPSHOTS = 20
EVERY_S = 0.005
REST_S = 0.5
"""After each snapshot, before the guest is watched for as long again for comparison."""
_MEMORY = 128 << 20
_VOLUME = 256 << 20
_PORT = 7
_LEAST = 1 << 20  # per snapshot
_WRITTEN = "/tmp/written"
_WRITER = (
    "n=0; while dd if=/dev/zero of=/dev/vda bs=64k count=4 seek=$((1 + n % 1000 * 4)) oflag=direct conv=notrunc && "
    f"n=$((n + 1)) && echo $n | dd of=/dev/vda bs=512 conv=notrunc,fsync; do echo $n >{_WRITTEN}; done"
)
"""Writes a quarter of a MiB, then the number of times that it has to the first sector, and then says that number."""
_ANSWER = f"n=0; while read -r _; do read -r now <{_WRITTEN} && n=$now; echo $n; done"


def pauses() -> Iterator[Result]:
    """Snapshots of a volume under a guest that writes to it and answers over its port."""
    with platform() as cloud:
        image = tiny_image()
        cloud.import_image("tiny", {"kernel": image.kernel, "initrd": image.initrd}, kernel_args=image.kernel_args)
        port = free_port()
        writing_guest(cloud, port)
        with Answers(port) as answers:
            eventually(lambda: answers.count > 100, what="answers of the guest")
            alone: list[float] = []
            during: list[float] = []
            counted: list[int] = []
            for number in range(SNAPSHOTS):
                began = time.perf_counter()
                done(cloud.post("/v1/volumes/data/snapshots", {"name": f"s{number}"}, wait=120))
                ended = time.perf_counter()
                during.append(answers.longest_gap(began, ended))
                counted.append(answers.counted(began, ended))
                time.sleep(max(0.0, ended - time.perf_counter() + REST_S + (ended - began)))
                alone.append(answers.longest_gap(ended + REST_S, 2 * ended - began + REST_S))
        written = sum(path.stat().st_blocks * 512 for path in (cloud.root / "agent-0" / "volumes").rglob("*"))
        assert written > SNAPSHOTS * _LEAST, f"the guest has hardly written: {written} bytes"
        assert min(counted) > 0, f"the guest did not write while snapshots were taken: {counted}"
    mib = written / SNAPSHOTS / (1 << 20)
    yield Result(
        name="snapshot.live.pause_ms",
        value=statistics.median(during),
        unit="ms",
        better="lower",
        reference=f"p50; max {max(during):.0f} ms; the same guest, for as long without a snapshot: "
        f"p50 {statistics.median(alone):.0f}, max {max(alone):.0f} ms",
        samples=during,
        how=f"longest gap between answers of a guest that writes to the volume without a pause ({mib:.0f} MiB from one "
        f"snapshot to the next) and says every {EVERY_S * 1000:.0f} ms over its port how often it has written, from "
        "POST of the snapshot until it is done; meanwhile its counter on the volume went up by "
        f"{statistics.median(counted):.0f} (p50), at least {min(counted)}; {SNAPSHOTS} snapshots",
    )


def writing_guest(cloud: Platform, port: int) -> None:
    """Start a guest that writes to a volume and says how often it has."""
    body = {"name": "writer", "image": "tiny", "memory_bytes": _MEMORY}
    done(cloud.post("/v1/vms", {**body, "publish": [{"host_port": port, "guest_port": _PORT}]}, wait=120))
    eventually(lambda: "NACRE-TINY ready" in cloud.log("writer"), what="a booted guest", timeout=300)
    done(cloud.post("/v1/volumes", {"name": "data", "size_bytes": _VOLUME}, wait=60))
    done(cloud.post("/v1/vms/writer/volumes", {"volume": "data"}, wait=120))
    url = cloud.url.replace("http", "ws") + "/v1/vms/writer/console"
    with connect(url, additional_headers={"Authorization": f"Bearer {cloud.token}"}) as console:
        for command in (
            f"echo '{_ANSWER}' >/tmp/answer",
            f"while :; do nc -l -p {_PORT} -e sh /tmp/answer; done &",
            f"while :; do {_WRITER}; sleep 0.1; done 2>/dev/null &",
            "echo be''gun",
        ):
            console.send(f"{command}\n".encode())
        seen = ""
        while "begun" not in seen:
            data = console.recv(timeout=60)
            seen += data if isinstance(data, str) else data.decode(errors="replace")


class Answers:
    """Asks the guest every few milliseconds, one question at a time, and remembers when it answered what."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._times: list[float] = []
        self._counts: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "Answers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._times)

    def longest_gap(self, began: float, ended: float) -> float:
        """Milliseconds in which the guest did not answer, at most, of a time that is over."""
        eventually(lambda: self._times[-1] > ended, what="an answer after it")
        times = list(self._times)
        gaps = [(later - earlier, earlier, later) for earlier, later in itertools.pairwise(times)]
        touched = [gap for gap, earlier, later in gaps if later > began and earlier < ended]
        return max(touched, default=math.inf) * 1000

    def counted(self, began: float, ended: float) -> int:
        """How far the guest's counter went up between the first and the last answer of a time that is over."""
        said = [count for at, count in zip(self._times, self._counts, strict=False) if began < at < ended]
        return said[-1] - said[0] if said else 0

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=10) as line:
                    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    while not self._stop.is_set():
                        line.sendall(b"\n")
                        if not (answer := line.recv(64)):
                            break
                        self._counts.append(int(answer))
                        self._times.append(time.perf_counter())
                        time.sleep(EVERY_S)
            except OSError:
                time.sleep(0.05)  # nobody listens in the guest yet


def done(accepted: Any) -> None:
    """Fail unless what was asked for has been done."""
    assert accepted["operation"]["state"] == "succeeded", accepted["operation"]


BENCHES = {("snapshot.live.pause_ms",): pauses}
