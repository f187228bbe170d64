"""What Firecracker takes and when, as data: bodies with their fields, routes, and what is legal in which state.

Used by the stand-in. Kinds of fields are those of its own code (u8 is a whole number below 256), names and order too,
for they are in its error texts. A version at a field, a route or an option says since when it is there.
"""

from dataclasses import dataclass

Version = tuple[int, int]

ALWAYS: Version = (1, 0)
PRE = "The requested operation is not supported before starting the microVM."
POST = "The requested operation is not supported after starting the microVM."


@dataclass(frozen=True)
class Field:
    """One member of a body."""

    kind: str
    """A number type, `bool`, `string`, `mac`, `any`, a name in `BODIES`, `A|B|C` for one of these, `[x]` for a list."""
    required: bool = False
    since: Version = ALWAYS


def _need(kind: str) -> Field:
    return Field(kind, required=True)


def _may(kind: str, *since: int) -> Field:
    return Field(kind, since=(since[0], since[1]) if since else ALWAYS)


BODIES: dict[str, dict[str, Field]] = {
    "ActionBody": {"action_type": _need("FlushMetrics|InstanceStart|SendCtrlAltDel")},
    "Balloon": {
        "amount_mib": _need("u32"),
        "deflate_on_oom": _need("bool"),
        "stats_polling_interval_s": _may("u16"),
        "free_page_hinting": _may("bool", 1, 14),
        "free_page_reporting": _may("bool", 1, 14),
    },
    "BalloonUpdate": {"amount_mib": _need("u32")},
    "BalloonStatsUpdate": {"stats_polling_interval_s": _need("u16")},
    "BalloonHinting": {"acknowledge_on_stop": _may("bool")},
    "BootSource": {
        "kernel_image_path": _need("string"),
        "initrd_path": _may("string"),
        "boot_args": _may("string"),
    },
    "CpuConfig": {
        "kvm_capabilities": _may("any"),
        "cpuid_modifiers": _may("any"),
        "msr_modifiers": _may("any"),
    },
    "Drive": {
        "drive_id": _need("string"),
        "partuuid": _may("string"),
        "is_root_device": _need("bool"),
        "cache_type": _may("Unsafe|Writeback"),
        "is_read_only": _may("bool"),
        "path_on_host": _may("string"),
        "rate_limiter": _may("RateLimiter"),
        "io_engine": _may("Sync|Async"),
        "socket": _may("string", 1, 6),
    },
    "DriveUpdate": {
        "drive_id": _need("string"),
        "path_on_host": _may("string"),
        "rate_limiter": _may("RateLimiter"),
    },
    "RateLimiter": {"bandwidth": _may("TokenBucket"), "ops": _may("TokenBucket")},
    "TokenBucket": {"size": _need("u64"), "one_time_burst": _may("u64"), "refill_time": _need("u64")},
    "Pmem": {
        "id": _need("string"),
        "path_on_host": _need("string"),
        "root_device": _may("bool"),
        "read_only": _may("bool"),
        "rate_limiter": _may("RateLimiter"),
    },
    "PmemUpdate": {"id": _need("string"), "rate_limiter": _may("RateLimiter")},
    "Logger": {
        "log_path": _may("string"),
        "level": _may("Error|Warning|Info|Debug|Trace|Off"),
        "show_level": _may("bool"),
        "show_log_origin": _may("bool"),
        "module": _may("string"),
    },
    "Metrics": {"metrics_path": _need("string"), "emit_id": _may("bool", 1, 17), "properties": _may("any", 1, 17)},
    "Machine": {
        "vcpu_count": _need("u8"),
        "mem_size_mib": _need("usize"),
        "smt": _may("bool"),
        "cpu_template": _may("C3|T2|T2S|T2CL|T2A|V1N1|None"),
        "track_dirty_pages": _may("bool"),
        "huge_pages": _may("None|Transparent|2M", 1, 7),
    },
    "Mmds": {
        "version": _may("V1|V2"),
        "network_interfaces": _need("[string]"),
        "ipv4_address": _may("string"),
        "imds_compat": _may("bool", 1, 13),
    },
    "Network": {
        "iface_id": _need("string"),
        "host_dev_name": _need("string"),
        "guest_mac": _may("mac"),
        "mtu": _may("u16", 1, 16),
        "rx_rate_limiter": _may("RateLimiter"),
        "tx_rate_limiter": _may("RateLimiter"),
    },
    "NetworkUpdate": {
        "iface_id": _need("string"),
        "rx_rate_limiter": _may("RateLimiter"),
        "tx_rate_limiter": _may("RateLimiter"),
    },
    "SnapshotCreate": {
        "snapshot_type": _may("Diff|Full"),
        "snapshot_path": _need("string"),
        "mem_file_path": _need("string"),
    },
    "SnapshotLoad": {
        "snapshot_path": _need("string"),
        "mem_file_path": _may("string"),
        "mem_backend": _may("MemBackend"),
        "enable_diff_snapshots": _may("bool"),
        "track_dirty_pages": _may("bool", 1, 13),
        "resume_vm": _may("bool"),
        "network_overrides": _may("[NetworkOverride]", 1, 12),
        "vsock_override": _may("VsockOverride", 1, 16),
        "clock_realtime": _may("bool", 1, 16),
        "huge_pages": _may("Snapshot|None|Transparent|2M", 1, 17),
    },
    "MemBackend": {"backend_path": _need("string"), "backend_type": _need("File|Uffd")},
    "NetworkOverride": {"iface_id": _need("string"), "host_dev_name": _need("string")},
    "VsockOverride": {"uds_path": _need("string")},
    "Vm": {"state": _need("Paused|Resumed")},
    "Entropy": {"rate_limiter": _may("RateLimiter")},
    "Serial": {"serial_out_path": _may("string"), "rate_limiter": _may("TokenBucket", 1, 16)},
    "MemoryHotplug": {"total_size_mib": _need("u32"), "block_size_mib": _may("u32"), "slot_size_mib": _may("u32")},
    "MemoryHotplugUpdate": {"requested_size_mib": _need("u32")},
    "Vsock": {"vsock_id": _may("string"), "guest_cid": _need("u32"), "uds_path": _need("string")},
    "Any": {},
}
TOLERANT = {"TokenBucket", "Metrics", "NetworkOverride", "VsockOverride", "Any"}
"""Bodies whose unknown members are ignored. All others are refused with them."""


