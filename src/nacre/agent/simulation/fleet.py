"""All nodes of a simulation: joined, linked, and given orders. Run by `main` instead of an agent.

Every node keeps its identity in a folder of its own, so a simulation that is started again is the same fleet.
"""

import asyncio
import random
import time
from collections.abc import Sequence

import structlog

from nacre.agent.instance import new_instance
from nacre.agent.joining import join_of
from nacre.agent.settings import Settings
from nacre.agent.simulation import orders
from nacre.agent.simulation.node import SimulatedNode
from nacre.agent.simulation.options import Options, options
from nacre.errors import InvalidInputError, UnavailableError
from nacre.lib.clock import SystemClock
from nacre.lib.limits import allow_files, collect_rarely
from nacre.protocol.join import Join

JOINING = 48
"""How many nodes enrol at the same time; the control plane takes 64."""
_FILES_PER_NODE = 2
_FILES_BESIDES = 200
_PROGRESS_S = 5.0

log = structlog.get_logger()


class Fleet:
    """A simulation."""

    def __init__(self, settings: Settings) -> None:
        """Raises InvalidInputError for settings that cannot be used."""
        self._settings = settings
        self._options = options(settings)
        self._clock = SystemClock()
        self._chance = random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._nodes: dict[str, SimulatedNode] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._joining = asyncio.Semaphore(JOINING)
        self._join: Join | None = None
        self._instance = ""

    async def run(self) -> None:
        """Be a fleet until cancelled. Raises NacreError when nodes cannot join."""
        _allow_files(self._options.nodes)
        self._join = await join_of(self._settings, self._options.folder.exists)
        self._instance = new_instance(self._settings.data, self._clock)
        collect_rarely()
        log.info("simulation.started", nodes=self._options.nodes, orders=str(self._options.socket))
        async with orders.taken(self._options.socket, self._obey), asyncio.TaskGroup() as group:
            self._group = group
            for index in range(1, self._options.nodes + 1):
                self._start(_node(self._options, index, self._clock, self._chance, self._instance))
            try:
                await self._watch()
            finally:
                self._cut_silent()

    def status(self) -> orders.Answer:
        """Count nodes and machines."""
        nodes = self._nodes.values()
        return {
            "nodes": self._options.nodes,
            "joined": sum(node.id is not None for node in nodes),
            "linked": sum(node.is_up for node in nodes),
            "silent": sum(node.voice.silent for node in nodes),
            "off": sum(name not in self._running for name in self._nodes),
            "machines": sum(node.machines for node in nodes),
        }

    def _start(self, node: SimulatedNode) -> None:
        self._nodes[node.name] = node
        running = node.run(self._join, self._joining, self._instance)
        task = self._running[node.name] = self._group.create_task(running, name=node.name)
        task.add_done_callback(lambda _: self._running.pop(node.name, None))

    async def _watch(self) -> None:
        """Say how far the fleet is whenever that has changed."""
        last: orders.Answer = {}
        while True:
            await asyncio.sleep(_PROGRESS_S)
            now = self.status()
            if now != last:
                log.info("simulation.progress", **now)
            last = now

    def _cut_silent(self) -> None:
        """Break the connections of silent nodes, which would wait for their voice to hang up. The simulation ends."""
        for node in self._nodes.values():
            if node.voice.silent:
                node.voice.cut()

    # Orders

    def _obey(self, verb: str, words: Sequence[str]) -> orders.Answer:
        match verb:
            case "silence":
                return self._done(self._chosen(words), "silence")
            case "kill":
                return self._done(self._chosen(words), "kill")
            case "resume":
                idle = [name for name, node in self._nodes.items() if node.voice.silent or name not in self._running]
                return self._done([self._named(word).name for word in words] or idle, "resume")
            case _:
                return self.status()

    def _done(self, names: Sequence[str], verb: str) -> orders.Answer:
        told: list[dict[str, object]] = []
        for name in names:
            node = self._nodes[name]
            match verb:
                case "silence":
                    node.voice.fall_silent()
                case "kill":
                    node.voice.cut()
                    self._running[name].cancel()
                case _:
                    self._resume(node)
            told.append({"name": name, "id": node.id, "at": time.time(), "monotonic": time.monotonic()})
        log.info("simulation.obeyed", order=verb, nodes=len(told))
        return {"nodes": told}

    def _resume(self, node: SimulatedNode) -> None:
        if node.name in self._running:
            node.voice.speak()
            return
        self._instance = new_instance(self._settings.data, self._clock)
        index = int(node.name.rpartition("-")[2])
        self._start(_node(self._options, index, self._clock, self._chance, self._instance))

    def _chosen(self, words: Sequence[str]) -> list[str]:
        """Return the names of the nodes that an order means, which must be up."""
        if len(words) != 1 or not words[0].isdigit():
            return [self._named(word).name for word in words]
        up = [name for name, node in self._nodes.items() if node.is_up]
        if int(words[0]) > len(up):
            raise UnavailableError(
                "too_few_nodes", f"only {len(up)} nodes are linked and can be heard", hint="wait, or resume some"
            )
        return self._chance.sample(up, int(words[0]))

    def _named(self, name: str) -> SimulatedNode:
        node = self._nodes.get(name)
        if node is None:
            raise InvalidInputError(
                "unknown_node",
                f"there is no simulated node {name!r}",
                hint=f"they are called {self._options.name(1)} to {self._options.name(self._options.nodes)}",
            )
        return node


def _node(options_: Options, index: int, clock: SystemClock, chance: random.Random, boot: str) -> SimulatedNode:
    return SimulatedNode(options_, index, clock, chance.random, boot)


def _allow_files(nodes: int) -> None:
    """Raise the limit of open files as far as a program may. Raises InvalidInputError if it is not enough."""
    allowed = allow_files()
    needed = nodes * _FILES_PER_NODE + _FILES_BESIDES
    if allowed < needed:
        raise InvalidInputError(
            "too_few_files",
            f"{nodes} nodes need {needed} open files, and this process may have {allowed}",
            hint="simulate fewer nodes, start several simulations, or raise the limit: ulimit -Hn",
            field="simulate",
        )
