"""How fast the API answers with a thousand machines in it."""

import statistics
import time
from collections.abc import Iterator

import httpx2

from bench.results import Result
from support.guests import tiny_image
from support.platform import platform

MACHINES = 1000
LISTS = 50


def a_thousand_machines() -> Iterator[Result]:
    """Create a thousand stopped machines over one connection, then list them all in one page."""
    with platform(agents=0) as cloud:
        image = tiny_image()
        cloud.import_image("tiny", {"kernel": image.kernel, "initrd": image.initrd}, kernel_args=image.kernel_args)
        with httpx2.Client(
            base_url=cloud.url, headers={"Authorization": f"Bearer {cloud.token}"}, timeout=60
        ) as client:
            yield from create(client)
            yield from list_all(client)


def create(client: httpx2.Client) -> Iterator[Result]:
    """One after the other, each durable before it is answered."""
    samples: list[float] = []
    for index in range(MACHINES):
        began = time.monotonic()
        body = {"name": f"vm-{index:04}", "image": "tiny", "start": False, "labels": {"app": f"app-{index % 10}"}}
        answer = client.post("/v1/vms", json=body)
        assert answer.status_code == 202, answer.text
        samples.append(time.monotonic() - began)
    yield Result(
        name="api.create_vm.per_s",
        value=MACHINES / sum(samples),
        unit="1/s",
        better="higher",
        reference="one client, SQLite with synchronous=FULL",
        samples=samples,
        how=f"{MACHINES} sequential POST /v1/vms over one connection, all answered 202",
    )


def list_all(client: httpx2.Client) -> Iterator[Result]:
    """The whole list in one page."""
    samples: list[float] = []
    for _ in range(LISTS):
        began = time.monotonic()
        answer = client.get("/v1/vms", params={"limit": MACHINES})
        samples.append((time.monotonic() - began) * 1000)
        assert len(answer.json()["items"]) == MACHINES
    yield Result(
        name="api.list_1000_vms.ms_p50",
        value=statistics.median(samples),
        unit="ms",
        better="lower",
        reference="at most 100 ms",
        samples=samples,
        how=f"GET /v1/vms?limit={MACHINES} over one connection, whole body read; median of {LISTS}",
    )


BENCHES = {("api.create_vm.per_s", "api.list_1000_vms.ms_p50"): a_thousand_machines}
