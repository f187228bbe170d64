"""How well each of the nodes that fit suits a machine: the strategies, part by part. Pure.

Every part is a contribution: the parts of a node add up to its score, higher is better. What a strategy says lies
between 0 and 1; `preferences` adds its own parts to any of them alike.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from nacre.control.scheduler import relations
from nacre.control.scheduler.columns import Numbers, Rows
from nacre.control.scheduler.snapshot import Fleet
from nacre.control.scheduler.values import NodeRoom, Request
from nacre.model.placement import Placement, Strategy, Topology, Weights

Parts = dict[str, Numbers]
"""By name, aligned with the rows that were asked about."""

CPU, MEMORY, DISK = 0.4, 0.4, 0.2
"""What each resource counts in how loaded a node is."""

GOOD_UTILISATION = 0.65
FULL = 0.9


def parts(request: Request, fleet: Fleet, rows: Rows, strategy: Strategy, random: Callable[[], float]) -> Parts:
    """Return what the strategy says of the nodes of `rows`."""
    match strategy:
        case Strategy.LEAST_LOADED:
            return _least_loaded(request, fleet, rows)
        case Strategy.BEST_FIT:
            return _best_fit(request, fleet, rows)
        case Strategy.ROUND_ROBIN:
            return _round_robin(fleet, rows)
        case Strategy.RANDOM:
            return _random(rows, random)
        case Strategy.WEIGHTED:
            return _weighted(request, fleet, rows)


def total(found: Parts, rows: Rows) -> Numbers:
    """Return the scores that the parts add up to."""
    score = np.zeros(len(rows))
    for part in found.values():
        score += part
    return score


def load(fleet: Fleet) -> Numbers:
    """Return how loaded every row is, 0 to 1: CPU .4, memory .4, disk .2 of what may be promised."""
    empty = fleet.cpus * fleet.per_cpu * CPU + fleet.memory * fleet.per_memory * MEMORY
    return 1 - empty - fleet.disk * fleet.per_disk * DISK


def _least_loaded(request: Request, fleet: Fleet, rows: Rows) -> Parts:
    """What would be left of the node with the machine: CPU .4, memory .4, disk .2 of what may be promised."""
    return {
        "cpu": CPU * (fleet.cpus[rows] - request.cpus) * fleet.per_cpu[rows],
        "memory": MEMORY * (fleet.memory[rows] - request.memory_bytes) * fleet.per_memory[rows],
        "disk": DISK * (fleet.disk[rows] - request.disk_bytes) * fleet.per_disk[rows],
    }


def _best_fit(request: Request, fleet: Fleet, rows: Rows) -> Parts:
    """What would be in use of the node with the machine, weighed in the same way."""
    left = _least_loaded(request, fleet, rows)
    return {"cpu": CPU - left["cpu"], "memory": MEMORY - left["memory"], "disk": DISK - left["disk"]}


def _round_robin(fleet: Fleet, rows: Rows) -> Parts:
    """How long ago the node was chosen: 1 for the longest ago among those that fit, close to 0 for the last."""
    chosen = fleet.chosen[rows]
    first = chosen.min()
    return {"turn": 1 - (chosen - first) / (chosen.max() - first + 1)}


def _random(rows: Rows, random: Callable[[], float]) -> Parts:
    """A number of each node, uniform between 0 and 1, from one draw: splitmix64, https://prng.di.unimi.it."""
    state = np.uint64(int(random() * (1 << 53)))
    with np.errstate(over="ignore"):
        mixed: npt.NDArray[np.uint64] = (np.arange(len(rows), dtype=np.uint64) + state + np.uint64(1)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return {"random": (mixed >> np.uint64(11)) / float(1 << 53)}


def _weighted(request: Request, fleet: Fleet, rows: Rows) -> Parts:
    """Five factors, each 0 to 1, times their weights, which are normalised so that they add up to 1.

    The formulas are those of Cloudless (NQRust) in so far as they speak of what a node here has: no node is looked at
    that is not ready, under pressure or without network, so what those would cost is not counted; graphics cards,
    bandwidth and public addresses are not known of nodes, so neither is what they would.
    """
    weights = normalised(request.placement.weights or fleet.policy.weights)
    factors = {
        "locality": _locality(request.placement, fleet)[rows],
        "reliability": np.clip(fleet.reliability[rows], 0.0, 1.0),
        "cost": _cost(request, fleet, rows),
        "utilization": _utilization(request, fleet, rows),
        "network": _network(request, fleet, rows),
    }
    return {name: weights[name] * factor for name, factor in factors.items()}


def normalised(weights: Weights) -> dict[str, float]:
    """Return the weights divided by their sum; all the same if every one is 0."""
    given = {
        "locality": weights.locality,
        "reliability": weights.reliability,
        "cost": weights.cost,
        "utilization": weights.utilization,
        "network": weights.network,
    }
    whole = sum(given.values())
    return {name: (value / whole if whole else 1 / len(given)) for name, value in given.items()}


def _locality(asked: Placement, fleet: Fleet) -> Numbers:
    """The i-th of the regions that were asked for 1 - .1 i, without any .7; the first zone +.2, each later .1 less.

    The source knows one zone, +.2 where it matches and -.2 where it does not; the latter is the least here.
    """

    def judge(room: NodeRoom) -> float:
        value = 0.7
        if asked.regions:
            value = 1 - 0.1 * asked.regions.index(room.region) if room.region in asked.regions else 0.5
        if asked.zones:
            value += max(-0.2, 0.2 - 0.1 * asked.zones.index(room.zone)) if room.zone in asked.zones else -0.2
        return min(1.0, max(0.0, value))

    return fleet.columns.measures(("locality", asked.regions, asked.zones), judge).values


def _cost(request: Request, fleet: Fleet, rows: Rows) -> Numbers:
    """By the share of the node that is asked for, mean of CPU and memory: < .1 .7, < .3 1, < .5 .8, < .7 .6, else .3.

    A node far larger than what is asked is dear, one that would be filled by it leaves nothing to choose from.
    """
    share = (request.cpus * fleet.per_cpu[rows] + request.memory_bytes * fleet.per_memory[rows]) / 2
    return np.array([0.7, 1.0, 0.8, 0.6, 0.3])[np.searchsorted([0.1, 0.3, 0.5, 0.7], share, side="right")]


def _utilization(request: Request, fleet: Fleet, rows: Rows) -> Numbers:
    """1 less the mean distance of CPU and memory from .65 with the machine.

    +.1 where the machine brings the two closer together, -.3 where either would be beyond .9.
    """
    cpu = 1 - fleet.cpus[rows] * fleet.per_cpu[rows]
    memory = 1 - fleet.memory[rows] * fleet.per_memory[rows]
    cpu_after = cpu + request.cpus * fleet.per_cpu[rows]
    memory_after = memory + request.memory_bytes * fleet.per_memory[rows]
    value = 1 - (np.abs(cpu_after - GOOD_UTILISATION) + np.abs(memory_after - GOOD_UTILISATION)) / 2
    value += 0.1 * (np.abs(cpu_after - memory_after) < np.abs(cpu - memory))
    value -= 0.3 * (np.maximum(cpu_after, memory_after) > FULL)
    return np.clip(value, 0.0, 1.0)


def _network(request: Request, fleet: Fleet, rows: Rows) -> Numbers:
    """1 less the penalty: .2 for a node in another region than what the machine wants to be near to.

    That is the first region which was asked for, or else the regions of the machines that it has an affinity with.
    The source subtracts the penalty; a factor of 1 less the penalty differs by the same for all nodes.
    """
    asked = request.placement
    value = np.ones(len(rows))
    if asked.regions:
        first = fleet.columns.measures(
            ("region", asked.regions[0]), lambda room: float(room.region == asked.regions[0])
        )
        return value - 0.2 * (first.values[rows] == 0)
    for term in asked.affinity:
        counts = relations.bearers(request, term.labels, fleet)
        if counts:
            return value - 0.2 * (relations.here(counts, Topology.REGION, fleet)[rows] == 0)
    return value
