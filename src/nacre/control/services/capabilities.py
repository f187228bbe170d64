"""What the hypervisors of all nodes can do: shown to users, and asked before a machine is accepted.

What no node could ever do is refused at once, with the field that asks for it; what a node could that is only out of
reach or full now waits, and the scheduler says for what.
"""

from collections import Counter
from collections.abc import Collection, Iterable

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.store import nodes
from nacre.control.store.db import Read
from nacre.errors import InvalidInputError, UnsupportedError
from nacre.model.capabilities import (
    BASELINE,
    Capability,
    Level,
    Support,
    mask_of,
    mask_offered,
    named,
    understood,
)
from nacre.model.images import Role
from nacre.model.nodes import HypervisorInfo
from nacre.model.vm_needs import wants
from nacre.model.vms import DEFAULT_HYPERVISOR, HYPERVISORS, SIMULATED, VmSpec
from nacre.schema.capabilities import CapabilitiesOut, CapabilityOut, HypervisorOut, Reason

_ORDER = (Level.NATIVE, Level.EMULATED, Level.NEEDS_GUEST, Level.EXPERIMENTAL)
"""Best first."""
_MOST_NAMED = 3


async def show(rd: Read, caller: Caller) -> CapabilitiesOut:
    """Return what every hypervisor can do, and on how many nodes. Names no node."""
    policy.visible_projects(caller)
    found: dict[str, list[HypervisorInfo]] = {}
    async for rows in nodes.told(rd):
        for row in rows:
            for info in row.hypervisors:
                found.setdefault(info.name, []).append(info)
    return CapabilitiesOut(hypervisors=tuple(summary(name, found[name]) for name in sorted(found)))


def summary(name: str, infos: Iterable[HypervisorInfo]) -> HypervisorOut:
    """Put together what the nodes say of one hypervisor. Pure."""
    known = list(infos)
    working = [info for info in known if info.available]
    offers = [understood(info.offer) if info.offer is not None else _baseline() for info in working]
    return HypervisorOut(
        name=name,
        nodes=len(known),
        available=len(working),
        versions=tuple(sorted({info.version for info in working if info.version})),
        unavailable=_reasons(info.reason for info in known if not info.available),
        capabilities=tuple(
            _capability(capability, [offer.get(capability, _UNSAID) for offer in offers]) for capability in Capability
        )
        if offers
        else (),
    )


async def admit(rd: Read, caller: Caller, spec: VmSpec, roles: Collection[Role] | None) -> None:
    """Raise UnsupportedError for what a machine asks for and no known node's hypervisor could ever do.

    Raises InvalidInputError for a hypervisor that is none of ours and that no node has told of.
    Nothing is known of nodes whose agent has never connected, or where the hypervisor does not work at present.
    """
    asked = wants(spec, roles)
    needed = mask_of(asked)
    if spec.hypervisor == DEFAULT_HYPERVISOR and not needed & ~mask_of(BASELINE):
        return
    nearest: HypervisorInfo | None = None
    others: Counter[str] = Counter()
    elsewhere: dict[str, list[str]] = {}
    names: set[str] = set(HYPERVISORS)
    async for rows in nodes.told(rd):
        for row in rows:
            names.update(info.name for info in row.hypervisors)
            for info in row.hypervisors:
                lacks = (needed & ~mask_offered(info.offer)).bit_count()
                if not info.available:
                    continue
                if info.name != spec.hypervisor:
                    if not lacks:
                        others[info.name] += 1
                        elsewhere.setdefault(info.name, []).append(row.name)
                    continue
                if not lacks:
                    return
                if nearest is None or lacks < (needed & ~mask_offered(nearest.offer)).bit_count():
                    nearest = info
    if spec.hypervisor not in names:
        raise InvalidInputError(
            "unknown_hypervisor",
            f"there is no hypervisor {spec.hypervisor!r}",
            hint=f"one of: {', '.join(sorted(names - {SIMULATED}))}",
            field="hypervisor",
        )
    if nearest is not None:
        raise _cannot(spec, asked, nearest, _where(caller, others, elsewhere))


def _cannot(spec: VmSpec, asked: dict[Capability, str], nearest: HypervisorInfo, where: str) -> UnsupportedError:
    missing = named(mask_of(asked) & ~mask_offered(nearest.offer))
    first = missing[0]
    note = understood(nearest.offer or ()).get(first, _UNSAID).note
    also = f", nor {', '.join(missing[1:])}" if len(missing) > 1 else ""
    return UnsupportedError(
        "capability_missing",
        f"no node's {spec.hypervisor} can do {first}{also}{f': {note}' if note else ''}",
        hint=where or "leave it out; `nacre hypervisor list` says what can be done",
        field=asked[first],
    )


def _where(caller: Caller, others: Counter[str], elsewhere: dict[str, list[str]]) -> str:
    """Say which hypervisors could; nodes are named only to those who may view them."""
    if not others:
        return ""
    named_too = policy.allowed(caller, PLATFORM, "node:view")
    found: list[str] = []
    for name, count in others.most_common():
        nodes_ = ", ".join(elsewhere[name][:_MOST_NAMED]) + (", …" if count > _MOST_NAMED else "")
        found.append(f"{name} on {nodes_}" if named_too else f"{name} on {count} node{'s' if count > 1 else ''}")
    return f"leave it out, or choose a hypervisor that can: {'; '.join(found)}"


def _capability(capability: Capability, said: list[Support]) -> CapabilityOut:
    offering = [support for support in said if support.level is not Level.UNSUPPORTED]
    best = min(offering, key=lambda support: _ORDER.index(support.level), default=None)
    return CapabilityOut(
        capability=capability.value,
        level=Level.UNSUPPORTED if best is None else best.level,
        nodes=len(offering),
        note="" if best is None else best.note,
        missing=_reasons(support.note for support in said if support.level is Level.UNSUPPORTED),
    )


def _reasons(notes: Iterable[str]) -> tuple[Reason, ...]:
    return tuple(Reason(note=note, nodes=count) for note, count in Counter(notes).most_common())


def _baseline() -> dict[Capability, Support]:
    return {capability: Support(level=Level.NATIVE) for capability in BASELINE}


_UNSAID = Support(level=Level.UNSUPPORTED)
