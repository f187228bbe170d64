"""What is known of a machine's process. Used by the recipes and the planner. Pure."""

from enum import StrEnum

from nacre.agent.hypervisors.base import GuestState


class Presence(StrEnum):
    """What is known of a machine's process."""

    UNKNOWN = "unknown"  # there may be one: look before doing anything
    NONE = "none"
    STARTING = "starting"  # the hypervisor is there, the guest does not run yet
    RUNNING = "running"
    PAUSED = "paused"
    LEAVING = "leaving"  # the guest is off, the process ends by itself
    FAILED = "failed"  # the hypervisor has stopped it, and going on may help
    HALTED = "halted"  # the same, and somebody has to decide


OF_GUEST = {
    GuestState.STARTING: Presence.STARTING,
    GuestState.RUNNING: Presence.RUNNING,
    GuestState.PAUSED: Presence.PAUSED,
    GuestState.SHUT_DOWN: Presence.LEAVING,
    GuestState.FAILED: Presence.FAILED,
    GuestState.HALTED: Presence.HALTED,
    GuestState.FROZEN: Presence.RUNNING,  # as far as anybody can know; that it is frozen is known apart
    GuestState.GONE: Presence.LEAVING,  # gone for certain only once that is on record
}
