"""Stop every guest that an agent's records name, while no agent runs: `python -m nacre.agent.guests --config FILE`.

Called by `nacre down --vms`. Asks the guests, waits, ends the processes of those that do not obey. Disks stay. What is
desired does not change, so the next agent starts again what should run.
"""

import argparse
import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from nacre.agent import places
from nacre.agent.attendance import Attendance
from nacre.agent.consoles import Consoles
from nacre.agent.host import cgroups
from nacre.agent.host.proof import AccelerationProof
from nacre.agent.hypervisors import registry
from nacre.agent.images.cache import ImageCache
from nacre.agent.records import Record, RecordStore
from nacre.agent.settings import Settings, load
from nacre.agent.storage.directory import DirectoryStorage
from nacre.agent.vms.adopt import adopt
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.presence import Presence
from nacre.agent.vms.stop import end_unseen, stop
from nacre.agent.volumes.pools import Pools
from nacre.errors import NacreError, UnavailableError
from nacre.lib import logs
from nacre.lib.clock import SystemClock
from nacre.model.ids import ImageId
from nacre.model.images import Role


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m nacre.agent.guests", description="Stop the guests of an agent.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS")
    given = parser.parse_args()
    sys.exit(run(given.config, given.timeout))


def run(config: Path, timeout_s: float) -> int:
    """Stop the guests and return the exit code: 0 if none is left."""
    try:
        settings = load(config, os.environ, {})
        logs.set_up("error", program="nacre-agent-guests")
        places.prepare(settings)
        with places.held(settings):
            left = asyncio.run(stop_all(settings, timeout_s))
    except NacreError as error:
        sys.stderr.write(f"{error.message}; {error.hint}\n")
        return 1
    return 1 if left else 0


async def stop_all(settings: Settings, timeout_s: float) -> Sequence[str]:
    """Stop every guest, all at once. Returns the names of those that could not be stopped."""
    host = _host(settings)
    consoles = Consoles()
    attendance = Attendance(host, consoles, lambda _vm: None)
    try:
        records = [record for record in host.records.load_all().values() if not record.deleted]
        failures = await asyncio.gather(*(_stop(record, host, attendance, timeout_s) for record in records))
    finally:
        await attendance.close()
        consoles.close()
    return [name for name in failures if name is not None]


async def _stop(record: Record, host: Host, attendance: Attendance, timeout_s: float) -> str | None:
    """Stop one guest. Returns its name if that did not work."""
    name = record.intent.name if record.intent is not None else record.id
    machine = Machine(record, host.records, host.clock, host.random, changed=lambda _machine: None)
    try:
        try:
            guest = await adopt(machine, host)
        except NacreError:
            await end_unseen(machine, host)
            guest = None
        if guest is not None:
            await attendance.take(machine, guest)
        if machine.presence is Presence.NONE:
            return None
        # A frozen guest hears nothing, and may run elsewhere by now.
        await stop(machine, timeout_s=timeout_s, force=machine.frozen, host=host)
    except (NacreError, OSError) as error:
        sys.stderr.write(f"{name}: {error}\n")
        return name
    _say(f"stopped {name}")
    return None


def _host(settings: Settings) -> Host:
    records = RecordStore(settings.data)
    drivers = {name: registry.load(name, settings.run_base / "hypervisors") for name in settings.hypervisors}
    return Host(
        directory=settings.data,
        run_directory=settings.run,
        records=records,
        images=ImageCache(settings.data / "images", limit_bytes=0, fetch=_no_images, needed=lambda: None),
        storage=DirectoryStorage(),
        pools=Pools(settings.data, clock=SystemClock()),
        hypervisors=drivers,
        cgroups=cgroups.Cgroups(cgroups.find()),
        proof=AccelerationProof(()),
        clock=SystemClock(),
        random=random.SystemRandom().random,
    )


async def _no_images(image: ImageId, role: Role, offset: int) -> AsyncIterator[bytes]:
    raise UnavailableError("no_images", f"{role} of {image} from {offset} is not needed here", hint="start an agent")
    yield b""


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
