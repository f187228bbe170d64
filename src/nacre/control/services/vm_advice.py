"""What to do about a machine that waits, by the reason that keeps it. Pure; used wherever a decision is shown."""

from nacre.control.scheduler.explain import summary
from nacre.model.placement import Decision

_GENERAL = "add a node, delete machines that are not needed, or ask for less"
_HINTS = {
    "no_nodes": "add a node with `nacre node token create`",
    "node_not_ready": "wait for a node to come back, or uncordon one with `nacre node uncordon`",
    "node_flapping": "find out why nodes come and go with `nacre event list`, or add a steady one",
    "memory_pressure": "free memory on the nodes, or add one",
    "disk_pressure": "free disk on the nodes, or add one",
    "network_unavailable": "repair the network of the nodes, or add one",
    "port_in_use": "publish another port, or delete the machine that holds it",
    "no_hypervisor": "add a node with this hypervisor, or choose another",
    "hypervisor_unavailable": "see why with `nacre node show`, or choose another hypervisor",
    "no_machine_type": "choose another machine type",
    "capability_missing": "see what nodes can do with `nacre hypervisor list`, add one that can, or ask for less",
    "no_guard": "add a node whose hypervisor can be guarded, or give up restarting elsewhere with --ha none",
    "wrong_architecture": "add a node of this architecture, or use another image",
    "label_missing": "label a node with `nacre node update --label`, or ask for other labels",
    "wrong_region": "add a node in this region, or allow others",
    "wrong_zone": "add a node in this zone, or allow others",
    "taint_not_tolerated": "tolerate the taint with --tolerate, or remove it from a node",
    "no_disk_headroom": "free disk on the nodes, or add one",
    "affinity": "start a machine that it is to be near to, or make that a preference",
    "anti_affinity": "add nodes, zones or regions, or make being apart a preference",
    "kept_away": "add nodes, zones or regions, or change the rule of the machine that keeps it away",
    "spread": "add room in the emptiest place, or allow more skew",
    "checkpoint_elsewhere": "wait for the node that has the checkpoint: what is made from it shares its disks",
    "volume_elsewhere": "wait for the node that has the volume, detach it, or clone it into a shared pool",
    "pool_full": "delete volumes that are not needed, give the pool more room, or use volumes of another pool",
    "excluded": "name another node, or leave the choice to the scheduler",
}


def hint_of(code: str) -> str:
    """Return what to do about a refusal with this code."""
    return _HINTS.get(code, _GENERAL)


def advice(decision: Decision) -> str:
    """Return what to do so that the machine gets a node; nothing when it has one."""
    return "" if decision.node is not None else hint_of(summary(decision)[0])
