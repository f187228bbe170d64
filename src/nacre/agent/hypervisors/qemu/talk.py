"""What is asked of a running QEMU, whatever becomes of the connection meanwhile. Held by `guest`.

Looks at what is there: names of objects, devices, block nodes. Every change begins and ends with such a look.
"""

from collections.abc import Awaitable, Callable, Mapping

from nacre.agent.hypervisors.qemu import answers
from nacre.agent.hypervisors.qemu.answers import Answer
from nacre.agent.hypervisors.qemu.qmp import Qmp, RefusedError

ANSWER_S = 10.0


class Talk:
    """Questions and orders to one QEMU."""

    def __init__(self, connection: Callable[[], Awaitable[Qmp]]) -> None:
        """`connection` returns the present one, and waits for a while if it is lost."""
        self._connection = connection

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run a command. Raises RefusedError, or DriverError (`hypervisor_silent`) when nobody knows what happened."""
        return await (await self._connection()).execute(command, arguments, timeout=ANSWER_S)

    async def ask(self, form: type[Answer], command: str, arguments: Mapping[str, object] | None = None) -> Answer:
        """Run a command and read its answer."""
        return answers.read(await self.execute(command, arguments), form)

    async def hand_over(self, fd: int, name: str) -> None:
        """Give QEMU a descriptor, to be used once under this name."""
        await (await self._connection()).hand_over(fd, name, timeout=ANSWER_S)

    async def attempt(self, command: str, arguments: Mapping[str, object]) -> bool:
        """Run a command and say whether QEMU took it. For what may be done already."""
        try:
            await self.execute(command, arguments)
        except RefusedError:
            return False
        return True

    async def devices(self) -> Mapping[str, str]:
        """Return the devices that have a name, and their types."""
        return await self._children("/machine/peripheral")

    async def objects(self) -> Mapping[str, str]:
        """Return the objects that have a name, and their types."""
        return await self._children("/objects")

    async def nodes(self) -> Mapping[str, answers.Node]:
        """Return the block nodes."""
        found = await self.ask(list[answers.Node], "query-named-block-nodes", {"flat": True})
        return {node.node_name: node for node in found}

    async def chardevs(self) -> set[str]:
        """Return the names of character devices."""
        return {one.label for one in await self.ask(list[answers.Named], "query-chardev")}

    async def board(self) -> str:
        """Return the board with its version, such as `pc-q35-7.2`."""
        name = await self.ask(str, "qom-get", {"path": "/machine", "property": "type"})
        return name.removesuffix("-machine")

    async def _children(self, path: str) -> Mapping[str, str]:
        children = await self.ask(list[answers.Child], "qom-list", {"path": path})
        kinds = ((child.name, child.type) for child in children)
        return {
            name: kind.removeprefix("child<").removesuffix(">") for name, kind in kinds if kind.startswith("child<")
        }
