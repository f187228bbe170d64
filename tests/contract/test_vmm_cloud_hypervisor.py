"""The stand-in of Cloud Hypervisor is like the real one: what it does when, in which words it refuses, how it ends."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from nacre.agent.hypervisors.cloud_hypervisor import events
from nacre.lib.unix_http import Answer, UnixHttp
from support.vmm import cloud_hypervisor_fields, faults, specification, wire
from support.vmm.installed import install
from support.waiting import until

pytestmark = pytest.mark.anyio

SMALL = {"cpus": {"boot_vcpus": 1, "max_vcpus": 2}, "memory": {"size": 128 << 20, "hotplug_size": 1 << 30}}
MACHINE = SMALL | {"payload": {"kernel": "kernel"}, "serial": {"mode": "Null"}, "console": {"mode": "Off"}}


class Standing:
    """One stand-in in a folder of its own."""

    def __init__(self, place: Path, *words: str, **environment: str) -> None:
        self.place = place
        for name in ("kernel", "disk"):
            (place / name).touch()
        binary = install(place / "bin", cloud_hypervisor="cloud_hypervisor") / "cloud-hypervisor"
        given = ["--api-socket", "path=api.sock", "--event-monitor", "path=events", "--seccomp", "true", *words]
        with (place / "stderr").open("ab") as errors:
            self.process = subprocess.Popen(
                [binary, *given], cwd=place, stderr=errors, env=os.environ | self.traces | environment
            )
        self.http = UnixHttp(place / "api.sock")

    @property
    def traces(self) -> dict[str, str]:
        return {
            wire.TRACE: str(self.place / "trace"),
            cloud_hypervisor_fields.STRAYS: str(self.place / "strays"),
            faults.FAULTS: str(self.place / "faults"),
        }

    async def put(self, call: str, body: object = None, **options) -> Answer:
        return await self.ask("PUT", f"/api/v1/{call}", body, **options)

    async def get(self, call: str) -> Answer:
        return await self.ask("GET", f"/api/v1/{call}")

    async def ask(self, method: str, path: str, body: object = None, **options) -> Answer:
        await until(lambda: is_served(self.place / "api.sock") or self.process.poll() is not None, every=0.005)
        return await self.http.request(method, path, body, timeout=10, **options)

    async def bring(self, state: str) -> None:
        """Have a machine in this state, from none."""
        calls = {"none": 0, "created": 1, "running": 2, "paused": 3}[state]
        for call, body in (("vm.create", MACHINE), ("vm.boot", None), ("vm.pause", None))[:calls]:
            assert (await self.put(call, body)).status == 204

    def events(self) -> list[str]:
        return [event.name for event in events.read(self.place / "events")]

    async def told(self, *names: str) -> None:
        await until(lambda: self.events()[-len(names) :] == list(names))

    async def end(self) -> None:
        await self.http.close()
        self.process.kill()
        self.process.wait()


Stand = Callable[..., Standing]


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    """Makes stand-ins, and ends them all."""
    made: list[Standing] = []

    def make(place: Path, *words: str) -> Standing:
        place.mkdir(exist_ok=True)
        made.append(Standing(place, *words))
        return made[-1]

    yield make
    for one in made:
        await one.end()


@pytest.fixture
def standing(stand, tmp_path) -> Standing:
    return stand(tmp_path, "--no-shutdown")


STATES = ("none", "created", "running", "paused")
BODIES = {
    "vm.create": MACHINE,
    "vm.resize": {"desired_vcpus": 2},
    "vm.add-disk": {"id": "d", "path": "disk", "image_type": "Raw"},
    "vm.remove-device": {"id": "ghost"},
    "vm.resize-disk": {"id": "ghost", "desired_size": 1},
    "vm.snapshot": {"destination_url": "file:///nowhere"},
    "vm.restore": {"source_url": "file:///nowhere"},
    "vm.send-migration": {"destination_url": "unix:/nowhere"},
}
ALLOWED = {
    "vmm.ping": (200, 200, 200, 200),
    "vm.info": (404, 200, 200, 200),
    "vm.counters": (500, 500, 200, 200),
    "vm.create": (204, 500, 500, 500),
    "vm.boot": (404, 204, 500, 500),
    "vm.pause": (500, 500, 204, 500),
    "vm.resume": (500, 500, 500, 204),
    "vm.shutdown": (500, 500, 204, 204),
    "vm.reboot": (404, 404, 204, 204),
    "vm.power-button": (500, 500, 204, 204),
    "vm.delete": (204, 204, 204, 204),
    "vm.add-disk": (404, 204, 200, 200),
    "vm.remove-device": (404, 404, 404, 404),
    "vm.resize": (404, 204, 204, 204),
    "vm.resize-disk": (404, 500, 500, 500),
    "vm.snapshot": (500, 500, 500, 500),
    "vm.restore": (500, 500, 500, 500),
    "vm.send-migration": (500, 500, 204, 204),
    "vmm.shutdown": (200, 200, 200, 200),
}


@pytest.mark.parametrize(("state", "place"), [(state, place) for place, state in enumerate(STATES)])
async def test_what_is_taken_when(stand, tmp_path, state, place):
    for call, statuses in ALLOWED.items():
        one = stand(tmp_path / call, "--no-shutdown")
        await one.bring(state)
        method = "GET" if call in {"vmm.ping", "vm.info", "vm.counters"} else "PUT"
        answer = await one.ask(method, f"/api/v1/{call}", BODIES.get(call))
        assert (call, answer.status) == (call, statuses[place])
        if answer.status >= 400:
            assert answer.body[0] == "Error from API"
            assert len(answer.body) > 1
        await one.end()


async def test_everything_has_its_words(standing):
    assert (await standing.get("vm.info")).body[-1] == "VM is not created"
    assert (await standing.put("vm.boot")).body[-1] == "VM config is missing"
    await standing.bring("running")
    assert (await standing.put("vm.create", MACHINE)).body[-1] == "VM is already created"
    assert (await standing.put("vm.resume")).body[-1].endswith("InvalidStateTransition(Running, Running)")
    snapshot = await standing.put("vm.snapshot", {"destination_url": f"file://{standing.place}"})
    assert snapshot.body[-1] == "Trying to snapshot while VM is running"


async def test_requests_that_reach_no_machine(standing):
    assert (await standing.put("vm.explode")).status == 404
    assert (await standing.ask("PUT", "/vm.boot")).body == ["Not Found"]
    assert await standing.ask("PATCH", "/api/v1/vm.boot") == Answer(
        400, None, (await standing.ask("PATCH", "/x")).headers
    )
    assert (await standing.put("vm.boot", {"a": 1})).body == ["Bad Request"]
    assert (await standing.put("vm.create")).body == ["Bad Request"]
    assert (await standing.ask("GET", "/api/v1/vm.boot")).body == ["Bad Request"]
    assert (await standing.put("vm.create", [1])).body[0] == "Failed to deserialize JSON"


async def test_unknown_fields_are_dropped_and_noted(standing):
    odd = MACHINE | {"serail": {"mode": "Off"}, "memory": {"size": 1 << 27, "sized": 1}}
    assert (await standing.put("vm.create", odd)).status == 204
    strays = [json.loads(line) for line in (standing.place / "strays").read_text().splitlines()]
    assert sorted(strays) == ["vm.create.memory.sized", "vm.create.serail"]
    assert "sized" not in (await standing.get("vm.info")).body["config"]["memory"]
    strict = {"id": "d", "path": "disk", "rate_limiter_config": {"bandwith": {}}}
    assert (await standing.put("vm.add-disk", strict)).body[0] == "Failed to deserialize JSON"


async def test_a_configuration_is_only_looked_at_when_the_machine_boots(standing):
    for wrong in (
        MACHINE | {"cpus": {"boot_vcpus": 4, "max_vcpus": 2}},
        MACHINE | {"payload": {}},
        MACHINE | {"disks": [{"id": "d", "vhost_user": True, "vhost_socket": "s"}]},
        MACHINE | {"disks": [{"id": "d", "path": "disk", "num_queues": 2}]},
        MACHINE | {"net": [{"id": "n", "mtu": 100}]},
        MACHINE | {"balloon": {"size": 1 << 40}},
    ):
        assert (await standing.put("vm.create", wrong)).status == 204
        assert (await standing.put("vm.boot")).status == 400
        assert (await standing.get("vm.info")).body["state"] == "Created"
        await standing.put("vm.delete")
    await standing.put("vm.create", MACHINE | {"payload": {"kernel": "gone"}})
    assert (await standing.put("vm.boot")).status == 500


async def test_a_console_that_cannot_be_made_leaves_a_configuration(standing):
    (standing.place / "serial.sock").touch()
    odd = MACHINE | {"serial": {"mode": "Socket", "socket": "serial.sock"}}
    assert (await standing.put("vm.create", odd)).status == 500
    assert (await standing.put("vm.create", MACHINE)).body[-1] == "VM is already created"


async def test_devices_have_names_of_their_own(standing):
    await standing.bring("running")
    added = await standing.put("vm.add-disk", {"path": "disk"})
    assert added.body == {"id": "_disk0", "bdf": "0000:00:03.0"}
    assert (await standing.put("vm.add-disk", {"id": "_disk0", "path": "disk"})).status == 409
    assert (await standing.put("vm.remove-device", {"id": "_disk0"})).status == 204
    info = (await standing.get("vm.info")).body
    assert info["config"]["disks"] == []  # at once; the guest lets go a moment later
    await standing.told("device-removed")
    assert (await standing.get("vm.info")).body["device_tree"] == {}


async def test_a_nic_comes_with_descriptors(standing):
    await standing.bring("running")
    with (standing.place / "disk").open() as file:
        odd = await standing.put("vm.add-net", {"id": "n", "num_queues": 4}, descriptors=[file.fileno()])
        assert odd.status == 400
        assert (await standing.put("vm.add-net", {"id": "n"}, descriptors=[file.fileno()])).status == 200
    assert (await standing.get("vm.info")).body["config"]["net"][0]["fds"] == [-1]


@pytest.mark.parametrize("stays", [True, False])
async def test_a_guest_that_powers_off(stand, tmp_path, stays):
    one = stand(tmp_path, *["--no-shutdown"] * stays)
    await one.put("vm.create", MACHINE | {"payload": {"kernel": "kernel", "cmdline": "fake.poweroff=0.05"}})
    await one.put("vm.boot")
    if stays:
        await one.told("booting", "booted", "shutdown")
        assert (await one.get("vm.info")).body["state"] == "Created"
        assert (await one.put("vmm.shutdown")).status == 200
    await until(lambda: one.process.poll() is not None)
    assert one.process.returncode == 0
    assert sorted(path.name for path in tmp_path.glob("api.sock*")) == ["api.sock.lock"]


async def test_a_guest_that_restarts_and_one_that_crashes(standing):
    machine = MACHINE | {"payload": {"kernel": "kernel", "cmdline": "fake.reboot=0.05"}}
    await standing.put("vm.create", machine)
    await standing.put("vm.boot")
    await until(lambda: standing.events().count("rebooted") >= 2)
    await standing.put("vm.delete")
    await standing.put("vm.create", machine | {"payload": {"kernel": "kernel", "cmdline": "fake.crash=0.05"}})
    await standing.put("vm.boot")
    await until(lambda: standing.process.poll() is not None)
    assert standing.process.returncode == 1


async def test_signals_end_it_well(standing):
    await standing.bring("running")
    standing.process.send_signal(signal.SIGTERM)
    assert standing.process.wait(10) == 0


async def test_one_socket_one_process(stand, standing, tmp_path):
    await standing.get("vmm.ping")
    second = stand(tmp_path)
    assert second.process.wait(10) == 1
    assert "ApiSocketInUse" in (tmp_path / "stderr").read_text()
    standing.process.kill()
    standing.process.wait()
    third = stand(tmp_path)  # what the first has left is no hindrance
    await until(lambda: third.process.poll() is not None or is_served(tmp_path / "api.sock"))
    assert third.process.poll() is None


def is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def test_its_command_line(tmp_path):
    binary = install(tmp_path, cloud_hypervisor="cloud_hypervisor") / "cloud-hypervisor"
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[0] == "cloud-hypervisor v54.0"
    assert subprocess.run([binary, "--explode"], capture_output=True, check=False).returncode == 2


async def test_faults(standing):
    (standing.place / "faults").write_text(json.dumps([{"kind": "refuse", "path": "/api/v1/vm.boot", "status": 418}]))
    await standing.bring("created")
    assert (await standing.put("vm.boot")).status == 418


async def test_what_is_asked_is_noted(standing):
    await standing.bring("created")
    assert specification.traced(standing.place / "trace") == [("PUT", "/api/v1/vm.create", MACHINE)]
