"""What a simulation is made of, from the agent's settings. Checked here, with hints. Pure but for paths."""

from dataclasses import dataclass
from pathlib import Path

from nacre.agent.settings import Settings
from nacre.errors import InvalidInputError
from nacre.model.nodes import Capacity
from nacre.model.units import parse_size

DEFAULT_STEM = "sim"
MAX_SOCKET_PATH = 100
"""Of a Unix socket, in bytes: what Linux takes, with something to spare."""
HELP = {
    "simulate": "be so many nodes with machines that are not there, instead of this host; for tests of scale",
    "simulate_capacity": "what each simulated node has, such as cpus=16,memory=64GiB,disk=1TiB",
    "simulate_zones": "where simulated nodes are, in turn: region/zone, several separated by commas",
    "simulate_boot_s": "how many seconds a simulated machine takes to start, on average",
    "simulate_failure_rate": "which share of the starts of simulated machines fails, from 0 to 1",
    "simulate_socket": "where the simulation takes orders (python -m nacre.agent.simulation SOCKET status)",
}
"""For `nacre-agent --help`, by setting."""
_PARTS = ("cpus", "memory", "disk")


@dataclass(frozen=True, kw_only=True)
class Options:
    """A simulation. Times in seconds."""

    nodes: int
    stem: str
    """What the nodes are called, before their numbers."""
    capacity: Capacity
    places: tuple[tuple[str, str], ...]
    """Region and zone of the nodes, in turn."""
    boot_s: float
    failure_rate: float
    hypervisors: tuple[str, ...]
    """The drivers that the simulated one stands in for."""
    labels: dict[str, str]
    folder: Path
    """Where identities are kept, one folder per node."""
    socket: Path

    def name(self, index: int) -> str:
        """How the node is called."""
        return f"{self.stem}-{index:05}"

    def place(self, index: int) -> tuple[str, str]:
        """Region and zone of the node."""
        return self.places[index % len(self.places)]


def options(settings: Settings) -> Options:
    """Return the simulation that the settings ask for. Raises InvalidInputError naming the setting."""
    socket = Path(settings.simulate_socket).absolute() if settings.simulate_socket else settings.run / "simulation.sock"
    if len(str(socket).encode()) > MAX_SOCKET_PATH:
        raise InvalidInputError(
            "socket_path_too_long",
            f"{socket} is too long for a Unix socket",
            hint="give a shorter path with --simulate-socket",
            field="simulate_socket",
        )
    return Options(
        nodes=settings.simulate,
        stem=settings.node_name or DEFAULT_STEM,
        capacity=capacity(settings.simulate_capacity),
        places=tuple(_place(text) for text in settings.simulate_zones) or ((settings.region, settings.zone),),
        boot_s=settings.simulate_boot_s,
        failure_rate=settings.simulate_failure_rate,
        hypervisors=settings.hypervisors,
        labels=settings.labels,
        folder=settings.data / "nodes",
        socket=socket,
    )


def capacity(text: str) -> Capacity:
    """Read `cpus=16,memory=64GiB,disk=1TiB`; what is left out is as in that. Raises InvalidInputError."""
    values = {"cpus": "16", "memory": "64GiB", "disk": "1TiB"}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, sign, value = part.partition("=")
        if name.strip() not in _PARTS or not sign:
            raise _bad_capacity(f"{part!r} is not part of a capacity")
        values[name.strip()] = value.strip()
    if not values["cpus"].isascii() or not values["cpus"].isdigit() or int(values["cpus"]) < 1:
        raise _bad_capacity(f"{values['cpus']!r} is not a number of CPUs")
    memory, disk = (parse_size(values[name], field="simulate_capacity") for name in ("memory", "disk"))
    return Capacity(cpus=int(values["cpus"]), memory_bytes=memory, disk_bytes=disk)


def _place(text: str) -> tuple[str, str]:
    region, sign, zone = text.partition("/")
    if not sign or not region or not zone or "/" in zone:
        raise InvalidInputError(
            "invalid_place",
            f"{text!r} is not a region and a zone",
            hint="write region/zone, several separated by commas: eu/a,eu/b,us/a",
            field="simulate_zones",
        )
    return region, zone


def _bad_capacity(why: str) -> InvalidInputError:
    return InvalidInputError(
        "invalid_capacity",
        why,
        hint="write what each node has, such as cpus=16,memory=64GiB,disk=1TiB",
        field="simulate_capacity",
    )
