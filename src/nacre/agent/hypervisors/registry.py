"""Driver names and where their code is. Called by `agent/main`. Imports a driver only when it is asked for.

A third party adds a driver by an entry point in the group `nacre.hypervisors`. Every driver class is made with one
keyword, `state_directory`: a directory of its own that outlives the agent.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

from nacre.agent.hypervisors.abilities import CanGuard, CanProbeAcceleration, CanReceiveHeld
from nacre.agent.hypervisors.base import Hypervisor
from nacre.errors import UnsupportedError
from nacre.model.nodes import LIVE_MOVES

DRIVERS = {
    "qemu": "nacre.agent.hypervisors.qemu.driver:QemuHypervisor",
    "cloud-hypervisor": "nacre.agent.hypervisors.cloud_hypervisor.driver:CloudHypervisor",
    "firecracker": "nacre.agent.hypervisors.firecracker.driver:FirecrackerHypervisor",
    "fake": "nacre.agent.hypervisors.fake:FakeHypervisor",
}
ENTRY_POINTS = "nacre.hypervisors"

GUARD = "guard"

_ABILITIES: dict[str, type] = {
    GUARD: CanGuard,
    "prove-acceleration": CanProbeAcceleration,
    LIVE_MOVES: CanReceiveHeld,
}


def load(name: str, state_directory: Path, **options: str) -> Hypervisor:
    """Return the driver called `name`, made with its own `options`. Raises UnsupportedError if there is none."""
    address = _addresses().get(name)
    if address is None:
        raise UnsupportedError(
            "unknown_hypervisor",
            f"there is no hypervisor driver called {name!r}",
            hint=f"the drivers are: {', '.join(sorted(_addresses()))}",
            field="hypervisors",
        )
    module, _, attribute = address.partition(":")
    make = cast("Callable[..., Hypervisor]", getattr(import_module(module), attribute))
    return make(state_directory=state_directory / name, **options)


def abilities(driver: Hypervisor) -> tuple[str, ...]:
    """Name what a driver can do beyond the core on this host, derived from the protocols that it fulfils."""
    can = tuple(name for name, protocol in _ABILITIES.items() if isinstance(driver, protocol))
    if isinstance(driver, CanGuard) and driver.guard_obstacle():
        return tuple(name for name in can if name != GUARD)
    return can


def _addresses() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)} | DRIVERS
