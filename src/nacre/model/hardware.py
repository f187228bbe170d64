"""What a machine is made of and how it is tuned: CPUs, memory, disks, NICs, consoles and small devices.

Used by every layer: the same options are in REST bodies, rows, messages to agents and driver input. Sizes are in
bytes. Whether a hypervisor can do what is asked here is said in `model.capabilities`. Pure.
"""

from enum import StrEnum
from typing import Annotated

import msgspec

from nacre.model.units import GIB, MIB

CpuSet = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$",
        max_length=1024,
        examples=["0-3,8"],
        extra={"expects": "numbers and ranges of them, such as 0-3,8"},
    ),
]
"""CPUs or memory nodes as Linux lists them (cpuset(7), "List format")."""
Mac = Annotated[
    str,
    msgspec.Meta(
        pattern="^([0-9a-f]{2}:){5}[0-9a-f]{2}$",
        max_length=17,
        extra={"expects": "six pairs of lower-case hex digits, such as 52:54:00:12:34:56"},
    ),
]
WORD = msgspec.Meta(pattern="^[A-Za-z0-9._-]*$", extra={"expects": "letters, digits, dots, underscores and hyphens"})
"""Of a text that becomes one word of a command line."""

MIN_REFILL_MS = 100
"""Cloud Hypervisor looks at a bucket that has run empty again after 100 ms, and not sooner."""
MAX_DISKS = 32
MAX_NICS = 8
HUGE_PAGES = (2 * MIB, GIB)


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a machine's configuration. What has its default is left out where it is written."""


class TokenBucket(Part, frozen=True, kw_only=True):
    """`size` tokens are filled up every `refill_ms`; what is not used stays, up to `size`.

    A rate of R per second is size = R * refill_ms / 1000.
    """

    size: Annotated[int, msgspec.Meta(ge=1, le=1 << 50)]
    """Bytes, or operations."""
    refill_ms: Annotated[int, msgspec.Meta(ge=MIN_REFILL_MS, le=3_600_000)] = 1000
    """In how many milliseconds an empty bucket is full again."""
    burst: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)] = 0
    """Tokens that there are once, besides, at the start."""

    @property
    def per_second(self) -> float:
        """What goes through in the long run."""
        return self.size * 1000 / self.refill_ms


class RateLimits(Part, frozen=True, kw_only=True):
    """What may go through a device. None is no limit."""

    bandwidth: TokenBucket | None = None
    """Of bytes."""
    operations: TokenBucket | None = None
    """Of requests to a disk, or of packets."""


NO_LIMITS = RateLimits()


# CPUs and memory


class CpuTopology(Part, frozen=True, kw_only=True):
    """How the guest sees its CPUs arranged. The product is the number of CPUs that there may be at most."""

    threads: Annotated[int, msgspec.Meta(ge=1, le=2)] = 1
    """Per core."""
    cores: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    """Per die."""
    dies: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    """Per package."""
    packages: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Per machine."""

    @property
    def cpus(self) -> int:
        """How many CPUs these are."""
        return self.threads * self.cores * self.dies * self.packages


class CpuPin(Part, frozen=True, kw_only=True):
    """One virtual CPU and the CPUs of the host that it may run on."""

    cpu: Annotated[int, msgspec.Meta(ge=0, le=255)]
    """Number of the virtual CPU, from 0."""
    host_cpus: CpuSet
    """CPUs of the host that it may run on, such as `0-3,8`."""


class CpuOptions(Part, frozen=True, kw_only=True):
    """How the CPUs are, besides how many."""

    max: Annotated[int, msgspec.Meta(ge=1, le=256)] | None = None
    """How many there may be while the machine runs. None: as many as it starts with."""
    model: Annotated[str, msgspec.Meta(max_length=64), WORD] = ""
    """A model that the hypervisor knows. Empty: the best one that the accelerator offers."""
    topology: CpuTopology | None = None
    """How the guest sees its CPUs arranged. None: as the hypervisor likes."""
    pins: Annotated[tuple[CpuPin, ...], msgspec.Meta(max_length=256)] = ()
    """Virtual CPUs that may run on some CPUs of the host only."""
    hyperv: bool = False
    """Let Windows guests know that they are guests, which makes them faster."""


class HotplugMethod(StrEnum):
    """How memory is added while a machine runs."""

    ACPI = "acpi"  # as DIMMs; only ever more
    VIRTIO_MEM = "virtio-mem"  # in blocks, more and less


class Balloon(Part, frozen=True, kw_only=True):
    """A device that gives memory of the guest back to the host."""

    reclaim_bytes: Annotated[int, msgspec.Meta(ge=0, multiple_of=MIB)] = 0
    """What is taken from the guest, by every hypervisor (QEMU itself counts what is left)."""
    deflate_on_oom: bool = True
    """Give it all back when the guest is about to run out of memory."""
    free_page_reporting: bool = False
    """Let the guest tell of pages that it has freed, which the host may then use."""


class MemoryOptions(Part, frozen=True, kw_only=True):
    """How the memory is, besides how much."""

    max_bytes: Annotated[int, msgspec.Meta(ge=MIB, multiple_of=MIB)] | None = None
    """How much there may be while the machine runs. None: as much as it starts with."""
    hotplug: HotplugMethod = HotplugMethod.ACPI
    """How it is added while the machine runs."""
    hugepage_bytes: int | None = None
    """Take it from the host's huge pages of this size (2 MiB or 1 GiB)."""
    shared: bool = False
    """With other processes of the host. vhost-user devices need it."""
    mergeable: bool = False
    """Let the host keep pages of equal content once (KSM)."""
    prefault: bool = False
    """Take all of it from the host at the start."""
    thp: bool = True
    """Let the host use transparent huge pages."""
    balloon: Balloon | None = None
    """A device by which the guest gives memory back. None: there is none."""