@dataclass(frozen=True)
class Action:
    """What is asked for, and when that is legal."""

    name: str
    body: str = ""
    before: bool = True
    after: bool = True
    latches: bool = False
    """After it was tried, successfully or not, no snapshot can be loaded any more."""
    since: Version = ALWAYS
    after_since: Version = ALWAYS
    """Since when it is legal after the start too."""


def _boot(name: str, body: str, since: Version = ALWAYS) -> Action:
    return Action(name, body, after=False, latches=True, since=since)


def _early(name: str, body: str, since: Version = ALWAYS) -> Action:
    return Action(name, body, after=False, since=since)


def _late(name: str, body: str = "", since: Version = ALWAYS) -> Action:
    return Action(name, body, before=False, since=since)


PLUG: Version = (1, 16)

ROUTES: dict[tuple[str, str], Action] = {
    ("GET", ""): Action("describe"),
    ("GET", "version"): Action("version"),
    ("GET", "vm/config"): Action("full_config"),
    ("GET", "machine-config"): Action("get_machine"),
    ("GET", "mmds"): Action("get_mmds"),
    ("GET", "balloon"): Action("get_balloon"),
    ("GET", "balloon/statistics"): _late("balloon_statistics"),
    ("GET", "balloon/hinting/status"): _late("hinting_status", since=(1, 14)),
    ("GET", "hotplug/memory"): _late("get_memory", since=(1, 14)),
    ("PUT", "actions"): Action("act", "ActionBody"),
    ("PUT", "balloon"): _boot("put_balloon", "Balloon"),
    ("PUT", "boot-source"): _boot("put_boot_source", "BootSource"),
    ("PUT", "cpu-config"): _early("put_cpu", "CpuConfig"),
    ("PUT", "drives/*"): Action("put_drive", "Drive", latches=True, after_since=PLUG),
    ("PUT", "pmem/*"): Action("put_pmem", "Pmem", latches=True, since=(1, 14), after_since=PLUG),
    ("PUT", "network-interfaces/*"): Action("put_nic", "Network", latches=True, after_since=PLUG),
    ("PUT", "logger"): _early("put_logger", "Logger"),
    ("PUT", "metrics"): _early("put_metrics", "Metrics"),
    ("PUT", "serial"): _early("put_serial", "Serial", (1, 14)),
    ("PUT", "machine-config"): _boot("put_machine", "Machine"),
    ("PUT", "mmds"): Action("put_mmds", "Any"),
    ("PUT", "mmds/config"): _boot("put_mmds_config", "Mmds"),
    ("PUT", "vsock"): _boot("put_vsock", "Vsock"),
    ("PUT", "entropy"): _boot("put_entropy", "Entropy"),
    ("PUT", "hotplug/memory"): _boot("put_memory", "MemoryHotplug", (1, 14)),
    ("PUT", "snapshot/create"): _late("save", "SnapshotCreate"),
    ("PUT", "snapshot/load"): _early("load", "SnapshotLoad"),
    ("PATCH", "balloon"): _late("patch_balloon", "BalloonUpdate"),
    ("PATCH", "balloon/statistics"): _late("patch_balloon_statistics", "BalloonStatsUpdate"),
    ("PATCH", "balloon/hinting/start"): _late("hinting_start", "BalloonHinting", (1, 14)),
    ("PATCH", "balloon/hinting/stop"): _late("hinting_stop", "Any", (1, 14)),
    ("PATCH", "drives/*"): _late("patch_drive", "DriveUpdate"),
    ("PATCH", "pmem/*"): _late("patch_pmem", "PmemUpdate", (1, 14)),
    ("PATCH", "network-interfaces/*"): _late("patch_nic", "NetworkUpdate"),
    ("PATCH", "machine-config"): _boot("patch_machine", "Machine"),
    ("PATCH", "mmds"): Action("patch_mmds", "Any"),
    ("PATCH", "vm"): _late("patch_vm", "Vm"),
    ("PATCH", "hotplug/memory"): _late("patch_memory", "MemoryHotplugUpdate", (1, 14)),
    ("DELETE", "drives/*"): _late("delete_drive", since=PLUG),
    ("DELETE", "pmem/*"): _late("delete_pmem", since=PLUG),
    ("DELETE", "network-interfaces/*"): _late("delete_nic", since=PLUG),
}
BODILESS = {"hinting_start", "hinting_stop"}
"""May be sent without a body although it is a PATCH."""
EMPTY = {
    "GET": "GET request cannot have a body.",
    "PUT": "Empty PUT request.",
    "PATCH": "Empty PATCH request.",
    "DELETE": "Empty Delete request.",
}

