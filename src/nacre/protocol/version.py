"""The version of the agent protocol, with its history. Both sides accept N and N-1.

1: first version. Since: leases (`Renew`, `Renewed`), which an agent uses only if `Welcome` says how long they last,
   and in the desired state tenure, retired and discard, which an older agent does not see and never gets: what needs
   them is placed only on nodes that advertise the ability `guard`. The whole configuration of machines in `VmSpec`,
   what of it is in force in `RunInfo.config`, and what hypervisors offer in `HypervisorInfo.offer`. Pools (also those
   in Ceph clusters, with keys), volumes and which of them machines have, which an older agent does not see: it starts
   machines without their volumes, which are shown as needing a restart. How volumes are kept, which every agent sees
   that sees volumes. Streams of commands, screens, metrics and of disks that become images, which are asked only of
   agents whose facts name them. Checkpoints of machines, which are asked only of agents that say what their hypervisors
   can do. What guests say (`VmObserved.guest`) and what goes into them (`VmIntent.seed`), which an older agent does not
   see. And orders and arrivals of machines that move while they run, with where their volumes are and what room
   there is for them, only to and from nodes that advertise the ability `live-moves`.
"""

from nacre.errors import UnsupportedError

CURRENT = 1
OLDEST = 1


def negotiate(newest: int, oldest: int) -> int:
    """Return the version to speak with a peer that speaks `oldest`..`newest`. Raises UnsupportedError."""
    agreed = min(CURRENT, newest)
    if agreed < max(OLDEST, oldest):
        older = "agent" if newest < OLDEST else "control plane"
        raise UnsupportedError(
            "protocol_version",
            f"the agent speaks protocol {oldest} to {newest}, the control plane {OLDEST} to {CURRENT}",
            hint=f"upgrade the {older}",
        )
    return agreed
