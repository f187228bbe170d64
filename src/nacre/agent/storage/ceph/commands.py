"""`rbd` and its kin as functions: run with a time limit, their failures in our words. Used by the driver `ceph`.

Their exit status is the number of an error of the system. A time-out says nothing of what has happened.
"""

import asyncio
import errno
import os
import shutil
import signal
from collections.abc import Collection

import structlog

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.storage.base import BaseDisk
from nacre.agent.storage.ceph.reach import Reach
from nacre.agent.storage.headers import FORMATS
from nacre.agent.storage.qemu_img import CHANGE_S, COPY_S
from nacre.model.convergence import FailureClass

__all__ = ["CHANGE_S", "COPY_S", "fill", "question", "rbd", "usage"]

_SECRET = "key"  # noqa: S105  # what qemu-img calls it
_SILENT = frozenset({errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTUNREACH, errno.ECONNREFUSED})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_CRASHED = "storage_program_crashed"

log = structlog.get_logger()


async def rbd(reach: Reach, *words: str, allow: Collection[int] = (), limit_s: float = CHANGE_S) -> bytes | None:
    """Run it on the pool and return what it printed, None if it ended with a number of `allow`. Raises DriverError."""
    return await _run("rbd", (*words, "--pool", reach.pool, *_access(reach)), allow=allow, limit_s=limit_s)


async def question(reach: Reach, *words: str, allow: Collection[int] = ()) -> bytes | None:
    """As `rbd`, for what changes nothing: asked once more if the program crashed, as Ceph's do now and then."""
    try:
        return await rbd(reach, *words, allow=allow)
    except DriverError as error:
        if error.code != _CRASHED:
            raise
        log.warning("ceph.crashed", question=words[0], message=error.message, next="it is asked again")
    return await rbd(reach, *words, allow=allow)


async def usage(reach: Reach) -> bytes:
    """Return what the cluster says of its pools, as JSON. Raises DriverError."""
    said = await _run("ceph", ("df", "--format", "json", *_access(reach)), limit_s=CHANGE_S)
    assert said is not None
    return said


async def fill(reach: Reach, image: str, base: BaseDisk) -> None:
    """Copy a disk image into an image of the pool that is blank. Raises DriverError."""
    target = {"driver": "rbd", "pool": reach.pool, "image": image, "user": reach.user}
    target |= {"conf": _escaped(str(reach.configuration)), "key-secret": _SECRET}
    await _run(
        "qemu-img",
        (
            "convert",
            *("--object", f"secret,id={_SECRET},format=base64,file={_escaped(str(reach.secret))}"),
            *("-n", "--target-is-zero", "-f", FORMATS[base.format]),
            *("--target-image-opts", str(base.path), ",".join(f"{key}={value}" for key, value in target.items())),
        ),
        limit_s=COPY_S,
    )


def _access(reach: Reach) -> tuple[str, ...]:
    return ("--conf", str(reach.configuration), "--id", reach.user, "--keyring", str(reach.keyring))


async def _run(program: str, words: tuple[str, ...], *, allow: Collection[int] = (), limit_s: float) -> bytes | None:
    found = shutil.which(program)
    if found is None:
        raise DriverError(
            "storage_unavailable",
            f"{program} is not installed on the node",
            hint="install what reaches Ceph (Debian, Ubuntu: apt-get install ceph-common qemu-block-extra qemu-utils)",
            failure_class=FailureClass.BLOCKED,
        )
    process = await asyncio.create_subprocess_exec(
        found,
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C", "TZ": "UTC", "CEPH_ARGS": ""},
    )
    try:
        async with asyncio.timeout(limit_s):
            said, errors = await process.communicate()
    except TimeoutError as error:
        raise DriverError(
            "storage_slow",
            f"{program} {words[0]} took longer than {limit_s:.0f} s",
            hint="look at the cluster: `ceph health`; it is tried again",
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = errors.decode(errors="replace")
    if process.returncode and "error opening pool" in text and process.returncode == errno.ENOENT:
        raise _no_pool()
    if process.returncode in allow:
        return None
    if process.returncode:
        raise _failure(program, words[0], process.returncode, text)
    return said


def _no_pool() -> DriverError:
    return DriverError(
        "ceph_pool_missing",
        "the cluster has no such pool",
        hint="look at `ceph osd pool ls`: make the pool there, or a pool here that has the right name",
        failure_class=FailureClass.BLOCKED,
    )


def _failure(program: str, verb: str, status: int, text: str) -> DriverError:
    """Return what an exit status means. Programs that do not tell by it, such as qemu-img, tell by words."""
    if status in _SILENT or "Connection timed out" in text or "timed out" in text:
        return DriverError(
            "ceph_unreachable",
            "the cluster does not answer",
            hint="are its monitors running and reached from the node? It is tried again by itself",
        )
    if status == errno.EACCES or "Operation not permitted" in text or "Permission denied" in text:
        return DriverError(
            "ceph_refused",
            "the cluster refuses the pool's user or its key",
            hint="the user needs `mon 'profile rbd' osd 'profile rbd pool=…' mgr 'profile rbd pool=…'`; "
            "look at `ceph auth get` there",
            failure_class=FailureClass.BLOCKED,
        )
    if status in _FULL or "No space left" in text:
        return DriverError(
            "storage_full",
            "the cluster is full",
            hint="free space in the cluster or add to it; it is tried again by itself",
        )
    if status == errno.EBUSY:
        return DriverError(
            "volume_in_use",
            "somebody has the volume open",
            hint="who was killed counts as having it open for half a minute; it is tried again by itself",
            failure_class=FailureClass.WAITING,
        )
    if status < 0:
        return DriverError(
            _CRASHED,
            f"{program} {verb} was ended on the node by {signal.Signals(-status).name}",
            hint="has the node memory left? Programs of Ceph crash now and then; it is tried again by itself",
        )
    said = errno.errorcode.get(status, str(status))
    return DriverError(
        "storage_failed",
        f"{program} {verb} failed on the node ({said})",
        hint="look at the cluster (`ceph health`) and at the pool; it is tried again by itself",
    )


def _escaped(value: str) -> str:
    """Write a value as QEMU's options want it."""
    return value.replace(",", ",,")
