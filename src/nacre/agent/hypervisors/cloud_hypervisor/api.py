"""What is asked of a Cloud Hypervisor, and the one table of what its refusals mean. Thin over `lib.unix_http`.

It answers one request at a time and blocks while it works, so each call has a time limit of its own; one that has
passed says nothing of what has happened. A refusal is a status and a chain of reasons; the status alone does not tell
much, because almost everything is a 500.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from nacre.agent.hypervisors.errors import DriverError
from nacre.lib import processes
from nacre.lib.unix_http import Answer, UnixHttp
from nacre.model.convergence import FailureClass

SILENT = "hypervisor_silent"
WRONG_STATE = "wrong_state"
NOT_THERE = "device_unknown"
LOG_HINT = "the node keeps Cloud Hypervisor's own words in hypervisor.log in the machine's directory"

_BASE = "/api/v1/"
_QUESTIONS = {"vmm.ping", "vm.info", "vm.counters"}
_PATH = re.compile(r"(?:/[^\s/:,'\"]+)+/([^\s/:,'\"]+)")
_CHAIN_HEAD = "Error from API"


class Api:
    """The calls of one process. Safe to use by several tasks; they wait for each other."""

    def __init__(self, path: Path) -> None:
        self._http = UnixHttp(path)

    async def peer(self, timeout: float) -> processes.Peer | None:
        """Return the process that listens there. Raises OSError if nobody does, TimeoutError."""
        return await self._http.connect(timeout)

    async def ask(self, question: str, *, timeout: float) -> Mapping[str, object]:
        """Ask something that is answered with an object. Raises DriverError."""
        answer = await self._call("GET", question, None, timeout, ())
        if not isinstance(answer, dict):
            raise DriverError("hypervisor_refused", f"Cloud Hypervisor does not answer {question}", hint=LOG_HINT)
        return cast("Mapping[str, object]", answer)

    async def put(
        self, call: str, body: Mapping[str, object] | None = None, *, timeout: float, descriptors: Sequence[int] = ()
    ) -> None:
        """Have something done. Raises DriverError: refused or silent."""
        await self._call("PUT", call, body, timeout, descriptors)

    async def close(self) -> None:
        """Hang up."""
        await self._http.close()

    async def _call(self, method: str, call: str, body: object, timeout: float, descriptors: Sequence[int]) -> object:
        try:
            answer = await self._http.request(method, _BASE + call, body, timeout=timeout, descriptors=descriptors)
        except OSError as error:  # a TimeoutError is one too
            raise silent() from error
        if not answer.ok:
            raise refusal(call, answer)
        return answer.body


def silent() -> DriverError:
    """Return the error for a Cloud Hypervisor that does not answer."""
    return DriverError(
        SILENT,
        "the machine's Cloud Hypervisor does not answer",
        hint="it is asked again; if it stays silent, stop the machine by force",
    )


def refusal(call: str, answer: Answer) -> DriverError:
    """Return the error for an answer that is none of success."""
    reasons = reasons_of(answer.body)
    text = "\n".join(reasons)
    known = (row for row in _KNOWN if answer.status in row[0] and row[1].search(text))
    _, _, code, hint, failure_class = next(known, _UNKNOWN)
    said = without_paths(reasons[-1]) if reasons else f"status {answer.status}"
    return DriverError(code, f"Cloud Hypervisor refused {call}: {said}", hint=hint, failure_class=failure_class)


def reasons_of(body: object) -> list[str]:
    """Return the chain of reasons in the body of a refusal, the last being the cause. Older releases write a text."""
    if isinstance(body, list):
        return [str(each) for each in cast("list[object]", body) if each != _CHAIN_HEAD]
    if isinstance(body, dict):
        found = cast("dict[str, object]", body)
        return [str(found.get("error", found))]
    return [str(body)] if body else []


def without_paths(text: str) -> str:
    """Return a text without the places of files on this host, on one line."""
    return _PATH.sub(r"\1", " ".join(text.split()))[:300]


def start_failure(text: str, status: int | None) -> DriverError:
    """Turn what Cloud Hypervisor wrote before it gave up into an error. `status` as in `Process.exit_status`."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    words = without_paths(lines[-1]) if lines else f"status {status}"
    if re.search(r"/dev/kvm|KVM|hypervisor::|Failed to (open|create) hypervisor", text):
        return DriverError(
            "accelerator_failed",
            f"KVM does not work on the node: {words}",
            hint="let the agent's user read and write /dev/kvm, or use the hypervisor qemu, which does without",
            failure_class=FailureClass.BLOCKED,
        )
    return DriverError("hypervisor_start_failed", f"Cloud Hypervisor ended before it answered: {words}", hint=LOG_HINT)


_ANY = range(400, 600)
_UNKNOWN = (_ANY, re.compile(""), "hypervisor_refused", LOG_HINT, FailureClass.TRANSIENT)
_KNOWN = (
    (
        _ANY,
        re.compile(
            r"not running|already created|not created|Invalid ?State ?Transition|[Cc]onfig is missing|while VM is"
        ),
        WRONG_STATE,
        "look at the machine's state; it does not allow this now",
        FailureClass.TRANSIENT,
    ),
    (
        _ANY,
        re.compile(r"currently migrating|ongoing migration|restore is in progress"),
        "machine_moving",
        "it is tried again when the machine has arrived",
        FailureClass.TRANSIENT,
    ),
    (
        (429,),
        re.compile(""),
        "hypervisor_busy",
        "the guest has not let go of earlier CPUs yet; it is tried again",
        FailureClass.TRANSIENT,
    ),
    (
        (404,),
        re.compile(r"[Dd]evice"),
        NOT_THERE,
        "look at the machine's devices",
        FailureClass.PERMANENT,
    ),
    (
        (409,),
        re.compile(""),
        "device_exists",
        "give the device another name, or use another file",
        FailureClass.PERMANENT,
    ),
    (
        _ANY,
        re.compile(r"[Ll]ock.*(disk|image)|(disk|image).*[Ll]ock"),
        "disk_in_use",
        "end what uses the disk on the node (`fuser` names it)",
        FailureClass.TRANSIENT,
    ),
    (
        _ANY,
        re.compile(r"[Cc]annot allocate memory|os error 12|[Oo]ut of memory|ENOMEM"),
        "memory_exhausted",
        "stop other machines on the node, or give this one less memory",
        FailureClass.TRANSIENT,
    ),
    (
        _ANY,
        re.compile(r"disk path|image_type|[Qq]cow|Cannot open (kernel|initramfs|firmware)|kernel file"),
        "disk_unusable",
        LOG_HINT,
        FailureClass.TRANSIENT,
    ),
    (
        _ANY,
        re.compile(r"[Tt]ap\b|TAP"),
        "nic_unusable",
        "look whether the tap device is there, and nobody else uses it (`ip -d tuntap show`)",
        FailureClass.TRANSIENT,
    ),
    (
        (400,),
        re.compile(""),
        "config_refused",
        "change what the message names; another hypervisor may be able to do it",
        FailureClass.PERMANENT,
    ),
)
