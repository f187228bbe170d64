"""What may happen to the world of `ha_world`, drawn from its own random numbers."""

from collections.abc import Callable, Collection, Sequence

from support.ha_control import Replica
from support.ha_hosts import Agent, Host
from support.ha_world import World

DURATIONS = (1.0, 6.0, 20.0, 34.0, 37.0, 45.0, 60.0, 90.0)
"""Around what matters: heartbeats, a stall, being offline, a lease, the wait for it, and more."""


def storm(
    world: World,
    seconds: float,
    *,
    every_s: float = 8.0,
    faults: Collection[str] = (),
    durations: Sequence[float] = DURATIONS,
) -> None:
    """Let things happen for this time, one about every `every_s` seconds, each for as long as it is drawn to last."""
    end, at = world.now + seconds, world.random.expovariate(1 / every_s)
    while world.now + at < end:
        world.after(at, lambda: _strike(world, faults or FAULTS, durations))
        at += world.random.expovariate(1 / every_s)
    world.run(seconds)


def _strike(world: World, faults: Collection[str], durations: Sequence[float]) -> None:
    lasts = world.random.choice(durations) * world.random.uniform(0.9, 1.1)
    names = sorted(faults)
    (name,) = world.random.choices(names, [FAULTS[name][0] for name in names])
    FAULTS[name][1](world, lasts)


def any_host(world: World) -> Host:
    return world.random.choice(list(world.hosts.values()))


def any_replica(world: World) -> Replica:
    return world.random.choice(world.replicas)


def cut(world: World, host: Host, seconds: float) -> None:
    host.cut = True
    world.after(seconds, lambda: world.heal_network(host))


def split(world: World, seconds: float) -> None:
    """Half of the hosts are cut off."""
    for host in world.random.sample(list(world.hosts.values()), len(world.hosts) // 2):
        cut(world, host, seconds)


def stop_agent(world: World, host: Host, seconds: float) -> None:
    """SIGSTOP, and SIGCONT later. Its connection stays, and what comes over it waits."""
    agent = host.agent
    agent.pause()
    world.after(seconds, agent.go_on)


def kill_agent(world: World, host: Host, seconds: float) -> None:
    host.agent.kill()

    def start() -> None:
        if not host.off and not host.asleep and not host.agent.alive:
            host.agent = Agent(host)

    world.after(seconds, start)


def cut_and_kill(world: World, host: Host, seconds: float) -> None:
    """As a host that is fenced off by somebody: no network and no agent, and guests that go on."""
    cut(world, host, seconds)
    kill_agent(world, host, seconds)


def power_off(world: World, host: Host, seconds: float) -> None:
    host.power_off()
    world.after(seconds, host.power_on)


def suspend(world: World, host: Host, seconds: float) -> None:
    host.sleep()
    world.after(seconds, host.wake)


def stall(world: World, replica: Replica, seconds: float) -> None:
    replica.stalled = True
    world.after(seconds, replica.go_on)


def restart(world: World, replica: Replica, seconds: float) -> None:
    replica.down = True
    world.after(seconds, replica.restart)


def take_database_away(world: World, seconds: float) -> None:
    world.database_away = True

    def back() -> None:
        world.database_away = False

    world.after(seconds, back)


def bad_network(world: World, seconds: float) -> None:
    world.loss, world.slow = 0.05, 0.1

    def good() -> None:
        world.loss, world.slow = 0.0, 0.0

    world.after(seconds, good)


FAULTS: dict[str, tuple[int, Callable[[World, float], None]]] = {
    "cut": (5, lambda world, lasts: cut(world, any_host(world), lasts)),
    "stop": (6, lambda world, lasts: stop_agent(world, any_host(world), lasts)),
    "kill": (3, lambda world, lasts: kill_agent(world, any_host(world), lasts)),
    "cut and kill": (3, lambda world, lasts: cut_and_kill(world, any_host(world), lasts)),
    "power": (2, lambda world, lasts: power_off(world, any_host(world), lasts)),
    "suspend": (3, lambda world, lasts: suspend(world, any_host(world), lasts)),
    "stall": (2, lambda world, lasts: stall(world, any_replica(world), lasts)),
    "restart": (1, lambda world, lasts: restart(world, any_replica(world), min(lasts, 20.0))),
    "database": (1, lambda world, lasts: take_database_away(world, min(lasts, 20.0))),
    "network": (2, bad_network),
    "split": (1, split),
}
"""What may happen, and how often compared with the rest."""
