"""A lab of hosts that are network namespaces: their links can be cut and their power can be taken away.

A host has an interface on one or two networks, `control` and `data`, which are bridges in a namespace of their own, so
nothing of the machine that runs the tests is touched. Names carry the process that made them: what a killed test left
behind is removed when the next lab is made. Needs root; `hindrance` says what is in the way.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import functools
import itertools
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from nacre.lib import processes
from support.patience import Patience

T = TypeVar("T")

NETWORKS = {"control": "10.77.1", "data": "10.77.2"}
_RUN = Path("/run/netns")
_PREFIX = "nacre-lab"
_CLONE_NEWNET = 0x40000000
_CLONE_NEWNS = 0x00020000
_TUNSETIFF = 0x400454CA
_TAP = 0x0002 | 0x1000  # without packet information
_numbers = itertools.count()


@functools.cache
def hindrance() -> str:
    """Why there can be no lab here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if lacking := [name for name in ("ip", "nft", "nsenter", "unshare") if shutil.which(name) is None]:
        return f"{', '.join(lacking)} not installed"
    probe = f"{_PREFIX}-{_me()}-probe"
    try:
        _run("ip", "netns", "add", probe)
        try:
            _nft(probe, _rules("lo", "drop"))
        finally:
            _run("ip", "netns", "del", probe)
    except AssertionError as error:
        return str(error).strip()
    return ""


class Host:
    """One host. Its programs are whatever runs in its namespace, whoever started it."""

    def __init__(self, lab: "Lab", name: str, number: int, networks: Sequence[str]) -> None:
        self.name = name
        self.namespace = f"{lab.prefix}-{name}"
        self.addresses = {network: f"{NETWORKS[network]}.{number}" for network in networks}
        self._switch = lab.switch
        _run("ip", "netns", "add", self.namespace)
        self._ip("link", "set", "lo", "up")
        for network in networks:
            port = f"{name}-{network[0]}"
            _run(*f"ip link add {network} netns {self.namespace} type veth peer {port} netns {lab.switch}".split())
            _run(*f"ip -n {lab.switch} link set {port} master {network} up".split())
            self._ip("addr", "add", f"{self.addresses[network]}/24", "dev", network)
            self._ip("link", "set", network, "up")

    def words(self, *words: str, boot_id: Path | None = None) -> list[str]:
        """The command line that runs `words` on this host; the process that it becomes is that of the program.

        With a file `boot_id`, the program sees its content as the id of the host's boot.
        """
        inside = ["nsenter", f"--net={_RUN / self.namespace}", "--"]
        if boot_id is not None:
            script = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
            inside += ["unshare", "--mount", "--", "sh", "-c", script, str(boot_id)]
        return [*inside, *words]

    def inside(self, work: Callable[[], T]) -> T:
        """Do something in this host's network, such as making a socket, and return what came of it."""
        found: list[T] = []
        failed: list[BaseException] = []

        def enter() -> None:
            try:
                enter_namespace(self.namespace)
                found.append(work())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return found[0]

    def cut(self, network: str, *directions: str) -> None:
        """Drop what goes `out` or comes `in` over a network, both by default. Nobody is told, as with a cut cable."""
        for direction in directions or ("in", "out"):
            self._filter(network, direction, "drop")

    def heal(self, *networks: str) -> None:
        """Undo the cuts of these networks, or all."""
        for network in networks or self.addresses:
            for direction in ("in", "out"):
                self._filter(network, direction, "accept")

    def link(self, state: str) -> None:
        """All cables `up` or `down`."""
        for network in self.addresses:
            self._ip("link", "set", network, state)

    def pids(self) -> list[int]:
        """Every process of this host."""
        return pids_in(self.namespace)

    def power_off(self) -> None:
        """Everything at once: no cable, no process. Returns when the last process is gone."""
        self.link("down")
        kill_all(self.pids)

    def remove(self) -> None:
        """End every process and give the namespace back."""
        kill_all(self.pids)
        _run("ip", "netns", "del", self.namespace)

    def _filter(self, network: str, direction: str, verdict: str) -> None:
        # What goes out is dropped where it comes in at the switch: a drop on the way out would be told to the sender.
        if direction == "in":
            _nft(self.namespace, _rules(network, verdict))
        else:
            _nft(self._switch, _rules(f"{self.name}-{network[0]}", verdict))

    def _ip(self, *words: str) -> None:
        _run("ip", "-n", self.namespace, *words)


