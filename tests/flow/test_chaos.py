"""SIGKILL at random moments, many rounds: all converges, nothing is lost, runs twice or is left.

NACRE_CHAOS_ROUNDS asks for more rounds.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import httpx2
import pytest

from support.guests import tiny_image
from support.leftovers import assert_as_it_was, snapshot_of
from support.platform import Platform, eventually, platform
from support.thorough import seeds

pytestmark = pytest.mark.host

ROUNDS = int(os.environ.get("NACRE_CHAOS_ROUNDS", "6"))
NAMES = [f"vm-{index}" for index in range(5)]
CONVERGES_S = 150


class Witness(threading.Thread):
    """Looks at the host's processes all the time and remembers any machine that was seen twice at once."""

    def __init__(self, cloud: Platform) -> None:
        super().__init__(daemon=True)
        self.cloud = cloud
        self.doubles: list[str] = []
        self.looks = 0
        self._ended = threading.Event()

    def run(self) -> None:
        """Until told to end."""
        while not self._ended.wait(0.05):
            seen: Counter[str] = Counter()
            for pid in self.cloud.guest_pids():
                vm = machine_of(pid)
                if vm:
                    seen[vm] += 1
            self.looks += 1
            self.doubles += [vm for vm, count in seen.items() if count > 1]

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()
        self.join()


def machine_of(pid: int) -> str | None:
    """The id of the machine that a process runs, while it is not a zombie or a child about to exec."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        if machine_words(words) and Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0") == words:
            return None
    except (FileNotFoundError, ProcessLookupError):
        return None
    return machine_words(words)


def machine_words(words: list[bytes]) -> str | None:
    """The machine's id among the words of a command line."""
    for word in words:
        for part in word.replace(b",", b"/").split(b"/"):
            if part.startswith(b"vm-") and len(part) == 29:
                return part.decode()
    return None


@pytest.mark.timeout(300 + 30 * ROUNDS)
@pytest.mark.parametrize("seed", seeds(2))
def test_killing_anything_at_any_moment_loses_leaks_and_doubles_nothing(seed: int) -> None:
    chance = random.Random(seed)
    with platform() as cloud:
        image = tiny_image()
        cloud.import_image("tiny", {"kernel": image.kernel, "initrd": image.initrd}, kernel_args=image.kernel_args)
        before = snapshot_of(cloud)
        witness = Witness(cloud)
        witness.start()
        wanted: dict[str, str] = {}
        for _ in range(ROUNDS):
            for _ in range(3):
                change(cloud, chance, wanted)
            chaos(cloud, chance)
            revive(cloud)
            converge(cloud, wanted)
        for name in list(wanted):
            cloud.delete(f"/v1/vms/{name}", wait=60)
        assert_as_it_was(cloud, before)
        witness.end()
        assert witness.looks > 100
        assert witness.doubles == []


def change(cloud: Platform, chance: random.Random, wanted: dict[str, str]) -> None:
    """One change of intent by a user who remembers only what was accepted."""
    name = chance.choice(NAMES)
    verb = "create" if name not in wanted else chance.choice(["start", "stop", "delete"])
    machine = {"name": name, "image": "tiny", "memory_bytes": 112 << 20, "disk_bytes": 16 << 20}
    method, path, body = {
        "create": ("POST", "/v1/vms", machine),
        "start": ("POST", f"/v1/vms/{name}/start", None),
        "stop": ("POST", f"/v1/vms/{name}/stop", {"force": True}),
        "delete": ("DELETE", f"/v1/vms/{name}", None),
    }[verb]
    key = f"{chance.getrandbits(64):x}"
    answer = accepted(cloud, method, path, body, key)
    if verb == "create" and answer.status_code == 409:
        return  # its deletion has not ended yet
    assert answer.status_code == 202, answer.text
    if verb == "delete":
        del wanted[name]
    else:
        wanted[name] = "stopped" if verb == "stop" else "running"


def accepted(cloud: Platform, method: str, path: str, body: object, key: str) -> httpx2.Response:
    """Send until an answer comes: the idempotency key makes that safe when a kill swallowed one."""

    def send() -> httpx2.Response:
        return cloud.request(method, path, json=body, headers={"Idempotency-Key": key}, timeout=10)

    return eventually(send, what=f"{method} {path}")


def chaos(cloud: Platform, chance: random.Random) -> None:
    """Kill one, several or all kinds of process after a random moment."""
    time.sleep(chance.random() * 0.8)
    victims = chance.choice([["control"], ["agent"], ["guest"], ["control", "agent"], ["agent", "guest"], ["all"]])
    if "guest" in victims or "all" in victims:
        for pid in cloud.guest_pids():
            if chance.random() < 0.7:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
    if "control" in victims or "all" in victims:
        cloud.control.kill()
    if "agent" in victims or "all" in victims:
        cloud.agent.kill()


def revive(cloud: Platform) -> None:
    """What a service manager does."""
    for program in (cloud.control, cloud.agent):
        if not program.alive():
            program.start()


def converge(cloud: Platform, wanted: dict[str, str]) -> None:
    """Everything that was accepted becomes true within the limit."""

    def settled() -> bool:
        vms = {vm["name"]: vm for vm in cloud.get("/v1/vms")["items"]}
        return set(vms) == set(wanted) and all(
            vms[name]["conditions"]["converged"] and vms[name]["desired"] == desire for name, desire in wanted.items()
        )

    eventually(settled, timeout=CONVERGES_S, what=f"converged to {wanted}")
    running = [name for name, desire in wanted.items() if desire == "running"]
    eventually(lambda: len(cloud.guest_pids()) == len(running), what="as many processes as machines")
