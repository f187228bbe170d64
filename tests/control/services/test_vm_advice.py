"""Every reason of the scheduler is explained on its page, and comes with something to do."""

import re
from pathlib import Path

import pytest

from nacre.control.services import vm_advice
from nacre.control.services.vm_advice import advice, hint_of
from nacre.model.ids import NodeId
from nacre.model.placement import Decision, Rejection, Strategy

ROOT = Path(__file__).parents[3]
GENERAL = frozenset({"not_enough_memory", "not_enough_cpus", "not_enough_disk"})
"""More room is what the general advice is about."""


def codes() -> list[str]:
    """The codes that the scheduler's source has."""
    sources = (ROOT / "src/nacre/control/scheduler").glob("*.py")
    text = "\n".join(source.read_text() for source in sources)
    conditions = re.findall(r"ConditionKind\.\w+: \(\"(\w+)\"", text)
    return sorted({*re.findall(r'code="(\w+)"', text), *conditions})


def test_there_are_codes() -> None:
    assert len(codes()) > 20


@pytest.mark.parametrize("code", codes())
def test_every_reason_is_on_the_page_and_has_advice(code: str) -> None:
    assert f"`{code}`" in (ROOT / "docs/explanation/scheduling.md").read_text()
    assert code in GENERAL or hint_of(code) != vm_advice.hint_of("anything else")


def test_a_machine_that_has_a_node_needs_no_advice() -> None:
    placed = Decision(node=NodeId("a"), strategy=Strategy.RANDOM, considered=1, fitting=1)
    waits = Decision(
        node=None,
        strategy=Strategy.RANDOM,
        considered=1,
        fitting=0,
        rejected=(Rejection(code="port_in_use", message="port 80 is used", nodes=1),),
    )
    assert advice(placed) == ""
    assert advice(waits).startswith("publish another port")
