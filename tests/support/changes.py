"""A client of a fleet that wants something else all the time, and remembers what was accepted. From a seed."""

import random
import threading
import time
from collections import Counter
from typing import Any

import httpx2

from support.multihost import Fleet
from support.platform import eventually

MACHINES = 6
EVERY_S = 2.5
ANSWER_S = 8.0
ACCEPTED_S = 180.0
"""How long it asks again and again until it gets an answer: both replicas may be away for a while."""


class Client(threading.Thread):
    """Changes one thing after another, a few seconds apart, until told to end."""

    def __init__(self, cloud: Fleet, seed: int) -> None:
        super().__init__(name="client")
        self.wanted: dict[str, str] = {}
        """What every machine should be doing, by its name."""
        self.asked: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self._cloud = cloud
        self._chance = random.Random(f"changes {seed}")
        self._numbers = 0
        self._ended = threading.Event()

    def begin(self) -> None:
        """Machines to begin with: half of them are restarted elsewhere if their node is lost."""
        for _ in range(MACHINES - 2):
            self._create()
        for name in self.wanted:
            self._cloud.boot_of(name)

    def run(self) -> None:
        """The thread."""
        try:
            while not self._ended.wait(self._chance.uniform(0.5, 1.5) * EVERY_S):
                self._change()
        except BaseException as error:
            self.failure = error

    def end(self) -> None:
        """Stop, and raise what went wrong."""
        self._ended.set()
        self.join()
        if self.failure is not None:
            raise self.failure

    def unsettled(self) -> list[str]:
        """What is not yet as it was accepted."""
        vms = {vm["name"]: vm for vm in self._cloud.everything("/v1/vms")}
        found = [
            f"{name} is not wanted: {vm['desired']} {vm['phase']}"
            for name, vm in vms.items()
            if name not in self.wanted
        ]
        for name, desired in self.wanted.items():
            vm = vms.get(name)
            if vm is None:
                found.append(f"{name} is lost")
            elif not vm["conditions"]["converged"] or vm["desired"] != desired:
                found.append(f"{name} should be {desired}: {vm['phase']} {vm['conditions']}")
            elif desired == "running" and not self._cloud.recorder.is_heard(name, within=3):
                found.append(f"{name} is not heard")
        return found

    def _change(self) -> None:
        draw = self._chance.random()
        name = self._pick(sorted(self.wanted))
        node = self._pick(sorted(self._cloud.nodes))
        if not name or (draw < 0.2 and len(self.wanted) < MACHINES):
            self._create()
        elif draw < 0.2:
            self._accepted("delete", "DELETE", f"/v1/vms/{name}", may=(202,))
            del self.wanted[name]
        elif draw < 0.4:
            verb, body = ("start", None) if self.wanted[name] == "stopped" else ("stop", {"force": True})
            self._accepted(verb, "POST", f"/v1/vms/{name}/{verb}", body, may=(202,))
            self.wanted[name] = "running" if verb == "start" else "stopped"
        elif draw < 0.6:
            self._accepted("move", "POST", f"/v1/vms/{name}/move", {}, may=(201, 202, 409))
        elif draw < 0.7:
            body = {"parallel": 2, "timeout_s": 60}
            self._accepted("drain", "POST", f"/v1/nodes/{node}/drain", body, may=(200, 202, 409))
        else:
            self._accepted("abort", "POST", f"/v1/nodes/{node}/abort-drain", may=(200, 202, 409))
            self._accepted("uncordon", "POST", f"/v1/nodes/{node}/uncordon", may=(200, 409))

    def _create(self) -> None:
        self._numbers += 1
        ha = self._numbers % 2 == 0
        name = f"{'safe' if ha else 'plain'}-{self._numbers}"
        self._accepted("create", "POST", "/v1/vms", self._cloud.machine(name, ha=ha), may=(202,))
        self.wanted[name] = "running"

    def _accepted(self, verb: str, method: str, path: str, body: Any = None, *, may: tuple[int, ...]) -> None:
        """Send until an answer comes: the idempotency key makes that safe when trouble swallowed one."""
        key = f"{self._chance.getrandbits(64):x}"

        def send() -> httpx2.Response | None:
            answer = self._cloud.request(method, path, json=body, headers={"Idempotency-Key": key}, timeout=ANSWER_S)
            return None if answer.status_code >= 500 else answer

        began = time.monotonic()
        answer = eventually(send, timeout=ACCEPTED_S, what=f"{method} {path}")
        print(f"        {verb} {path}: {answer.status_code} after {time.monotonic() - began:.1f} s", flush=True)
        assert answer.status_code in may, f"{method} {path}: {answer.status_code} {answer.text}"
        self.asked[f"{verb} {answer.status_code}"] += 1

    def _pick(self, choices: list[str]) -> str:
        draw = self._chance.random()
        return choices[int(draw * len(choices))] if choices else ""
