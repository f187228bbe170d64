"""Machines that are about to come to a node from another one while they run. Pure."""

import msgspec

from nacre.model.ids import NodeId, PoolId, StreamId, VolumeId
from nacre.model.vms import VmIntent


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept free on a node for a machine that is about to come: it may not have more than that."""

    cpus: int
    memory_bytes: int
    disk_bytes: int
    """For its root disk."""


class ArrivingVolume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume of a machine that is about to come: it is there already, in a pool that both nodes reach."""

    id: VolumeId
    name: str
    pool: PoolId


class VmArrival(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that is about to come from another node while it runs. It does not belong here yet."""

    stream: StreamId
    """The attempt that it is a part of."""
    source: NodeId
    """Only this node is listened to."""
    vm: VmIntent
    """As it will be once it belongs here, with the token that is reserved for that."""
    volumes: tuple[ArrivingVolume, ...] = ()
    """Where its volumes are, which are its own node's until it belongs here."""
    room: Room | None = None
    """None from a control plane that does not say."""
