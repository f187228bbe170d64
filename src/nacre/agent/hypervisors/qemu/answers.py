"""QEMU's answers as values: the parts of its QAPI schema that are read. Pure."""

from typing import TypeVar

import msgspec

from nacre.agent.hypervisors.errors import DriverError

Answer = TypeVar("Answer")


class Kebab(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """Most of QEMU's names have dashes."""


class Status(Kebab, frozen=True, kw_only=True):
    """Of `query-status`."""

    status: str


class Cpu(Kebab, frozen=True, kw_only=True):
    """Of `query-cpus-fast`."""

    cpu_index: int
    thread_id: int


class CpuSlot(Kebab, frozen=True, kw_only=True):
    """Of `query-hotpluggable-cpus`."""

    type: str
    props: dict[str, int]
    qom_path: str | None = None
    """Set if the CPU is there."""


class MemorySizes(Kebab, frozen=True, kw_only=True):
    """Of `query-memory-size-summary`."""

    base_memory: int
    plugged_memory: int = 0


class MemoryDevice(msgspec.Struct, frozen=True, kw_only=True):
    """Of `query-memory-devices`."""

    type: str
    data: dict[str, object]


class MemoryBackend(msgspec.Struct, frozen=True, kw_only=True):
    """Of `query-memdev`."""

    size: int
    merge: bool
    prealloc: bool
    share: bool
    id: str = ""


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """Of `qom-list`."""

    name: str
    type: str


class Image(Kebab, frozen=True, kw_only=True):
    """Of a block node."""

    virtual_size: int


class Node(Kebab, frozen=True, kw_only=True):
    """Of `query-named-block-nodes`."""

    node_name: str
    drv: str
    ro: bool
    image: Image
    file: str = ""
    """What it is stored in, as QEMU writes names: a path, or `json:` and an object."""
    backing_file: str = msgspec.field(name="backing_file", default="")


class Inserted(Kebab, frozen=True, kw_only=True):
    """Of `query-block`."""

    node_name: str = ""
    file: str = ""


class Drive(msgspec.Struct, frozen=True, kw_only=True):
    """Of `query-block`."""

    qdev: str = ""
    inserted: Inserted | None = None


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """Of `query-chardev`."""

    label: str


class BlockCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Of `query-blockstats`."""

    rd_bytes: int
    wr_bytes: int
    rd_operations: int
    wr_operations: int


class BlockStats(msgspec.Struct, frozen=True, kw_only=True):
    """Of `query-blockstats`."""

    stats: BlockCounts
    qdev: str = ""


class Ram(Kebab, frozen=True, kw_only=True):
    """Of `query-migrate`."""

    transferred: int = 0
    remaining: int = 0


class Migration(Kebab, frozen=True, kw_only=True):
    """Of `query-migrate`."""

    status: str = "none"
    ram: Ram | None = None
    downtime: int | None = None
    error_desc: str = ""


class Switch(msgspec.Struct, frozen=True, kw_only=True):
    """Of `query-migrate-capabilities`."""

    capability: str
    state: bool


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Of `query-jobs`."""

    id: str
    status: str
    error: str = ""


def read(answer: object, form: type[Answer]) -> Answer:
    """Return an answer as a value. Raises DriverError if it is another one than QEMU promises."""
    try:
        return msgspec.convert(answer, form)
    except msgspec.ValidationError as error:
        raise DriverError(
            "hypervisor_refused", f"QEMU answers in another form: {error}", hint="upgrade QEMU on the node"
        ) from error
