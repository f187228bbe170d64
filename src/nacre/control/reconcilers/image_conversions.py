"""Turns vmdk and vhd disks into qcow2 by `qemu-img`, which reads content that strangers have sent: it runs with limits
on memory, time, files and output, dies with us, and is told the format rather than left to guess it.

Called by the reconciler under a claim, on files that `lib.diskformats` has found to refer to nothing outside.
"""

import asyncio
import contextlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import structlog

from nacre.control.services.image_files import ImageDepot, Verified, disk_full, recognise, verify_file
from nacre.control.services.image_finishing import finish_converted
from nacre.control.store.db import Database
from nacre.control.store.images import Part
from nacre.errors import InvalidInputError, UnsupportedError
from nacre.lib.threads import in_thread
from nacre.model.ids import ImageId
from nacre.model.images import Format
from nacre.model.units import GIB, MIB

log = structlog.get_logger()

_DRIVERS = {Format.VMDK: "vmdk", Format.VHD: "vpc"}
_STDERR_KEPT = 2000


@dataclass(frozen=True, kw_only=True)
class Converter:
    """How `qemu-img` is run."""

    program: str = "qemu-img"
    timeout_s: float = 3600.0
    cpu_s: int = 3600
    memory_bytes: int = 2 * GIB

    async def convert(self, db: Database, depot: ImageDepot, image: ImageId, part: Part, claim: str) -> None:
        """Convert and finish an artifact. Safe to repeat. Raises NacreError."""
        source, target = depot.part_path(image, part.role), depot.convert_path(image, part.role)
        await in_thread(depot.reopen, image, part.role)
        room, virtual = await in_thread(_prepare, depot, source, target, part)
        limit = min(room, virtual + virtual // 8 + 64 * MIB)
        if limit <= 0:
            raise disk_full(part.received_bytes)
        code, said = await self._run(self._command(part.format or Format.VMDK, source, target, limit))
        if code != 0:
            log.warning("image.conversion_failed", image=image, code=code, said=said)
            if limit == room:
                raise disk_full(part.received_bytes)
            raise InvalidInputError(
                "image_conversion_failed",
                f"qemu-img could not convert the {part.format} disk",
                hint="check it with: qemu-img check; or convert it to qcow2 yourself and send that",
            )
        await finish_converted(db, depot, image, part.role, await in_thread(_result, target), claim=claim)

    def _command(self, kind: Format, source: Path, target: Path, limit: int) -> list[str]:
        program = shutil.which(self.program)
        if program is None:
            raise UnsupportedError(
                "converter_missing",
                f"{kind} disks cannot be converted here, qemu-img is missing",
                hint="install qemu-utils on the control plane, or convert to qcow2 yourself and send that",
            )
        limits = [f"--as={self.memory_bytes}", f"--cpu={self.cpu_s}", f"--fsize={limit}", "--nofile=64", "--core=0"]
        bound = [["setpriv", "--pdeathsig", "KILL"], ["prlimit", *limits]] if sys.platform == "linux" else []
        wrappers = [word for wrapper in bound for word in wrapper if shutil.which(wrapper[0])]
        return [*wrappers, program, "convert", "-f", _DRIVERS[kind], "-O", "qcow2", str(source), str(target)]

    async def _run(self, command: list[str]) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self.timeout_s):
                _, said = await process.communicate()
        except TimeoutError as error:
            raise InvalidInputError(
                "image_conversion_slow",
                f"the conversion took longer than {self.timeout_s:.0f} s",
                hint="convert it to qcow2 yourself and send that",
            ) from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return process.returncode or 0, said.decode(errors="replace")[-_STDERR_KEPT:]


def _prepare(depot: ImageDepot, source: Path, target: Path, part: Part) -> tuple[int, int]:
    """Remove what an earlier try left; return how much room there is and how much a guest will see."""
    target.unlink(missing_ok=True)
    file = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        room = os.fstatvfs(file)
        return room.f_bavail * room.f_frsize - depot.reserve_bytes, recognise(file, part.role).virtual_bytes
    finally:
        os.close(file)


def _result(target: Path) -> Verified:
    """Look at what came out as if it had come from outside."""
    return verify_file(target, Format.QCOW2)
