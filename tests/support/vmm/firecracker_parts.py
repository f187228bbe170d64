"""What is configured in a Firecracker stand-in before its machine starts, and the checks of each part.

Every action is a method of the name that `firecracker_rules` gives it. Paths are opened when they are named, as the
real one does.
"""

import json

from support.vmm.firecracker_files import Files, Tap, opened
from support.vmm.firecracker_requests import Body, RefusedError
from support.vmm.firecracker_rules import PLUG, Version

FOUND_NONE = "Failed perform action on device: Device not found"
Result = object


class Configuration:
    """The parts of a machine, and its metadata."""

    def __init__(self, *, version: str, pci: bool, files: Files, mmds_limit: int) -> None:
        self.version = version
        major, minor = version.split(".")[:2]
        self.release: Version = (int(major), int(minor))
        self.state = "Not started"
        self.files = files
        self.pci = pci
        self._mmds_limit = mmds_limit
        self.machine: Body = {"vcpu_count": 1, "mem_size_mib": 128, "smt": False, "track_dirty_pages": False}
        self.machine["huge_pages"] = "None"
        self.boot: Body | None = None
        self.drives: dict[str, Body] = {}
        self.nics: dict[str, Body] = {}
        self.pmem: dict[str, Body] = {}
        self.balloon: Body | None = None
        self.vsock: Body | None = None
        self.entropy: Body | None = None
        self.memory: Body | None = None
        self.requested_mib = 0
        self.mmds: Body | None = None
        self.mmds_data: object = None
        self.serial: Body = {}
        self.taps: dict[str, Tap] = {}

    def put_machine(self, _: str, body: Body) -> Result:
        smt, pages = body.get("smt", False), body.get("huge_pages", "None")
        cpus, memory = int(str(body["vcpu_count"])), int(str(body["mem_size_mib"]))
        if not 1 <= cpus <= 32 or (smt and cpus > 1 and cpus % 2):
            raise RefusedError(
                "Machine config error: The number of vCPUs must be greater than 0, less than 32 and must be 1 or an "
                "even number if SMT is enabled."
            )
        if memory == 0 or (pages != "None" and memory % 2):
            raise RefusedError(
                "Machine config error: The memory size (MiB) is either 0, or not a multiple of the configured page "
                "size."
            )
        if self.balloon is not None and memory < int(str(self.balloon["amount_mib"])):
            raise RefusedError(
                "Machine config error: The memory size (MiB) is smaller than the previously set balloon device target "
                "size."
            )
        self.machine = self.machine | body

    def patch_machine(self, name: str, body: Body) -> Result:
        self.put_machine(name, self.machine | body)

    def put_cpu(self, _: str, __: Body) -> Result:
        return None

    def put_boot_source(self, _: str, body: Body) -> Result:
        prefix = "Boot source error: The {} file cannot be opened"
        opened(self.files.path(body["kernel_image_path"]), prefix.format("kernel") + ": {}")
        if "initrd_path" in body:
            late = " due to invalid path or invalid permissions. {}"
            opened(self.files.path(body["initrd_path"]), prefix.format("initrd") + late)
        self.boot = {"initrd_path": None, "boot_args": None} | body

    def put_drive(self, name: str, body: Body) -> Result:
        if self.state != "Not started":
            self.may_plug(name)
        root = next((each for each, drive in self.drives.items() if drive["is_root_device"]), None)
        if body["is_root_device"] and root not in {None, name}:
            raise RefusedError("Drive config error: A root block device already exists!")
        self.files.open_drive(name, body)
        defaults = {"partuuid": None, "cache_type": "Unsafe", "is_read_only": False, "path_on_host": None}
        defaults |= {"rate_limiter": None, "io_engine": "Sync", "socket": None}
        self.drives[name] = defaults | body

    def put_pmem(self, name: str, body: Body) -> Result:
        if self.state != "Not started":
            self.may_plug(name)
        opened(self.files.path(body["path_on_host"]), "Pmem config error: Error while opening the backing file: {}")
        self.pmem[name] = body

    def put_nic(self, name: str, body: Body) -> Result:
        if self.state != "Not started":
            self.may_plug(name)
        mac = str(body.get("guest_mac", "")).lower()
        if mac and any(each != name and nic["guest_mac"] == mac for each, nic in self.nics.items()):
            raise RefusedError(f"Network config error: The MAC address is already in use: {mac}")
        self.open_tap(name, str(body["host_dev_name"]), "Network config error: Could not create the network device: ")
        defaults = {"guest_mac": None, "mtu": None, "rx_rate_limiter": None, "tx_rate_limiter": None}
        self.nics[name] = defaults | body | ({"guest_mac": mac} if mac else {})

    def put_balloon(self, _: str, body: Body) -> Result:
        if int(str(body["amount_mib"])) > int(str(self.machine["mem_size_mib"])):
            raise RefusedError("Balloon config error: Amount of pages requested is too large.")
        defaults = {"stats_polling_interval_s": 0, "free_page_hinting": False, "free_page_reporting": False}
        self.balloon = defaults | body

    def put_vsock(self, _: str, body: Body) -> Result:
        if self.vsock is not None:
            self.files.path(self.vsock["uds_path"]).unlink()
        self.files.bind(str(body["uds_path"]), "Vsock config error: Cannot create backend for vsock device: ")
        self.vsock = {key: value for key, value in body.items() if key != "vsock_id"}

    def put_entropy(self, _: str, body: Body) -> Result:
        self.entropy = {"rate_limiter": None} | body

    def put_serial(self, _: str, body: Body) -> Result:
        self.serial = body

    def put_memory(self, _: str, body: Body) -> Result:
        made = {"block_size_mib": 2, "slot_size_mib": 128} | body
        total, block, slot = (int(str(made[f"{each}_size_mib"])) for each in ("total", "block", "slot"))
        for wrong, text in (
            (block < 2, "Block size must not be lower than 2 MiB"),
            (block & (block - 1), "Block size must be a power of 2"),
            (slot < 128, "Slot size must not be lower than 128 MiB"),
            (slot % block, f"Slot size must be a multiple of block size ({block} MiB)"),
            (total < slot, f"Total size must not be lower than slot size ({slot} MiB)"),
            (total % slot, f"Total size must be a multiple of slot size ({slot} MiB)"),
        ):
            if wrong:
                raise RefusedError(f"Memory hotplug config error: {text}")
        self.memory = made

    def put_logger(self, _: str, body: Body) -> Result:
        if "log_path" in body:
            self.files.log_to(str(body["log_path"]), "Logger error: ")

    def put_metrics(self, _: str, body: Body) -> Result:
        self.files.metrics_to(str(body["metrics_path"]))

    # The metadata service

    def put_mmds_config(self, _: str, body: Body) -> Result:
        asked = body["network_interfaces"]
        assert isinstance(asked, list)
        if not asked:
            raise RefusedError(
                "MMMDS config error: The list of network interface IDs that allow forwarding MMDS requests is empty."
            )
        if set(asked) - self.nics.keys():
            raise RefusedError(
                "MMMDS config error: The list of network interface IDs provided contains at least one ID that does not "
                "correspond to any existing network interface."
            )
        self.mmds = {"version": "V1", "ipv4_address": "169.254.169.254", "imds_compat": False} | body

    def get_mmds(self, _: str, __: Body) -> Result:
        self._check_mmds()
        return self.mmds_data if self.mmds_data is not None else {}

    def put_mmds(self, _: str, body: Body) -> Result:
        self._check_mmds()
        self._keep_mmds(body)

    def patch_mmds(self, _: str, body: Body) -> Result:
        self._check_mmds()
        if self.mmds_data is None:
            raise RefusedError("MMDS error: The MMDS data store is not initialized.")
        self._keep_mmds(_merged(self.mmds_data, body))

    def _check_mmds(self) -> None:
        if self.state != "Not started" and self.mmds is None:
            raise RefusedError("MMDS error: The MMDS data store is not initialized.")

    def _keep_mmds(self, data: object) -> None:
        if len(json.dumps(data, separators=(",", ":"))) > self._mmds_limit:
            raise RefusedError("MMDS limit exceeded error: The MMDS patch request doesn't fit.", 413)
        self.mmds_data = data

    # For both halves of its life

    def may_plug(self, name: str) -> None:
        if not self.pci or self.release < PLUG:
            raise RefusedError("PCI is not enabled")
        if name in self.drives or name in self.nics or name in self.pmem:
            raise RefusedError("Device ID in use")

    def open_tap(self, name: str, device: str, prefix: str) -> None:
        if name in self.taps:
            self.taps.pop(name).close()
        self.taps[name] = Tap(device, prefix)


def _merged(old: object, patch: object) -> object:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    found = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = _merged(found.get(key), value)
    return found
