"""The commands about scheduling, from the shell to the database and back."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
import structlog

from nacre.cli import exits, explanation, main
from nacre.control.reconcilers.vms import Placer
from nacre.control.store.db import Database
from nacre.model.ids import ProjectId, VmId
from nacre.model.placement import Decision, Strategy
from nacre.model.units import GIB
from nacre.schema.common import ProjectRef
from nacre.schema.scheduling import ExplanationOut, MachineRef
from support.api import Api, api_over, on_a_socket, tiny_image
from support.cloud import facts, make_node
from support.command_line import Ran

pytestmark = pytest.mark.anyio

Nacre = Callable[..., Awaitable[Ran]]

PLAN = """
machines:
  - name: web
    image: tiny
    memory: 3GiB
    count: 2
    placement:
      anti_affinity:
        - labels: {app: web}
    labels: {app: web}
  - {name: db, image: tiny, memory: 8GiB, priority: 200}
"""


@pytest.fixture
async def api(sqlite_database: Database, tmp_path: Path) -> AsyncGenerator[Api]:
    made = await api_over(sqlite_database, tmp_path / "data")
    await tiny_image(made)
    async with sqlite_database.write() as tx:
        for number in (1, 2):
            await make_node(tx, f"node-{number}", told=facts(memory_bytes=4 * GIB))
    async with on_a_socket(made) as url:
        made.url = url
        yield made


@pytest.fixture
def nacre(api: Api, alone: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Nacre:
    """The command line in a thread of its own, logged in. The server's log stays out of what it prints."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    monkeypatch.setenv("NACRE_URL", api.url)
    monkeypatch.setenv("NACRE_TOKEN", api.token)

    async def run(*words: str) -> Ran:
        code = await asyncio.to_thread(main.run, words)
        captured = capfdbinary.readouterr()
        return Ran(code, captured.out.decode(), captured.err.decode())

    return run


async def place(api: Api) -> None:
    await Placer(api.parts.requests.db).once()


async def test_the_policy_is_shown_and_set(nacre: Nacre) -> None:
    shown = await nacre("scheduler", "show")
    assert "least-loaded" in shown.out
    assert "never" in shown.out
    done = await nacre(
        "scheduler", "set", "--strategy", "weighted", "--weight", "locality=.3", "--cpu-overcommit", "2",
        "--reserved-memory", "1GiB",
    )  # fmt: skip
    assert done.code == 0
    policy = json.loads((await nacre("scheduler", "show", "-o", "json")).out)["policy"]
    assert (policy["strategy"], policy["weights"]["locality"], policy["cpu_overcommit"]) == ("weighted", 0.3, 2)
    assert policy["reserved_memory_bytes"] == GIB
    assert (await nacre("scheduler", "set")).code == exits.USAGE
    assert "factors are" in (await nacre("scheduler", "set", "--weight", "luck=1")).err
    assert "cpu_overcommit" in (await nacre("scheduler", "set", "--cpu-overcommit", "100")).err


async def test_explain_tells_scores_rejections_and_what_to_do(nacre: Nacre, api: Api) -> None:
    assert (await nacre("node", "cordon", "node-2")).code == 0
    assert (await nacre("vm", "create", "web", "--image", "tiny")).code == 0
    await place(api)
    told = await nacre("vm", "explain", "web")
    lines = told.out.splitlines()
    assert lines[0] == "web is on node node-1: 1 of 2 nodes can take it"
    assert lines[1].startswith("strategy least-loaded; 2 nodes looked at, 1 could take it; as decided on ")
    assert any(line.startswith("node-1") and line.endswith("chosen") for line in lines)
    assert any(line.split()[:4] == ["1", "of", "2", "node_not_ready"] for line in lines)
    await nacre("vm", "create", "big", "--image", "tiny", "--memory", "16GiB")
    await place(api)
    told = await nacre("vm", "explain", "big")
    assert told.out.startswith("big is on no node: no node can take it: ")
    assert "as of now" in told.out
    assert "what to do: " in told.out
    assert json.loads((await nacre("vm", "explain", "big", "-o", "json")).out)["fresh"] is True


