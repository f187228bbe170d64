"""The one machine of a Firecracker stand-in: what runs in it, what is asked of it, and its snapshots."""

import os
import threading
from collections.abc import Callable

from support.vmm.firecracker_files import Files
from support.vmm.firecracker_parts import FOUND_NONE, Configuration, Result
from support.vmm.firecracker_requests import Asked, Body, RefusedError
from support.vmm.firecracker_rules import FORMATS, POST, PRE, Version
from support.vmm.guest import Guest

DEFAULT_ARGS = "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce"
_ELF = b"\x7fELF"


def snapshot_format(version: Version) -> str:
    """The format of snapshots that a version writes and reads."""
    return next(form for since, form in FORMATS if since <= version)


class Machine(Configuration):
    """One process, one machine, one life."""

    def __init__(
        self, *, name: str, version: str, pci: bool, files: Files, mmds_limit: int, ended: Callable[[str], None]
    ) -> None:
        """`ended` is told when the guest has left: `reboot` or `crash`."""
        super().__init__(version=version, pci=pci, files=files, mmds_limit=mmds_limit)
        self.doomed = False
        """Loading a snapshot failed: the process ends when that has been answered."""
        self.guest: Guest | None = None
        self._name = name
        self._ended = ended
        self._latched = False
        self._lock = threading.RLock()
        self._console: int | None = None

    def do(self, asked: Asked) -> Result:
        """Do what was asked, if it is legal now; None is `204`. Raises RefusedError."""
        action = asked.action
        running = self.state != "Not started"
        if running and (not action.after or action.after_since > self.release):
            raise RefusedError(POST)
        if not running and not action.before:
            raise RefusedError(PRE)
        if action.latches and not running:
            self._latched = True
        method: Callable[[str, Body], Result] = getattr(self, action.name)
        with self._lock:
            return method(asked.id, asked.body)

    # Questions

    def describe(self, _: str, __: Body) -> Result:
        return {"id": self._name, "state": self.state, "vmm_version": self.version, "app_name": "Firecracker"}

    def get_machine(self, _: str, __: Body) -> Result:
        return self.machine

    def full_config(self, _: str, __: Body) -> Result:
        return {
            "balloon": self.balloon,
            "drives": list(self.drives.values()),
            "boot-source": self.boot or {"kernel_image_path": "", "initrd_path": None, "boot_args": None},
            "cpu-config": None,
            "logger": None,
            "machine-config": self.machine,
            "metrics": None,
            "mmds-config": self.mmds,
            "network-interfaces": list(self.nics.values()),
            "vsock": self.vsock,
            "entropy": self.entropy,
            "pmem": list(self.pmem.values()),
            "memory-hotplug": self.memory,
        }

    def get_balloon(self, _: str, __: Body) -> Result:
        if self.balloon is None:
            running = self.state != "Not started"
            raise RefusedError(
                f"Internal VMM error: {FOUND_NONE}" if running else "Balloon config error: No balloon device found."
            )
        return self.balloon

    def balloon_statistics(self, _: str, __: Body) -> Result:
        balloon = self._balloon("Internal VMM error")
        if not balloon.get("stats_polling_interval_s"):
            raise RefusedError("Internal VMM error: Balloon: Statistics for the balloon device are not enabled")
        amount = int(str(balloon["amount_mib"]))
        pages = amount * 256
        return {"target_pages": pages, "actual_pages": pages, "target_mib": amount, "actual_mib": amount}

    def get_memory(self, _: str, __: Body) -> Result:
        if self.memory is None:
            raise RefusedError(f"Internal VMM error: {FOUND_NONE}")
        return self.memory | {"plugged_size_mib": self.requested_mib, "requested_size_mib": self.requested_mib}

    def hinting_status(self, _: str, __: Body) -> Result:
        self._balloon("Balloon update error")
        return {"host_cmd": 1, "guest_cmd": 1}

    # The start and afterwards

    def act(self, _: str, body: Body) -> Result:
        match body["action_type"]:
            case "InstanceStart" if self.state != "Not started":
                raise RefusedError(POST)
            case "InstanceStart":
                self._start()
            case _ if self.state == "Not started":
                raise RefusedError(PRE)
            case "FlushMetrics":
                self.flush()
            case _:
                assert self.guest is not None
                self.guest.press()

    def patch_vm(self, _: str, body: Body) -> Result:
        assert self.guest is not None
        if body["state"] == "Paused":
            self.guest.pause()
            self.state = "Paused"
        else:
            self.guest.resume()
            self.state = "Running"

    def patch_drive(self, name: str, body: Body) -> Result:
        if name not in self.drives:
            raise RefusedError(
                f"Drive config error: Unable to patch the block device: {FOUND_NONE} Please verify the request "
                "arguments."
            )
        if "path_on_host" in body:
            self.files.open_drive(name, self.drives[name] | body, patch=True)
        changed = {key: value for key, value in body.items() if key == "path_on_host"}
        limits = _limited(self.drives[name].get("rate_limiter"), body.get("rate_limiter"))
        self.drives[name] = self.drives[name] | changed | {"rate_limiter": limits}

    def patch_pmem(self, name: str, body: Body) -> Result:
        if name not in self.pmem:
            raise RefusedError(f"Pmem config error: Unable to patch the pmem device: {FOUND_NONE}")
        self.pmem[name] = self.pmem[name] | body

    def patch_nic(self, name: str, body: Body) -> Result:
        if name not in self.nics:
            raise RefusedError(f"Network config error: Unable to update the net device: {FOUND_NONE}")
        changed = {
            key: _limited(self.nics[name].get(key), body.get(key)) for key in ("rx_rate_limiter", "tx_rate_limiter")
        }
        self.nics[name] = self.nics[name] | changed

    def delete_drive(self, name: str, _: Body) -> Result:
        self._may_unplug(name, self.drives)
        if self.drives[name]["is_root_device"]:
            raise RefusedError("Cannot unplug root device")
        del self.drives[name]
        self.files.close_drive(name)

    def delete_pmem(self, name: str, _: Body) -> Result:
        self._may_unplug(name, self.pmem)
        del self.pmem[name]

    def delete_nic(self, name: str, _: Body) -> Result:
        self._may_unplug(name, self.nics)
        del self.nics[name]
        self.taps.pop(name).close()

    def patch_balloon(self, _: str, body: Body) -> Result:
        balloon = self._balloon("Balloon update error")
        if int(str(body["amount_mib"])) > int(str(self.machine["mem_size_mib"])):
            raise RefusedError("Balloon update error: Balloon: Amount of pages requested is too large.")
        self.balloon = balloon | body

    def patch_balloon_statistics(self, _: str, body: Body) -> Result:
        balloon = self._balloon("Balloon update error")
        if bool(balloon.get("stats_polling_interval_s")) != bool(body["stats_polling_interval_s"]):
            raise RefusedError("Balloon update error: Balloon: Statistics cannot be enabled/disabled after activation.")
        self.balloon = balloon | body

    def hinting_start(self, _: str, __: Body) -> Result:
        if not self._balloon("Balloon update error").get("free_page_hinting"):
            raise RefusedError("Balloon update error: Balloon: Hinting is not enabled")

    def hinting_stop(self, name: str, body: Body) -> Result:
        self.hinting_start(name, body)

    def patch_memory(self, _: str, body: Body) -> Result:
        if self.memory is None:
            raise RefusedError(f"Memory hotplug update error: {FOUND_NONE}")
        wanted = int(str(body["requested_size_mib"]))
        if wanted > int(str(self.memory["total_size_mib"])) or wanted % int(str(self.memory["block_size_mib"])):
            raise RefusedError(
                "Memory hotplug update error: Failed to create memory hotplug device: Invalid requested size: "
                f"{wanted << 20}."
            )
        self.requested_mib = wanted

    # Saving and loading

    def save(self, _: str, body: Body) -> Result:
        prefix = "Create snapshot error: Cannot save the microVM state: Operation not allowed: "
        if self.state != "Paused":
            raise RefusedError(prefix + "save/restore unavailable while running")
        foreign = [name for name, drive in self.drives.items() if drive.get("socket")]
        if foreign:
            named = ",".join(f"vhost-user-block(id: {name})" for name in foreign)
            raise RefusedError(f"{prefix}Devices without snapshot support are present: {named}")
        assert self.guest is not None
        config = {
            key: getattr(self, key)
            for key in ("machine", "drives", "nics", "pmem", "balloon", "vsock", "entropy", "memory", "requested_mib")
        }
        self.files.write_snapshot(
            str(body["snapshot_path"]),
            str(body["mem_file_path"]),
            {"format": snapshot_format(self.release), "config": config},
            self.guest.memory(),
            int(str(self.machine["mem_size_mib"])) << 20,
        )

    def load(self, _: str, body: Body) -> Result:
        if self._latched:
            raise RefusedError(
                "Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources."
            )
        try:
            self._load(body)
        except RefusedError as error:
            self.doomed = True
            prefix = "Load snapshot error: Failed to restore from snapshot: "
            raise RefusedError(prefix + error.text) from error

    def _load(self, body: Body) -> None:
        backend = body.get("mem_backend") or {"backend_type": "File", "backend_path": body.get("mem_file_path")}
        assert isinstance(backend, dict)
        found, memory = self.files.read_snapshot(
            str(body["snapshot_path"]), str(backend["backend_path"]), snapshot_format(self.release)
        )
        for key, value in found["config"].items():  # type: ignore[attr-defined]
            setattr(self, key, value)
        if self.machine.get("huge_pages") == "2M" and backend["backend_type"] == "File":
            raise RefusedError(
                "Failed to build microVM from snapshot: Error creating guest memory from file: Cannot restore "
                "hugetlbfs backed snapshot by mapping the memory file. Please use uffd."
            )
        if override := body.get("vsock_override"):
            assert isinstance(override, dict)
            self.vsock = (self.vsock or {}) | override
        overrides = {each["iface_id"]: each["host_dev_name"] for each in body.get("network_overrides", [])}  # type: ignore[attr-defined]
        if set(overrides) - self.nics.keys():
            raise RefusedError("Unknown Network Device.")
        prefix = "Failed to build microVM from snapshot: Failed to restore devices: "
        for name, drive in self.drives.items():
            self.files.open_drive(name, drive, prefix=prefix)
        for name, nic in self.nics.items():
            nic["host_dev_name"] = overrides.get(name, nic["host_dev_name"])
            self.open_tap(name, str(nic["host_dev_name"]), prefix)
        if self.vsock is not None:
            self.files.bind(str(self.vsock["uds_path"]), prefix)
        self._run(str(memory["args"]), memory)
        self.state = "Paused"
        if body.get("resume_vm"):
            self.patch_vm("", {"state": "Resumed"})

    def flush(self) -> None:
        """Write what has been counted since the last time."""
        self.files.write_metrics(list(self.drives), list(self.nics))

    # Within

    def _start(self) -> None:
        if self.boot is None:
            raise RefusedError("Start microvm error: Cannot start microvm without kernel configuration.")
        with self.files.path(self.boot["kernel_image_path"]).open("rb") as file:
            magic = file.read(4)
        if magic != _ELF and self.release < (1, 17):
            raise RefusedError(
                "Start microvm error: Cannot load kernel due to invalid memory configuration or invalid kernel image: "
                "Kernel Loader: failed to load ELF kernel image"
            )
        if "serial_out_path" in self.serial:
            path = self.files.path(self.serial["serial_out_path"])
            self._console = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o644)
        args = [str(self.boot["boot_args"] or DEFAULT_ARGS)]
        root = next((drive for drive in self.drives.values() if drive["is_root_device"]), None)
        if root is not None:
            args.append(f"root=PARTUUID={root['partuuid']}" if root.get("partuuid") else "root=/dev/vda")
            args.append("ro" if root["is_read_only"] else "rw")
        if not self.pci:
            args.append("pci=off")
        self.files.count_boot(list(self.drives))
        self._run(" ".join(args), None)
        self.state = "Running"

    def _run(self, args: str, memory: Body | None) -> None:
        self.guest = Guest(
            name=self._name, kernel_args=args, output=self._print, left=self._left, button="reboot", memory=memory
        )
        self.guest.start()

    def _print(self, data: bytes) -> None:
        try:
            os.write(1 if self._console is None else self._console, data)
        except BlockingIOError:
            return

    def _left(self, how: str) -> None:
        if how == "poweroff":  # nothing here turns the machine off: it stands still for ever
            self._print(b"reboot: Power down\r\n")
        else:
            self._ended(how)

    @property
    def takes_input(self) -> bool:
        """Whether what comes on the process's standard input is typed on the console."""
        return "serial_out_path" not in self.serial

    def _balloon(self, prefix: str) -> Body:
        if self.balloon is None:
            raise RefusedError(f"{prefix}: {FOUND_NONE}")
        return self.balloon

    def _may_unplug(self, name: str, devices: dict[str, Body]) -> None:
        if not self.pci:
            raise RefusedError("PCI is not enabled")
        if name not in devices:
            raise RefusedError("Device not found")


def _limited(old: object, new: object) -> object:
    """A bucket that is not named stays; one of size or time zero is none any more."""
    made = dict(old) if isinstance(old, dict) else {}
    for key, bucket in (new if isinstance(new, dict) else {}).items():
        if bucket["size"] and bucket["refill_time"]:
            made[key] = bucket
        else:
            made.pop(key, None)
    return made or None