class Lab:
    """Hosts on two networks, and a folder that goes with them."""

    def __init__(self) -> None:
        sweep()
        self.prefix = f"{_PREFIX}-{_me()}-{next(_numbers)}"
        self.root = Path(tempfile.mkdtemp(prefix=f"{self.prefix}-"))
        self.switch = f"{self.prefix}-switch"
        self.hosts: dict[str, Host] = {}
        _run("ip", "netns", "add", self.switch)
        for network in NETWORKS:
            _run("ip", "-n", self.switch, "link", "add", network, "type", "bridge")
            _run("ip", "-n", self.switch, "link", "set", network, "up")

    def host(self, name: str, number: int, *networks: str) -> Host:
        """Add a host, whose addresses end in `number`."""
        self.hosts[name] = Host(self, name, number, networks or tuple(NETWORKS))
        return self.hosts[name]

    def close(self) -> None:
        """Leave nothing behind."""
        for host in self.hosts.values():
            host.remove()
        _run("ip", "netns", "del", self.switch)
        shutil.rmtree(self.root, ignore_errors=True)


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    """A lab for the length of a block."""
    made = Lab()
    try:
        yield made
    finally:
        made.close()


def sweep() -> None:
    """Remove the labs of processes that are no more."""
    for path in [*_RUN.glob(f"{_PREFIX}-*"), *Path(tempfile.gettempdir()).glob(f"{_PREFIX}-*")]:
        pid, started = path.name.removeprefix(f"{_PREFIX}-").split("-")[:2]
        if processes.start_time(int(pid)) == int(started):
            continue
        if path.parent == _RUN:
            kill_all(lambda name=path.name: pids_in(name))
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True)
        else:
            shutil.rmtree(path, ignore_errors=True)


def kill_all(pids: Callable[[], Sequence[int]], timeout: float = 10) -> None:
    """SIGKILL until none is left: a process may have made another one in between."""
    patience = Patience(timeout)
    while found := pids():
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert not patience.is_over(), f"not to be killed: {found}"
        time.sleep(0.002)


def pids_in(namespace: str) -> list[int]:
    """Every process whose network is this namespace, zombies aside."""
    try:
        wanted = f"net:[{(_RUN / namespace).stat().st_ino}]"
    except FileNotFoundError:
        return []
    found: list[int] = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{entry.name}/ns/net") == wanted and not _ended(int(entry.name)):  # noqa: PTH115
                    found.append(int(entry.name))
    return found


def enter_namespace(namespace: str) -> None:
    """Move the calling thread, and nothing else of this process, into a namespace. For good."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (_RUN / namespace).open("rb") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")


def in_own_network(work: Callable[[], Coroutine[None, None, T]]) -> T:
    """Run a coroutine in a network of its own, with a loop of its own, and return what came of it.

    What it starts is in that network too, which ends with the last process in it. `/sys` shows its devices.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(_CLONE_NEWNET | _CLONE_NEWNS) != 0:
                raise OSError(ctypes.get_errno(), "cannot have a network of its own")
            _run("mount", "--make-rprivate", "/")
            _run("mount", "-t", "sysfs", "sysfs", "/sys")
            _run("ip", "link", "set", "lo", "up")
            found.append(asyncio.run(work()))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def make_tap(name: str, address: str = "") -> None:
    """Make a tap in the network of the calling thread, and set it up."""
    _run("ip", "tuntap", "add", "dev", name, "mode", "tap")
    _run("ip", "link", "set", name, "up")
    if address:
        _run("ip", "addr", "add", address, "dev", name)


def remove_link(name: str) -> None:
    """Remove a device from the network of the calling thread."""
    _run("ip", "link", "del", name)


def run_in_it(*words: str) -> str:
    """Run a program in the network of the calling thread, and return what it prints. It must succeed."""
    return _run(*words)


@contextlib.contextmanager
def opened_tap(name: str) -> Iterator[int]:
    """Have a tap open, as a guest's process has."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP))
        yield descriptor
    finally:
        os.close(descriptor)


def without_capability(name: str, program: str) -> str:
    """Run Python as root without one of its capabilities, and return what it prints."""
    words = ["setpriv", f"--bounding-set=-{name}", f"--inh-caps=-{name}", "--", sys.executable, "-c", program]
    return _run(*words)


def bound(address: str, port: int = 0) -> socket.socket:
    """A UDP socket with room for many datagrams, to be made on a host: `host.inside(lambda: bound(...))`."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    made.bind((address, port))
    return made


def _ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"


def _rules(device: str, verdict: str) -> str:
    # Not ARP: with a cut one way only, the other way would end as soon as a neighbour is to be asked for again.
    table = f"table netdev {device}"
    hook = f'type filter hook ingress device "{device}" priority 0;'
    chain = f"chain in {{\n{hook}\nmeta protocol != arp {verdict}\n}}"
    return f"{table}\ndelete {table}\n{table} {{\n{chain}\n}}\n"


def _nft(namespace: str, rules: str) -> None:
    words = ["nsenter", f"--net={_RUN / namespace}", "nft", "-f", "-"]
    done = subprocess.run(words, input=rules, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def _me() -> str:
    return f"{os.getpid()}-{processes.start_time(os.getpid())}"


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout
