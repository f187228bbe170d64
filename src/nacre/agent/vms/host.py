"""What this host offers to the recipes: drivers, images, disks, records, and places for files. Wired by `main`."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nacre.agent.host import leases
from nacre.agent.host.cgroups import Cgroups
from nacre.agent.host.users import Users
from nacre.agent.hypervisors.base import Hypervisor
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.images.cache import ImageCache
from nacre.agent.records import RecordStore
from nacre.agent.storage.base import Storage
from nacre.agent.storage.roots import RootDisks
from nacre.agent.volumes.pools import Pools
from nacre.lib.clock import Clock
from nacre.model.convergence import FailureClass
from nacre.model.ids import RunId, VmId, make_id


class Proof(Protocol):
    """Proves hardware acceleration with a kernel."""

    async def settle(self, kernel: Path | None) -> None:
        """Wait a little for a verdict, so that a machine does not run slowly for being a second early."""
        ...


@dataclass(frozen=True, kw_only=True)
class Host:
    """Everything that a recipe may use."""

    directory: Path
    run_directory: Path
    records: RecordStore
    images: ImageCache
    storage: Storage
    pools: Pools
    hypervisors: Mapping[str, Hypervisor]
    cgroups: Cgroups
    proof: Proof
    users: Users | None = None
    """Those that hypervisors run as; None if they run as the agent does."""
    clock: Clock
    random: Callable[[], float]

    def hypervisor(self, name: str) -> Hypervisor:
        """Return a driver. Raises DriverError if it is not in use here."""
        driver = self.hypervisors.get(name)
        if driver is None:
            raise DriverError(
                "hypervisor_not_enabled",
                f"the node's agent does not use the hypervisor {name}",
                hint=f"add it to `hypervisors` in the agent's configuration; it uses {', '.join(self.hypervisors)}",
                failure_class=FailureClass.BLOCKED,
            )
        return driver

    @property
    def roots(self) -> RootDisks:
        """Root disks that have layers."""
        return RootDisks(self.machines, clock=self.clock)

    @property
    def machines(self) -> Path:
        """The folder of all machines' folders."""
        return self.directory / "vms"

    def place(self, vm: VmId) -> Path:
        """A machine's folder: disks and logs."""
        return self.machines / vm

    def run_place(self, vm: VmId) -> Path:
        """A machine's folder for sockets."""
        return self.run_directory / vm

    @property
    def jails(self) -> Path:
        """The folder of what confined machines' processes see, on the file system of their disks."""
        return self.directory / "jails"

    def traces(self, vm: VmId) -> list[Path]:
        """Folders that lives of a machine leave behind: for sockets, and jails. Blocks."""
        return [self.run_place(vm), *self.jails.glob(f"*/{vm}")]

    def lock_file(self, vm: VmId) -> Path:
        """The file that the machine's process holds a lock on."""
        return self.place(vm) / "lock"

    def lease_file(self, vm: VmId, fence: int) -> Path:
        """Until when one placement of a machine may run, if it may not run without a lease."""
        return leases.file_of(self.run_directory, vm, fence)

    @property
    def copies(self) -> Path:
        """The folder of what machines left behind that have moved away."""
        return self.directory / "copies"

    @property
    def exports(self) -> Path:
        """The folder of copies of disks that are on their way to the control plane."""
        return self.directory / "exports"

    def console_log(self, vm: VmId) -> Path:
        """What the machine's console has printed."""
        return self.place(vm) / "console.log"

    def new_run(self) -> RunId:
        """Return a name for a new life."""
        return RunId(make_id("run", self.clock.now(), secrets.token_bytes(10)))