OPTIONS: dict[str, tuple[bool, Version]] = {
    "help": (False, ALWAYS),
    "version": (False, ALWAYS),
    "api-sock": (True, ALWAYS),
    "id": (True, ALWAYS),
    "seccomp-filter": (True, ALWAYS),
    "no-seccomp": (False, ALWAYS),
    "start-time-us": (True, ALWAYS),
    "start-time-cpu-us": (True, ALWAYS),
    "parent-cpu-time-us": (True, ALWAYS),
    "config-file": (True, ALWAYS),
    "metadata": (True, ALWAYS),
    "no-api": (False, ALWAYS),
    "log-path": (True, ALWAYS),
    "level": (True, ALWAYS),
    "module": (True, (1, 6)),
    "show-level": (False, ALWAYS),
    "show-log-origin": (False, ALWAYS),
    "metrics-path": (True, ALWAYS),
    "boot-timer": (False, ALWAYS),
    "snapshot-version": (False, ALWAYS),
    "describe-snapshot": (True, ALWAYS),
    "http-api-max-payload-size": (True, ALWAYS),
    "mmds-size-limit": (True, ALWAYS),
    "enable-pci": (False, (1, 13)),
}
"""Command line: whether an option takes a value, and since when it is there."""

FORMATS: tuple[tuple[Version, str], ...] = (
    ((1, 17), "11.0.0"),
    ((1, 14), "8.0.0"),
    ((1, 12), "6.0.0"),
    (ALWAYS, "5.0.0"),
)
"""Formats of snapshots."""
