"""The stand-in of Firecracker is like the real one: what it takes when, in which words it refuses, how it ends."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from support.vmm.firecracker_rules import POST, PRE, ROUTES
from support.vmm.installed import install

BOOT = ("PUT", "/boot-source", {"kernel_image_path": "kernel"})
START = ("PUT", "/actions", {"action_type": "InstanceStart"})
PAUSE = ("PATCH", "/vm", {"state": "Paused"})
SAVE = ("PUT", "/snapshot/create", {"snapshot_path": "state", "mem_file_path": "memory"})
LOAD = (
    "PUT",
    "/snapshot/load",
    {"snapshot_path": "state", "mem_backend": {"backend_type": "File", "backend_path": "memory"}},
)
ROOT = {"drive_id": "root", "is_root_device": True, "path_on_host": "disk"}
PARSE = "An error occurred when deserializing the json body of a request: "


REAL = os.environ.get("NACRE_FIRECRACKER", "")
"""The real one, held to the same words as far as it needs no KVM."""
both = pytest.mark.parametrize(
    "program",
    [
        "firecracker",
        pytest.param(REAL, marks=pytest.mark.skipif(not REAL, reason="NACRE_FIRECRACKER names no real one"), id="real"),
    ],
)


class Standing:
    """One stand-in in a folder of its own."""

    def __init__(
        self, place: Path, *words: str, version: str = "1.17.0", program: str = "firecracker", **more: str
    ) -> None:
        self.place = place
        (place / "kernel").write_bytes(b"\x7fELF")
        (place / "disk").write_bytes(bytes(4096))
        (place / "tap0").touch()
        binary = install(place / "bin", firecracker=program) / "firecracker"
        with (place / "console").open("ab") as console, (place / "stderr").open("ab") as errors:
            self.process = subprocess.Popen(
                [binary, "--api-sock", "api.sock", "--id", "vm-1", "--log-path", "log", *words],
                cwd=place,
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=errors,
                env=os.environ | {"NACRE_STAND_IN_VERSION": version, "NACRE_STAND_IN_TAPS": str(place)} | more,
            )
        self.client: socket.socket | None = None

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, object]:
        if self.client is None:
            self.client = self._connected()
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self.client.sendall(f"{method} {path} HTTP/1.1\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        seen = b""
        while b"\r\n\r\n" not in seen:
            part = self.client.recv(65536)
            assert part, "it hung up"
            seen += part
        head, _, rest = seen.partition(b"\r\n\r\n")
        if b"Content-Length: " not in head:
            return int(head.split()[1]), None
        length = int(head.split(b"Content-Length: ")[1].split()[0])
        while len(rest) < length:
            rest += self.client.recv(65536)
        return int(head.split()[1]), json.loads(rest)

    def do(self, *requests: tuple) -> None:
        for request in requests:
            assert self.ask(*request)[0] == 204, (request, self.ask(*request))

    def refused(self, *request: object) -> str:
        status, body = self.ask(*request)
        assert status == 400
        return body["fault_message"]

    def boot(self, *before: tuple) -> None:
        self.do(BOOT, *before, START)
        self.printed("ready")

    def printed(self, word: str) -> str:
        deadline = time.monotonic() + 10
        while word not in (text := (self.place / "console").read_text()):
            assert time.monotonic() < deadline, text
            time.sleep(0.01)
        return text

    def type(self, text: str) -> None:
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def ended(self) -> int:
        return self.process.wait(10)

    def _connected(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        deadline = time.monotonic() + 10
        while client.connect_ex(str(self.place / "api.sock")):
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return client

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        if self.client is not None:
            self.client.close()


@pytest.fixture
def stand(tmp_path):
    made: list[Standing] = []

    def begin(*words: str, again: bool = False, **options: str) -> Standing:
        place = tmp_path if again or not made else tmp_path / str(len(made))
        place.mkdir(exist_ok=True)
        if again:
            (tmp_path / "api.sock").unlink(missing_ok=True)
        made.append(Standing(place, *words, **options))
        return made[-1]

    yield begin
    for each in made:
        each.close()


@both
def test_before_it_starts_it_says_what_it_is(stand, program):
    one = stand(program=program)
    status, found = one.ask("GET", "/")
    assert (status, found["id"], found["state"], found["app_name"]) == (200, "vm-1", "Not started", "Firecracker")
    assert one.ask("GET", "/version") == (200, {"firecracker_version": found["vmm_version"]})


def test_it_says_what_it_is(stand):
    one = stand()
    assert one.ask("GET", "/")[1]["vmm_version"] == "1.17.0"
    one.boot()
    assert one.ask("GET", "/")[1]["state"] == "Running"


@both
@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (("GET", "/nothing"), "Invalid request method and/or path: GET nothing."),
        (("GET", "/", {}), "GET request cannot have a body."),
        (("PUT", "/actions"), "Empty PUT request."),
        (("PATCH", "/vm"), "Empty PATCH request."),
        (("DELETE", "/drives/a", {}), "Empty Delete request."),
        (("PUT", "/nothing", {}), "Invalid request method and/or path: PUT nothing."),
        (("PUT", "/snapshot/odd", {}), "Invalid request method and/or path: PUT /snapshot/odd."),
        (("DELETE", "/vsock"), "Invalid request method and/or path: DELETE vsock."),
        (
            ("PUT", "/drives/a-b", ROOT),
            "API Resource IDs can only contain alphanumeric characters and underscores.",
        ),
        (("PUT", "/drives", ROOT), "The ID cannot be empty."),
        (("PUT", "/drives/other", ROOT), "The id from the path does not match the id from the body!"),
        (
            ("PUT", "/network-interfaces/a", {"iface_id": "b", "host_dev_name": "tap0"}),
            "The id from the path [a] does not match the id from the body [b]!",
        ),
        (
            ("PUT", "/actions", b'{"action_type":"Fly"}'),
            PARSE
            + "unknown variant `Fly`, expected one of `FlushMetrics`, `InstanceStart`, `SendCtrlAltDel` "
            + "at line 1 column 14.",
        ),
        (("PUT", "/actions", b"{}"), PARSE + "missing field `action_type` at line 1 column 2."),
        (
            ("PUT", "/actions", b'{"action_type":"FlushMetrics","x":1}'),
            PARSE + "unknown field `x`, expected `action_type` at line 1 column 33.",
        ),
        (
            ("PUT", "/machine-config", {"vcpu_count": "two", "mem_size_mib": 128}),
            PARSE + 'invalid type: string "two", expected u8 at line 1 column 13.',
        ),
        (
            ("PUT", "/machine-config", {"vcpu_count": 256, "mem_size_mib": 128}),
            PARSE + "invalid value: integer `256`, expected u8 at line 1 column 13.",
        ),
        (
            ("PUT", "/snapshot/load", {"snapshot_path": "state"}),
            PARSE + "missing field: either `mem_backend` or `mem_file_path` is required.",
        ),
        (
            ("PUT", "/boot-source", {"kernel_image_path": "none"}),
            "Boot source error: The kernel file cannot be opened: No such file or directory (os error 2)",
        ),
        (
            ("PUT", "/drives/root", ROOT | {"path_on_host": "none"}),
            (
                "Drive config error: Unable to create the virtio block device: Virtio backend error: Error "
                "manipulating the backing file: No such file or directory (os error 2) none"
            ),
        ),
        (START, "Start microvm error: Cannot start microvm without kernel configuration."),
        (
            ("PUT", "/machine-config", {"vcpu_count": 33, "mem_size_mib": 128}),
            (
                "Machine config error: The number of vCPUs must be greater than 0, less than 32 and must be 1 or an "
                "even number if SMT is enabled."
            ),
        ),
        (
            ("PATCH", "/machine-config", {"mem_size_mib": 0}),
            "Machine config error: The memory size (MiB) is either 0, or not a multiple of the configured page size.",
        ),
        (
            ("PUT", "/balloon", {"amount_mib": 129, "deflate_on_oom": True}),
            "Balloon config error: Amount of pages requested is too large.",
        ),
        (("GET", "/balloon"), "Balloon config error: No balloon device found."),
        (PAUSE, PRE),
        (("PUT", "/actions", {"action_type": "SendCtrlAltDel"}), PRE),
    ],
)
def test_it_refuses_in_its_own_words_and_goes_on(stand, program, request_, words):
    one = stand(program=program)
    assert one.refused(*request_) == words
    assert one.ask("GET", "/")[0] == 200


def test_devices_clash_in_its_own_words(stand):
    one = stand()
    nic = {"iface_id": "a", "host_dev_name": "tap0", "guest_mac": "52:4E:00:00:00:01"}
    one.do(("PUT", "/drives/root", ROOT), ("PUT", "/network-interfaces/a", nic))
    second = ("PUT", "/drives/b", ROOT | {"drive_id": "b"})
    assert one.refused(*second) == "Drive config error: A root block device already exists!"
    clash = ("PUT", "/network-interfaces/b", nic | {"iface_id": "b"})
    assert one.refused(*clash) == "Network config error: The MAC address is already in use: 52:4e:00:00:00:01"
    busy = ("PUT", "/network-interfaces/b", {"iface_id": "b", "host_dev_name": "tap0"})
    assert one.refused(*busy).startswith(
        "Network config error: Could not create the network device: Open tap device failed: Error while creating ifreq "
        "structure: Resource busy (os error 16). Invalid TUN/TAP Backend provided by tap0."
    )
    (one.place / "vsock").touch()
    assert one.refused("PUT", "/vsock", {"guest_cid": 3, "uds_path": "vsock"}) == (
        "Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket: "
        "Address in use (os error 98)"
    )
    one.do(("PUT", "/vsock", {"guest_cid": 3, "uds_path": "v1"}), ("PUT", "/vsock", {"guest_cid": 3, "uds_path": "v2"}))
    assert not (one.place / "v1").exists()
    assert (one.place / "v2").is_socket()


def test_what_is_legal_depends_on_whether_it_has_started(stand):
    bodies = {
        "put_mmds_config": {"network_interfaces": ["x"]},
        "put_memory": {"total_size_mib": 128},
        "put_machine": {"vcpu_count": 1, "mem_size_mib": 128},
        "put_boot_source": {"kernel_image_path": "kernel"},
        "put_balloon": {"amount_mib": 1, "deflate_on_oom": True},
        "patch_balloon": {"amount_mib": 1},
        "patch_balloon_statistics": {"stats_polling_interval_s": 1},
        "put_vsock": {"guest_cid": 3, "uds_path": "v"},
        "put_metrics": {"metrics_path": "m"},
        "save": SAVE[2],
        "load": LOAD[2],
        "patch_vm": {"state": "Paused"},
        "patch_memory": {"requested_size_mib": 0},
    }
    ids = {"drives/*": "drive_id", "pmem/*": "id", "network-interfaces/*": "iface_id"}
    early, late = stand(), stand()
    late.boot()
    for (method, path), action in ROUTES.items():
        body: object = bodies.get(action.name, {}) if method in {"PUT", "PATCH"} else None
        if path in ids and body is not None:
            body = {ids[path]: "x", "path_on_host": "none", "is_root_device": False, "host_dev_name": "none"}
            fields = {"put_drive": 3, "patch_drive": 2, "put_pmem": 2, "patch_pmem": 1, "put_nic": 2, "patch_nic": 1}
            keep = {
                "put_drive": ("drive_id", "path_on_host", "is_root_device"),
                "patch_drive": ("drive_id", "path_on_host"),
                "put_pmem": ("id", "path_on_host"),
                "patch_pmem": ("id",),
                "put_nic": ("iface_id", "host_dev_name"),
                "patch_nic": ("iface_id",),
            }[action.name]
            assert len(keep) == fields[action.name]
            body = {key: body[key] for key in keep}
        if action.name == "act":
            continue
        target = "/" + path.replace("*", "x")
        for one, legal, words in ((early, action.before, PRE), (late, action.after, POST)):
            status, answer = one.ask(method, target, body)
            if not legal:
                assert (status, answer) == (400, {"fault_message": words}), (method, target)
            elif status == 400:
                assert answer["fault_message"] not in {PRE, POST}, (method, target)
            if one is early and action.name == "load":
                break


def test_pausing_and_going_on_may_be_repeated(stand):
    one = stand()
    one.boot()
    for state, shown in (("Paused", "Paused"), ("Resumed", "Running")):
        for _ in range(2):
            one.do(("PATCH", "/vm", {"state": state}))
            assert one.ask("GET", "/")[1]["state"] == shown


def test_three_keys_make_the_guest_reboot_which_ends_the_process_well(stand):
    one = stand()
    one.boot()
    one.do(("PUT", "/actions", {"action_type": "SendCtrlAltDel"}))
    assert one.ended() == 0
    assert (one.place / "api.sock").exists()
    assert "Firecracker exiting successfully. exit_code=0" in (one.place / "log").read_text()


def test_a_guest_that_powers_off_stands_still_and_its_process_stays(stand):
    one = stand()
    one.boot()
    one.type("poweroff\n")
    one.printed("Power down")
    assert one.ask("GET", "/")[1]["state"] == "Running"
    assert one.process.poll() is None


def test_its_console_is_its_standard_input_and_output(stand):
    one = stand()
    one.boot(("PUT", "/drives/root", ROOT))
    one.type("cmdline\n")
    assert "root=/dev/vda rw pci=off" in one.printed("pci=off")
    one.type("reboot\n")
    assert one.ended() == 0


def test_a_console_in_a_file_takes_no_input(stand):
    one = stand()
    one.do(BOOT, ("PUT", "/serial", {"serial_out_path": "serial"}), START)
    while "ready" not in (one.place / "serial").read_text():
        time.sleep(0.01)
    one.type("reboot\n")
    time.sleep(0.1)
    assert one.process.poll() is None


def test_a_socket_that_is_there_is_not_taken_over(stand):
    one = stand()
    one.ask("GET", "/")
    two = Standing(one.place)
    assert two.ended() == 1
    assert (
        "Failed to open the API socket at: api.sock. Check that it is not already used."
        in (one.place / "stderr").read_text()
    )
    two.close()


@pytest.mark.parametrize("words", [("--odd",), ("--no-api",), ("--level",), ("--enable-pci", "--enable-pci")])
def test_a_command_line_that_is_not_understood(stand, words):
    assert stand(*words).ended() == 153


def test_a_guest_that_breaks_it_and_signals_have_exit_codes(stand):
    one = stand()
    one.boot()
    one.type("crash\n")
    assert one.ended() == 1
    two = stand()
    two.ask("GET", "/")
    two.process.send_signal(signal.SIGHUP)
    assert two.ended() == 156
    three = stand()
    three.ask("GET", "/")
    three.process.terminate()
    assert three.ended() == -signal.SIGTERM


def test_a_machine_that_was_saved_goes_on(stand):
    one = stand()
    one.boot(("PUT", "/drives/root", ROOT), ("PUT", "/vsock", {"guest_cid": 3, "uds_path": "v"}))
    one.type("note remember me\n")
    one.printed("note remember me")
    assert one.refused(*SAVE) == (
        "Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore unavailable while "
        "running"
    )
    one.do(PAUSE, SAVE)
    one.close()
    (one.place / "v").unlink()
    two = stand(again=True)
    two.do(LOAD)
    assert two.ask("GET", "/")[1]["state"] == "Paused"
    two.do(("PATCH", "/vm", {"state": "Resumed"}))
    two.type("notes\n")
    two.printed("\nremember me")
    described = subprocess.run(
        [one.place / "bin" / "firecracker", "--describe-snapshot", one.place / "state"], capture_output=True, check=True
    )
    assert described.stdout == b"v11.0.0\n"


def test_what_cannot_be_loaded_ends_the_process_except_after_configuring(stand):
    one = stand()
    assert one.refused(*LOAD) == (
        "Load snapshot error: Failed to restore from snapshot: Failed to get snapshot state from file: Failed to open "
        "snapshot file: No such file or directory (os error 2)"
    )
    assert one.ended() == 1
    two = stand()
    assert "cannot be opened" in two.refused("PUT", "/boot-source", {"kernel_image_path": "none"})
    assert two.refused(*LOAD) == (
        "Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources."
    )
    assert two.ask("GET", "/")[0] == 200


def test_another_version_does_not_read_a_snapshot(stand):
    one = stand()
    one.boot()
    one.do(PAUSE, SAVE)
    one.close()
    two = stand(again=True, version="1.14.1")
    assert "unsupported version: 11.0.0" in two.refused(*LOAD)
    assert two.ended() == 1


def test_an_older_version_knows_less(stand):
    one = stand(version="1.11.0")
    assert one.refused("PUT", "/serial", {}) == "Invalid request method and/or path: PUT serial."
    assert "unknown field `mtu`" in one.refused(
        "PUT", "/network-interfaces/a", {"iface_id": "a", "host_dev_name": "tap0", "mtu": 1500}
    )
    assert stand("--enable-pci", version="1.11.0").ended() == 153
    (one.place / "kernel").write_bytes(b"MZ..")
    one.do(BOOT)
    assert "invalid kernel image" in one.refused(*START)


def test_devices_come_and_go_with_pci(stand):
    without, one = stand(), stand("--enable-pci")
    more = ("PUT", "/drives/more", {"drive_id": "more", "is_root_device": False, "path_on_host": "disk"})
    for each in (without, one):
        each.boot(("PUT", "/drives/root", ROOT))
    assert "PCI is not enabled" in without.refused(*more)
    one.do(more)
    assert [drive["drive_id"] for drive in one.ask("GET", "/vm/config")[1]["drives"]] == ["root", "more"]
    assert "Device ID in use" in one.refused(*more)
    one.do(("DELETE", "/drives/more"))
    assert "Device not found" in one.refused("DELETE", "/drives/more")
    assert "Cannot unplug root device" in one.refused("DELETE", "/drives/root")


def test_limits_change_by_bucket_and_an_empty_one_takes_them_away(stand):
    one = stand()
    bucket = {"size": 10, "refill_time": 100}
    limits = {"bandwidth": bucket, "ops": bucket}
    one.boot(("PUT", "/drives/root", ROOT | {"rate_limiter": limits}))
    none = {"bandwidth": {"size": 0, "refill_time": 0}}
    one.do(("PATCH", "/drives/root", {"drive_id": "root", "rate_limiter": none}))
    assert one.ask("GET", "/vm/config")[1]["drives"][0]["rate_limiter"] == {"ops": bucket}
    one.do(("PATCH", "/drives/root", {"drive_id": "root", "rate_limiter": {"ops": {"size": 0, "refill_time": 0}}}))
    assert one.ask("GET", "/vm/config")[1]["drives"][0]["rate_limiter"] is None


def test_metrics_are_what_came_since_the_last_time(stand):
    one = stand("--metrics-path", "metrics")
    one.boot(("PUT", "/drives/root", ROOT))
    for _ in range(2):
        one.do(("PUT", "/actions", {"action_type": "FlushMetrics"}))
    lines = [json.loads(line) for line in (one.place / "metrics").read_text().splitlines()]
    assert [line["block_root"]["read_bytes"] for line in lines] == [1 << 20, 0]
    assert "Reinitialization" in stand("--metrics-path", "m").refused("PUT", "/metrics", {"metrics_path": "n"})


def test_metadata_is_kept_merged_and_bounded(stand):
    one = stand("--mmds-size-limit", "40")
    one.do(("PUT", "/mmds", {"a": {"b": 1, "c": 2}}), ("PATCH", "/mmds", {"a": {"b": None}}))
    assert one.ask("GET", "/mmds") == (200, {"a": {"c": 2}})
    assert one.ask("PATCH", "/mmds", {"d": "x" * 50}) == (
        413,
        {"fault_message": "MMDS limit exceeded error: The MMDS patch request doesn't fit."},
    )
    one.boot()
    assert one.refused("GET", "/mmds") == "MMDS error: The MMDS data store is not initialized."


def test_memory_grows_in_blocks(stand):
    one = stand()
    one.boot(("PUT", "/hotplug/memory", {"total_size_mib": 256}))
    one.do(("PATCH", "/hotplug/memory", {"requested_size_mib": 128}))
    assert one.ask("GET", "/hotplug/memory")[1] == {
        "total_size_mib": 256,
        "block_size_mib": 2,
        "slot_size_mib": 128,
        "plugged_size_mib": 128,
        "requested_size_mib": 128,
    }
    assert "Invalid requested size" in one.refused("PATCH", "/hotplug/memory", {"requested_size_mib": 512})


def test_a_file_can_configure_it(stand, tmp_path):
    (tmp_path / "config").write_text(
        json.dumps({"boot-source": BOOT[2], "drives": [ROOT], "machine-config": {"vcpu_count": 2, "mem_size_mib": 256}})
    )
    one = stand("--config-file", "config")
    one.printed("ready")
    assert one.ask("GET", "/machine-config")[1]["vcpu_count"] == 2
