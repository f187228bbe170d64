"""What carries the packets of a running guest's NICs. Called by `live`, for guests of which no record says it.

QEMU names the descriptor of a tap, and the kernel which tap that is (proc_pid_fdinfo(5)).
"""

import re
from pathlib import Path

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import MacvtapNic, Nic, TapNic, UserNic, VhostUserNic
from nacre.agent.hypervisors.qemu.command_line.places import device_of
from nacre.agent.hypervisors.qemu.command_line.refusal import refused
from nacre.agent.hypervisors.qemu.talk import Talk

_LINE = re.compile(r"(?: \\ )?(\S+): index=0,type=([a-z-]+)(.*)")


async def carried(talk: Talk, nic: str, pid: int) -> Nic:
    """Return a NIC of the guest whose process is `pid`. Of its options nothing is known. Raises DriverError."""
    told = await talk.ask(str, "human-monitor-command", {"command-line": "info network"})
    found = {match[1]: (match[2], match[3]) for line in told.splitlines() if (match := _LINE.match(line))}
    kind, words = found.get(nic, ("", ""))
    about = found.get(device_of(nic), ("", ""))[1]
    mac = re.search(r"macaddr=([0-9a-f:]+)", about)
    if not kind or mac is None:
        raise refused("nic_unknown", f"the running machine has no NIC {nic}", "connect it first")
    if kind == "user":
        return UserNic(id=nic, mac=mac[1])
    if kind == "tap" and (fd := re.search(r"\bfd=(\d+)", words)):
        return _opened(nic, mac[1], pid, fd[1])
    return VhostUserNic(id=nic, mac=mac[1], socket=Path())


def _opened(nic: str, mac: str, pid: int, fd: str) -> Nic:
    try:
        about = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
        path = Path(f"/proc/{pid}/fd/{fd}").readlink()
    except OSError as error:
        raise DriverError(
            "nic_unknown",
            f"the node does not say which network device carries NIC {nic}",
            hint="the agent must run as root, or as whoever runs the machine; it is tried again by itself",
        ) from error
    tap = re.search(r"^iff:\s*(\S+)$", about, re.MULTILINE)
    return TapNic(id=nic, mac=mac, device=tap[1]) if tap else MacvtapNic(id=nic, mac=mac, device=path)