async def test_a_plan_is_a_table_and_its_exit_code_says_whether_all_fits(nacre: Nacre, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    planned = await nacre("plan", "-f", str(tmp_path / "plan.yaml"))
    assert planned.code == exits.ERROR
    lines = planned.out.splitlines()
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["web-1", "yes", lines[1].split()[2]],
        ["web-2", "yes", lines[2].split()[2]],
        ["db", "no", "-"],
    ]
    assert "2 of 3 machines fit, on 2 nodes" in planned.out
    (tmp_path / "small.json").write_text(json.dumps([{"name": "a", "image": "tiny"}]))
    fine = await nacre("plan", "-f", str(tmp_path / "small.json"), "--order", "best-fit")
    assert fine.code == exits.OK
    assert json.loads((await nacre("plan", "-f", str(tmp_path / "small.json"), "-o", "json")).out)["totals"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- {name: a}", "image is missing"),
        ("- {name: a, image: tiny}\n- {name: b, image: tiny, cpus: many}", "machines[1].cpus"),
        ("- {name: a, image: tiny, memory: lots}", "lots"),
        ("- {name: a, image: tiny, placement: {zones: 3}}", "machines[0].placement.zones"),
        ("- {name: a, image: nothing}", "nothing"),
        ("machines: []", "no machines"),
        ("a: [", "neither YAML nor JSON: line 1, column 5: "),
        ("- 3", "machines[0] is not a machine"),
        ("machines: [{name: a, image: tiny}]\nodrer: best-fit", "odrer"),
    ],
)
async def test_what_is_wrong_in_a_plan_is_named(nacre: Nacre, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    planned = await nacre("plan", "-f", str(tmp_path / "plan.yaml"))
    assert planned.code in {exits.USAGE, exits.NOT_FOUND}
    assert says in planned.err


async def test_rebalance_proposes_and_moves(nacre: Nacre, api: Api) -> None:
    assert (await nacre("node", "cordon", "node-2")).code == 0
    for number in range(3):
        await nacre("vm", "create", f"vm-{number}", "--image", "tiny", "--memory", "1GiB")
    await place(api)
    assert (await nacre("node", "uncordon", "node-2")).code == 0
    proposed = await nacre("rebalance", "--dry-run", "--min-gain", "0.01")
    assert "proposed" in proposed.out
    assert "spread of load: " in proposed.out
    done = await nacre("rebalance", "--min-gain", "0.01", "--max-moves", "1", "--yes")
    assert "mov-" in done.out
    assert "nothing to gain" in (await nacre("rebalance", "--dry-run", "--min-gain", "1")).out


async def test_what_a_machine_asks_of_its_place_is_created_shown_and_changed(nacre: Nacre, api: Api) -> None:
    made = await nacre(
        "vm", "create", "web", "--image", "tiny", "--label", "app=web", "--ha", "restart", "--priority", "0",
        "--preemptible", "--apart", "app=web,topology=zone,preferred", "--tolerate", "gpu", "--strategy", "best-fit",
    )  # fmt: skip
    assert made.code == 0, made.err
    await place(api)
    shown = (await nacre("vm", "show", "web")).out
    assert "apart from app=web by zone (preferred)" in shown
    assert "tolerates gpu" in shown
    assert "0, may be stopped to make room" in shown
    assert "2 of 2 nodes can take it" in shown
    assert (await nacre("vm", "update", "web", "--zone", "a", "--ha", "none", "--no-preemptible")).code == 0
    spec = json.loads((await nacre("vm", "show", "web", "-o", "json")).out)["spec"]
    assert (spec["ha"], spec["preemptible"], spec["placement"]["zones"]) == ("none", False, ["a"])
    assert spec["placement"]["strategy"] == "best-fit"
    assert (await nacre("vm", "update", "web", "--anywhere")).code == 0
    spec = json.loads((await nacre("vm", "show", "web", "-o", "json")).out)["spec"]
    assert spec["placement"]["zones"] == spec["placement"]["anti_affinity"] == []


@pytest.mark.parametrize("words", [("scheduler", "set", "--cpu-overcommit", "nan"), ("rebalance", "--min-gain", "nan")])
async def test_what_is_no_number_changes_nothing(nacre: Nacre, words: tuple[str, ...]) -> None:
    ran = await nacre(*words, "--yes") if words[0] == "rebalance" else await nacre(*words)
    assert (ran.code, "nan is not" in ran.err) == (exits.USAGE, True)


def test_a_decision_of_which_nobody_knows_when_it_was_made_is_shown_without(capsys: pytest.CaptureFixture[str]) -> None:
    decision = Decision(node=None, strategy=Strategy.LEAST_LOADED, considered=2, fitting=1)
    vm = MachineRef(
        id=VmId("vm-" + "0" * 26), name="web", project=ProjectRef(id=ProjectId("prj-" + "0" * 26), name="p")
    )
    explanation.show(
        ExplanationOut(vm=vm, node=None, code="placed", summary="it fits", hint="", fresh=False, decision=decision)
    )
    assert capsys.readouterr().out.splitlines()[1] == "strategy least-loaded; 2 nodes looked at, 1 could take it"
