"""Disks and NICs that come and go while a machine runs. Used by `guest`: look, act, look again.

Cloud Hypervisor strikes a device out of its configuration as soon as it is asked to remove it, and only the device tree
says whether the guest still has it. A device in the tree is there.
"""

import asyncio
import contextlib
import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import cast

from nacre.agent.hypervisors.cloud_hypervisor import devices, paths
from nacre.agent.hypervisors.cloud_hypervisor.api import NOT_THERE, SILENT, Api
from nacre.agent.hypervisors.cloud_hypervisor.devices import Fields
from nacre.agent.hypervisors.cloud_hypervisor.refusals import unsupported
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Disk, MacvtapNic, Nic

_ANSWER_S = 5.0
_PLUG_S = 30.0
_LOOK_S = 0.05


class Plugs:
    """The devices of one running machine."""

    def __init__(self, api: Api, run_directory: Path) -> None:
        self._api = api
        self._run_directory = run_directory

    async def attach_disk(self, disk: Disk) -> None:
        """See `CanHotplug`."""
        info = await self._info()
        if disk.id in _tree(info):
            return
        fields = devices.disk(disk, cpus=_cpus(info))
        _check_sharing(disk, info)
        link = self._run_directory / paths.disk_link(disk.id)
        target = paths.target_of(disk)
        if target is not None:
            link.unlink(missing_ok=True)
            link.symlink_to(target)
        try:
            await self._plug("vm.add-disk", disk.id, fields)
        except DriverError as error:
            if error.code != SILENT:  # else it may be plugged yet
                link.unlink(missing_ok=True)
            raise

    async def attach_nic(self, nic: Nic) -> None:
        """See `CanHotplug`."""
        info = await self._info()
        if nic.id in _tree(info):
            return
        fields = devices.nic(nic, cpus=_cpus(info))
        _check_sharing(nic, info)
        with opened(nic) as descriptors:
            await self._plug("vm.add-net", nic.id, fields, descriptors)

    async def detach(self, device: str, timeout: float) -> None:
        """Take a device back. Raises DriverError (`guest_holds_device`)."""
        deadline = asyncio.get_running_loop().time() + timeout
        asked = False
        while device in _tree(await self._info()):
            if not asked:
                asked = await self._ask_for(device)
            if asyncio.get_running_loop().time() >= deadline:
                raise DriverError(
                    "guest_holds_device",
                    f"the guest does not let go of {device}",
                    hint="stop using it in the guest (unmount the disk), and let the guest run; it is tried again",
                )
            await asyncio.sleep(_LOOK_S)
        (self._run_directory / paths.disk_link(device)).unlink(missing_ok=True)

    async def _ask_for(self, device: str) -> bool:
        """Ask the guest to let go of a device."""
        try:
            await self._api.put("vm.remove-device", {"id": device}, timeout=_PLUG_S)
        except DriverError as error:
            if error.code != NOT_THERE:
                raise
        return True

    async def _plug(self, call: str, device: str, fields: Fields, descriptors: tuple[int, ...] = ()) -> None:
        try:
            await self._api.put(call, fields, timeout=_PLUG_S, descriptors=descriptors)
        except DriverError:
            if device not in _tree(await self._info()):
                raise

    async def _info(self) -> Mapping[str, object]:
        return await self._api.ask("vm.info", timeout=_ANSWER_S)


@contextlib.contextmanager
def opened(nic: Nic) -> Generator[tuple[int, ...]]:
    """Open the device of a macvtap once per pair of queues; other NICs need none. Raises DriverError."""
    found: list[int] = []
    try:
        if isinstance(nic, MacvtapNic):
            found += [os.open(nic.device, os.O_RDWR | os.O_CLOEXEC) for _ in range(nic.options.queues)]
    except OSError as error:
        for descriptor in found:
            os.close(descriptor)
        raise DriverError(
            "nic_unusable",
            f"the device of NIC {nic.id} cannot be opened: {error.strerror}",
            hint="look whether the macvtap interface is there (`ip -d link show type macvtap`)",
        ) from error
    try:
        yield tuple(found)
    finally:
        for descriptor in found:
            os.close(descriptor)


def _check_sharing(device: Disk | Nic, info: Mapping[str, object]) -> None:
    memory = cast("Mapping[str, object]", part(info, "config").get("memory") or {})
    zones = cast("list[Mapping[str, object]]", memory.get("zones") or [])
    if devices.is_served_elsewhere(device) and not any(
        each.get("shared") or each.get("hugepages") for each in (memory, *zones)
    ):
        raise unsupported(
            "memory_not_shared",
            f"cannot give {device.id} to a machine whose memory is not shared",
            "set the machine's memory to shared and start it again",
        )


def _tree(info: Mapping[str, object]) -> Mapping[str, object]:
    return part(info, "device_tree")


def _cpus(info: Mapping[str, object]) -> int:
    cpus = cast("Mapping[str, object]", part(info, "config").get("cpus") or {})
    return cast("int", cpus.get("boot_vcpus") or 1)


def part(info: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Return a part of what `vm.info` says; empty if it is not there."""
    return cast("Mapping[str, object]", info.get(name) or {})
