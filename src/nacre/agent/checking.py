"""`nacre-agent check`: says whether this host can be a node, and what to do if not. Changes nothing but a verdict.

Called by `main` before there is an agent. Exit codes: 0 if the host can be a node, 1 if it cannot.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import msgspec

from nacre.agent.host import inventory, preflight
from nacre.agent.host.preflight import Finding, Level
from nacre.agent.host.proof import AccelerationProof
from nacre.agent.hypervisors import registry
from nacre.agent.identity import IdentityFiles
from nacre.agent.settings import Settings
from nacre.errors import NacreError
from nacre.lib import logs
from nacre.model.nodes import HypervisorInfo
from nacre.protocol import join

WORDS = frozenset({"check", "--check"})
JSON = "--json"
_REACH_S = 5.0
_MARKS = {Level.OK: "ok  ", Level.WARN: "WARN", Level.FAIL: "FAIL"}
_COLOURS = {Level.OK: "32", Level.WARN: "33", Level.FAIL: "31"}


def wanted(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for a check."""
    return bool(arguments) and (arguments[0] == "check" or "--check" in arguments)


def run(arguments: Sequence[str], read: Callable[[Sequence[str]], Settings]) -> int:
    """Check this host and print what was found. Raises InvalidInputError for settings that cannot be used."""
    settings = read([word for word in arguments if word not in WORDS | {JSON}])
    logs.set_up("error", program="nacre-agent")  # what is found is said below
    findings = asyncio.run(check(settings))
    if JSON in arguments:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(findings)).decode() + "\n")
    else:
        show(findings, sys.stdout)
    return int(any(finding.level is Level.FAIL for finding in findings))


async def check(settings: Settings) -> list[Finding]:
    """Return how each check went."""
    hypervisors = await probed(settings)
    gateways = await reached(gateways_of(settings))
    return preflight.judge(await asyncio.to_thread(preflight.look, settings.data, hypervisors, gateways))


async def probed(settings: Settings) -> list[HypervisorInfo]:
    """Return what the configured hypervisors say, acceleration proven where there is a kernel to prove it with."""
    state = settings.run_base / "hypervisors"
    drivers = [registry.load(name, state) for name in settings.hypervisors]
    kernel = Path(settings.probe_kernel) if settings.probe_kernel else inventory.host_kernel()
    proof = AccelerationProof(drivers)
    if _may_write(state):
        await proof.settle(kernel)
    await proof.close()
    return [await driver.probe() for driver in drivers]


def gateways_of(settings: Settings) -> tuple[str, ...]:
    """Return where the control plane of this node is: by its identity, or by the join string that it is given."""
    with contextlib.suppress(NacreError):
        identity = IdentityFiles(settings.data / "identity").load()
        if identity is not None:
            return identity.gateways
    given = settings.join
    if not given and settings.join_file:
        with contextlib.suppress(OSError):
            given = Path(settings.join_file).read_text()
    return join.decode(given).gateways if given.strip() else ()


async def reached(addresses: Sequence[str]) -> Mapping[str, str]:
    """Return why each address cannot be reached; empty for those that can."""
    answers = await asyncio.gather(*(_reach(address) for address in addresses))
    return dict(zip(addresses, answers, strict=True))


def show(findings: Sequence[Finding], to: TextIO) -> None:
    """Print findings for people."""
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        mark = _MARKS[finding.level]
        if to.isatty():
            mark = f"\033[{_COLOURS[finding.level]}m{mark}\033[0m"
        to.write(f"{mark}  {finding.check:{width}}  {finding.message}\n")
        if finding.hint:
            to.write(f"{'':{width + 8}}{finding.hint}\n")
    failed = sum(finding.level is Level.FAIL for finding in findings)
    to.write("this host can be a node\n" if not failed else f"this host cannot be a node: {failed} to put right\n")


async def _reach(address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_REACH_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except TimeoutError:
        return "no answer"
    except (OSError, ValueError) as error:
        return (error.strerror if isinstance(error, OSError) else None) or str(error)
    writer.close()
    return ""


def _may_write(folder: Path) -> bool:
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return os.access(there, os.W_OK | os.X_OK)