class NumaCell(Part, frozen=True, kw_only=True):
    """A memory node of the guest."""

    cpus: CpuSet
    """Virtual CPUs of this node, such as `0-3`. All nodes together name each CPU once."""
    memory_bytes: Annotated[int, msgspec.Meta(ge=MIB, multiple_of=MIB)]
    """Memory of this node. All nodes together have as much as the machine."""
    host_nodes: CpuSet | None = None
    """Memory nodes of the host that it is taken from. None: any."""


# Disks and NICs


class DiskOptions(Part, frozen=True, kw_only=True):
    """How a disk is connected."""

    read_only: bool = False
    """The guest cannot write to it."""
    direct: bool = False
    """Past the host's page cache (O_DIRECT)."""
    queues: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """How many queues of requests there are, best one per CPU."""
    queue_size: Annotated[int, msgspec.Meta(ge=2, le=1024)] = 128
    """Requests per queue; a power of two."""
    serial: Annotated[str, msgspec.Meta(max_length=20), WORD] = ""
    """What the guest reads as its serial number. Empty: the disk's name."""
    pci_segment: Annotated[int, msgspec.Meta(ge=0, le=15)] = 0
    """The PCI segment that it is on."""
    limits: RateLimits = NO_LIMITS
    """What may go through it. Can be changed while the machine runs."""
    limit_group: Annotated[str, msgspec.Meta(max_length=63)] = ""
    """The name of a group whose limits hold for all of its disks together, instead of `limits`."""


class LimitGroup(Part, frozen=True, kw_only=True):
    """Limits that disks of one machine share."""

    name: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=63,
            pattern="^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
            extra={"expects": "lower-case letters, digits and hyphens, with no hyphen first or last"},
        ),
    ]
    """How disks name it."""
    limits: RateLimits
    """What may go through all of its disks together."""


class NicOptions(Part, frozen=True, kw_only=True):
    """How a NIC is connected."""

    mtu: Annotated[int, msgspec.Meta(ge=68, le=65535)] | None = None
    """Largest packet, which the guest is told. None: it is not told."""
    queues: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Pairs of them, one to send and one to receive."""
    queue_size: Annotated[int, msgspec.Meta(ge=64, le=4096)] = 256
    """Packets per queue; a power of two."""
    tso: bool = True
    """Let the host cut TCP segments."""
    ufo: bool = True
    """Let the host cut UDP datagrams."""
    checksum: bool = True
    """Let the host compute checksums."""
    host_mac: Mac | None = None
    """MAC of the host's end."""
    iommu: bool = False
    """Put it behind an IOMMU of the guest's."""
    pci_segment: Annotated[int, msgspec.Meta(ge=0, le=15)] = 0
    """The PCI segment that it is on."""
    receive_limits: RateLimits = NO_LIMITS
    """What the guest may receive. Can be changed while the machine runs."""
    send_limits: RateLimits = NO_LIMITS
    """What the guest may send. Can be changed while the machine runs."""


# Consoles, devices, boot


class ConsoleMode(StrEnum):
    """Where a console of the guest ends on the host."""

    OFF = "off"  # the guest has none
    NULL = "null"  # what is written goes nowhere
    FILE = "file"
    PTY = "pty"
    TTY = "tty"  # the hypervisor's own standard output
    SOCKET = "socket"


class Firmware(StrEnum):
    """What starts a guest that has no kernel given."""

    BIOS = "bios"
    UEFI = "uefi"


class WatchdogAction(StrEnum):
    """What happens when the guest has stopped feeding its watchdog."""

    RESET = "reset"
    POWEROFF = "poweroff"
    PAUSE = "pause"
    NONE = "none"


class Graphics(StrEnum):
    """What the guest's screen is shown by."""

    NONE = "none"
    VNC = "vnc"


class DeviceOptions(Part, frozen=True, kw_only=True):
    """Consoles and small devices."""

    serial: ConsoleMode = ConsoleMode.SOCKET
    """The serial port, which Nacre's own console reads when it is a socket."""
    console: ConsoleMode = ConsoleMode.OFF
    """A virtio console besides."""
    rng: Annotated[
        str,
        msgspec.Meta(
            max_length=255,
            pattern="^(/dev/(u?random|hwrng))?$",
            extra={"expects": "/dev/random, /dev/urandom, /dev/hwrng, or nothing"},
        ),
    ] = "/dev/urandom"
    """Where the guest's random numbers come from. Empty: it has no such device."""
    watchdog: WatchdogAction | None = None
    """A watchdog, and what happens when the guest stops feeding it. None: there is none."""
    tpm: bool = False
    """An emulated TPM 2.0."""
    graphics: Graphics = Graphics.NONE
    """A screen and how it is shown."""
    guest_agent: bool = True
    """A channel for a guest agent."""
    panic: bool = False
    """A device by which the guest says that its kernel has panicked."""


class BootOptions(Part, frozen=True, kw_only=True):
    """What a guest without a kernel of its own starts from."""

    firmware: Firmware = Firmware.BIOS
    """What starts it. UEFI also starts an image's own kernel."""
    secure_boot: bool = False
    """Needs UEFI: only what is signed is started."""
