"""What is shown of lost nodes."""

from nacre.cli.failover import facts
from nacre.model.ids import NodeId, VmId
from nacre.model.nodes import NodeState
from nacre.schema.failover import FailoverOut, LostNode, WaitingVm


def lost(name: str, **changes: object) -> LostNode:
    about = {"vms": 2, "silent_s": 20.0, "left_s": 16.5, "held": False, "lost_at_once": 1, "of": 3, **changes}
    return LostNode(id=NodeId(f"node-{name}"), name=name, state=NodeState.OFFLINE, **about)


def shown(*nodes: LostNode, queue: int = 0) -> dict[str, str]:
    waiting = [WaitingVm(id=VmId(f"vm-{n}"), name=f"vm-{n}", priority=100, node=NodeId("node-a")) for n in range(queue)]
    held = any(node.held for node in nodes)
    found = FailoverOut(held=held, max_share=0.5, per_s=5, nodes=list(nodes), waiting=queue, queue=waiting)
    return dict(facts(found))


def test_when_nothing_is_lost_it_says_so() -> None:
    assert shown() == {"held": "no", "rate": "5 machines per second", "lost nodes": "none"}


def test_how_long_a_node_is_waited_for() -> None:
    assert shown(lost("a"))["a"] == "offline, may hold its lease for 16 s more; 2 machines to start elsewhere then"
    assert shown(lost("a", left_s=0.0, vms=1))["a"] == "offline; 1 machine to start elsewhere"


def test_what_is_held_back_and_what_to_do_about_it() -> None:
    text = shown(lost("a", left_s=0.0, held=True, lost_at_once=2))
    assert text["a"] == "offline, held back: one of 2 that fell silent, of 3; 2 machines"
    assert "nacre failover confirm" in text["held"]


def test_a_long_queue_is_cut() -> None:
    assert shown(queue=2)["next"] == "vm-0, vm-1"
    assert shown(queue=12)["next"].endswith("vm-9 and 2 more")
