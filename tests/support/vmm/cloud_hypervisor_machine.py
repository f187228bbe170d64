"""The one machine of a Cloud Hypervisor stand-in: its states, its devices, its events, and what is asked of it."""

import copy
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

from support.vmm.cloud_hypervisor_checks import (
    ApiError,
    Fields,
    check,
    check_disk,
    check_names,
    check_net,
    locked,
    number,
    open_disk,
    open_files,
    part,
    parts,
)
from support.vmm.cloud_hypervisor_events import Events
from support.vmm.cloud_hypervisor_moves import Moves
from support.vmm.cloud_hypervisor_serial import Serial
from support.vmm.guest import Guest

Answer = tuple[int, object]

DONE: Answer = (204, None)
STEP = 128 << 20
EJECTED_S = 0.02
_KINDS = {"vm.add-disk": "disks", "vm.add-net": "net"}
_PREFIXES = {"disks": "_disk", "net": "_net"}


class Machine(Moves):
    """At most one machine: none, created, running, paused, or on its way to another host."""

    def __init__(self, events: Events, *, version: str, no_shutdown: bool, leave: Callable[[], None]) -> None:
        """`leave` ends the process with success."""
        self.lock = threading.RLock()
        self.events = events
        self.config: Fields | None = None
        self.guest: Guest | None = None
        self.state = ""
        """Of the machine that is there: `Running`, `Paused` or `Migrating`. Without one it is empty."""
        self.leave = leave
        self._version = version
        self._no_shutdown = no_shutdown
        self._serial: Serial | None = None
        self._tree: dict[str, str] = {}
        self._locks: dict[str, int] = {}
        self._traffic = 0
        self._left: queue.Queue[tuple[Guest, str]] = queue.Queue()
        threading.Thread(target=self._watch, daemon=True).start()

    # What is asked

    def ping(self) -> Answer:
        version = f"{self._version}.0"
        return 200, {"build_version": f"v{self._version}", "version": version, "pid": os.getpid(), "features": ["kvm"]}

    def info(self) -> Answer:
        if self.config is None:
            raise ApiError(404, "The VM info is not available", "VM is not created")
        state = {"": "Created", "Migrating": "Running"}.get(self.state, self.state)
        memory, balloon = part(self.config, "memory"), part(self.config, "balloon")
        size = number(memory, "size") + number(memory, "hotplugged_size") - number(balloon, "size")
        tree = {name: {"id": name, "resources": [], "children": [], "pci_bdf": bdf} for name, bdf in self._tree.items()}
        config = copy.deepcopy(self.config)
        for net in parts(config, "net"):
            net["fds"] = [-1 for _ in cast("list[int]", net["fds"])] if net.get("fds") else None
        return 200, {"config": config, "state": state, "memory_actual_size": size, "device_tree": tree}

    def counters(self) -> Answer:
        self._need_running("VM is not running")
        self._traffic += 1
        found: dict[str, dict[str, int]] = {}
        for name in self._tree:
            if any(each["id"] == name for each in parts(self._given, "disks")):
                found[name] = {"read_bytes": 4096, "write_bytes": 512, "read_ops": self._traffic, "write_ops": 1}
                found[name] |= {"read_latency_min": (1 << 64) - 1, "read_latency_avg": 0}
            elif any(each["id"] == name for each in parts(self._given, "net")):
                found[name] = {"rx_bytes": 100, "rx_frames": self._traffic, "tx_bytes": 200, "tx_frames": 2}
        return 200, found

    def create(self, body: Fields) -> Answer:
        if self.config is not None:
            raise ApiError(500, "The VM could not be created", "VM is already created")
        self.config = body
        self._name_devices()
        for net in parts(body, "net"):
            net.pop("fds", None)  # numbers in a text are no descriptors
        self._open_console()
        return DONE

    def boot(self) -> Answer:
        if self.config is None:
            raise ApiError(404, "The VM could not boot", "VM config is missing")
        if self.guest is not None:
            raise ApiError(500, "The VM could not boot", "VM is already created")
        self.events.tell("vm", "booting")
        check(self.config)
        open_files(self.config)
        self.lock_disks()
        if self._serial is None:
            self._open_console()
        self._grow_tree()
        self.start_guest(None)
        self.state = "Running"
        self.events.tell("vm", "booted")
        return DONE

    def pause(self) -> Answer:
        guest = self._need_running("VM is not running")
        self.events.tell("vm", "pausing")
        if self.state == "Paused":
            raise ApiError(
                500, "The VM could not be paused", "Invalid transition: InvalidStateTransition(Paused, Paused)"
            )
        guest.pause()
        self.state = "Paused"
        self.events.tell("vm", "paused")
        return DONE

    def resume(self) -> Answer:
        guest = self._need_running("VM is not running")
        self.events.tell("vm", "resuming")
        if self.state == "Running":
            raise ApiError(
                500, "The VM could not resume", "Invalid transition: InvalidStateTransition(Running, Running)"
            )
        self.state = "Running"
        guest.resume()
        self.events.tell("vm", "resumed")
        return DONE

    def shutdown(self) -> Answer:
        self._need_running("VM is not running")
        self.end_guest()
        self.events.tell("vm", "shutdown")
        return DONE

    def reboot(self) -> Answer:
        if self.state == "Migrating":
            raise ApiError(500, "The VM could not reboot", "VM is currently migrating and can't be modified")
        self.events.tell("vm", "rebooting")
        if self.guest is None or self.config is None:
            raise ApiError(404, "The VM could not reboot", "VM is not created")
        self.end_guest()
        check(self.config)
        open_files(self.config)
        self.lock_disks()
        self._open_console()
        self._grow_tree()
        self.start_guest(None)
        self.state = "Running"
        self.events.tell("vm", "rebooted")
        return DONE

    def power_button(self) -> Answer:
        self._need_running("VM is not running").press()
        return DONE

    def delete(self) -> Answer:
        if self.state == "Migrating":
            raise ApiError(500, "The VM could not be deleted", "VM is currently migrating and can't be modified")
        if self.guest is not None:
            self.end_guest()
        self._close_console()
        self.config = None
        self.events.tell("vm", "deleted")
        return DONE

    def resize(self, body: Fields) -> Answer:
        config = self._need_config("The VM could not be resized")
        if self.guest is not None:
            self._need_running("VM is not running")
            self.events.tell("vm", "resizing")
        cpus, memory = part(config, "cpus"), part(config, "memory")
        if (wanted := number(body, "desired_vcpus")) and self.guest is not None:
            if wanted > number(cpus, "max_vcpus", 1):
                raise ApiError(500, "The VM could not be resized", "Requested vCPUs exceed maximum")
            cpus["boot_vcpus"] = wanted
        if wanted := number(body, "desired_ram"):
            self._resize_memory(memory, wanted)
        if "desired_balloon" in body and "balloon" in config:
            part(config, "balloon")["size"] = body["desired_balloon"]
        elif "desired_balloon" in body and self.guest is not None:
            raise ApiError(500, "The VM could not be resized", "Missing balloon device")
        if self.guest is not None:
            self.events.tell("vm", "resized")
        return DONE

    def resize_disk(self, body: Fields) -> Answer:
        config = self._need_config("The disk could not be resized")
        self._need_running("VM is not running")
        disk = next((each for each in parts(config, "disks") if each["id"] == body.get("id")), None)
        if disk is None:
            raise ApiError(500, "The disk could not be resized", f"Unknown device id: {body.get('id')}")
        if disk.get("image_type") == "Raw":
            os.truncate(str(disk["path"]), number(body, "desired_size"))
        return DONE

    def add(self, call: str, body: Fields, descriptors: list[int]) -> Answer:
        config = self._need_config("The device could not be added to the VM")
        if self.state == "Migrating":
            raise ApiError(
                500, "The device could not be added to the VM", "VM is currently migrating and can't be modified"
            )
        kind = _KINDS[call]
        draft = copy.deepcopy(config)
        draft[kind] = [*parts(draft, kind), body]
        check_names(draft)
        if kind == "disks":
            check_disk(body, draft)
            open_disk(body)
            self.lock_disks([body])
        else:
            check_net(body, draft, descriptors=descriptors)
            body["fds"] = [os.dup(fd) for fd in descriptors] or None
        config[kind] = [*parts(config, kind), body]
        self._name_devices()
        if self.guest is None:
            return DONE
        self._grow_tree()
        return 200, {"id": body["id"], "bdf": self._tree[str(body["id"])]}

    def remove(self, body: Fields) -> Answer:
        config = self._need_config("The device could not be removed from the VM")
        if self.state == "Migrating":
            raise ApiError(
                500, "The device could not be removed from the VM", "VM is currently migrating and can't be modified"
            )
        name = str(body.get("id"))
        kind = next(
            (kind for kind in ("disks", "net") if any(each["id"] == name for each in parts(config, kind))), None
        )
        if kind is None and name not in self._tree:
            raise ApiError(404, "The device could not be removed from the VM", f"Missing device id: {name}")
        for disk in parts(config, "disks"):
            if disk["id"] == name:
                self.release_disks(str(disk.get("path")))
        for each in ("disks", "net"):
            config[each] = [device for device in parts(config, each) if device["id"] != name]
        if self.guest is not None and "fake.holds" not in self.guest.boots:
            threading.Timer(EJECTED_S, self._eject, [name]).start()
        return DONE

    # Inside

    @property
    def _given(self) -> Fields:
        return self.config or {}

    def start_guest(self, memory: Fields | None, *, run: bool = True) -> None:
        """Begin the guest's life, or go on with it."""
        payload = part(self._given, "payload")
        holder: list[Guest] = []
        guest = Guest(
            name=str(part(self._given, "platform").get("system_uuid", "guest")),
            kernel_args=str(payload.get("cmdline") or ""),
            output=self._print,
            left=lambda how: self._left.put((holder[0], how)),
            memory=memory,
        )
        holder.append(guest)
        self.guest = guest
        guest.start()
        if memory is not None and run:
            guest.resume()

    def end_guest(self) -> None:
        """There is no machine any more; its configuration stays."""
        if self.guest is not None:
            self.guest.end()
        self.guest = None
        self.state = ""
        self._tree = {}
        self.release_disks()
        self._close_console()

    def lock_disks(self, disks: list[Fields] | None = None) -> None:
        """Lock disks that are given, or all. Raises ApiError, and then holds none of them more than before."""
        taken: dict[str, int] = {}
        try:
            for disk in parts(self._given, "disks") if disks is None else disks:
                fd = locked(disk)
                if fd is not None:
                    taken[str(disk.get("path"))] = fd
        except ApiError:
            for fd in taken.values():
                os.close(fd)
            raise
        self._locks |= taken

    def release_disks(self, path: str | None = None) -> None:
        """Let go of one disk, or of all."""
        for each in [path] if path is not None else list(self._locks):
            fd = self._locks.pop(each, None)
            if fd is not None:
                os.close(fd)

    def adopt(self, config: Fields) -> None:
        """Take a configuration that comes from elsewhere."""
        self.config = config
        self._open_console()
        self._grow_tree()

    def forget(self) -> None:
        """What was begun has failed."""
        if self.guest is not None:
            self.end_guest()
        self._close_console()
        self.config = None

    def _watch(self) -> None:
        """Do what the guest has asked for, in a thread that holds nothing of it."""
        while True:
            guest, how = self._left.get()
            with self.lock:
                if guest is not self.guest:
                    continue
                if how == "crash":
                    os._exit(1)
                elif how == "reboot":
                    self.reboot()
                elif self._no_shutdown:
                    self.shutdown()
                else:
                    self.leave()

    def _print(self, data: bytes) -> None:
        if self._serial is not None:
            self._serial.write(data)

    def _type(self, data: bytes) -> None:
        if self.guest is not None:
            self.guest.type(data)

    def _open_console(self) -> None:
        try:
            self._serial = Serial(part(self._given, "serial"), self._type)
            console = part(self._given, "console")
            if console.get("mode") == "File":
                Path(str(console["file"])).write_bytes(b"")
        except OSError as error:
            raise ApiError(500, "Error creating console devices", str(error.strerror)) from error

    def _close_console(self) -> None:
        if self._serial is not None:
            self._serial.close()
            self._serial = None

    def _name_devices(self) -> None:
        names = {each.get("id") for kind in _PREFIXES for each in parts(self._given, kind)}
        for kind, prefix in _PREFIXES.items():
            for device in parts(self._given, kind):
                free = (f"{prefix}{n}" for n in range(100) if f"{prefix}{n}" not in names)
                device.setdefault("id", next(free))
                names.add(device["id"])

    def _grow_tree(self) -> None:
        for kind in _PREFIXES:
            for device in parts(self._given, kind):
                self._tree.setdefault(str(device["id"]), f"0000:00:{len(self._tree) + 3:02x}.0")

    def _eject(self, name: str) -> None:
        """The guest lets go of a device, unless it stands still: then when it goes on."""
        with self.lock:
            if self.state == "Paused":
                threading.Timer(EJECTED_S, self._eject, [name]).start()
            elif (bdf := self._tree.pop(name, None)) is not None:
                self.events.tell("vm", "device-removed", id=name, bdf=bdf)

    def _resize_memory(self, memory: Fields, wanted: int) -> None:
        size, more = number(memory, "size"), number(memory, "hotplug_size")
        if self.guest is None:
            memory["size"] = wanted
        elif memory.get("hotplug_method", "Acpi") == "VirtioMem":
            if not size <= wanted <= size + more:
                raise ApiError(500, "The VM could not be resized", "Memory size is out of range")
            memory["hotplugged_size"] = wanted - size
        else:
            if (wanted - size) % STEP:
                raise ApiError(500, "The VM could not be resized", "Memory is not aligned to 128 MiB")
            memory.setdefault("plugged_from", size)
            if wanted > number(memory, "plugged_from") + more:
                raise ApiError(500, "The VM could not be resized", "No more hotplug memory")
            memory["size"] = max(wanted, size)

    def _need_config(self, what: str) -> Fields:
        if self.config is None:
            raise ApiError(404, what, "VM is not created")
        return self.config

    def _need_running(self, reason: str) -> Guest:
        if self.state == "Migrating":
            raise ApiError(500, "The request could not be served", "VM is currently migrating and can't be modified")
        if self.guest is None:
            raise ApiError(500, "The request could not be served", reason)
        return self.guest
