"""What users see of scheduling: the policy, explanations, plans and rebalancing, over the API."""

import pytest

from nacre.control.reconcilers.vms import Placer
from nacre.model.units import GIB
from support.api import Api, tiny_image
from support.cloud import facts, make_node
from support.ledger import event_types

pytestmark = pytest.mark.anyio


async def nodes(api: Api, count: int = 2, *, memory: int = 4) -> None:
    db = api.parts.requests.db
    async with db.write() as tx:
        for number in range(1, count + 1):
            await make_node(tx, f"node-{number}", told=facts(memory_bytes=memory * GIB))


async def place(api: Api) -> None:
    await Placer(api.parts.requests.db).once()


async def create(api: Api, name: str, **fields: object) -> dict[str, object]:
    return (await api.make("POST", "/v1/vms", {"name": name, "image": "tiny", **fields}))["resource"]


async def test_the_policy_is_changed_in_parts_and_only_if_it_is_as_it_was_read(api: Api) -> None:
    before = await api.make("GET", "/v1/scheduler")
    assert before["policy"]["strategy"] == "least-loaded"
    assert before["updated_at"] is None
    change = {"strategy": "weighted", "weights": {"cost": 0.5}, "cpu_overcommit": 2}
    after = await api.make("PATCH", "/v1/scheduler", change, headers={"If-Match": before["etag"]})
    assert after["policy"]["weights"] == {**before["policy"]["weights"], "cost": 0.5}
    assert (after["policy"]["cpu_overcommit"], after["policy"]["disk_overcommit"]) == (2, 2)
    async with api.client() as client:
        stale = await client.patch("/v1/scheduler", json=change, headers={"If-Match": before["etag"]})
    assert stale.status_code == 412
    assert await event_types(api.parts.requests.db, "platform") == ["scheduler.updated"]
    assert (await api.make("GET", "/v1/scheduler")) == after


async def test_weights_that_leave_nothing_to_choose_by_are_refused(one_api: Api) -> None:
    zero = dict.fromkeys(("locality", "reliability", "cost", "utilization", "network"), 0)
    async with one_api.client() as client:
        answer = await client.patch("/v1/scheduler", json={"weights": zero})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (400, "no_weights", "weights")


async def test_viewers_see_the_policy_and_administrators_change_it(one_api: Api) -> None:
    viewer = await one_api.user("eve", role="viewer")
    inside = await one_api.user("ida", role="admin", project="default")
    assert (await one_api.make("GET", "/v1/scheduler", token=viewer))["policy"]
    async with one_api.client(viewer) as client:
        assert (await client.patch("/v1/scheduler", json={"strategy": "random"})).status_code == 403
        assert (await client.post("/v1/rebalance", json={})).status_code == 403
    async with one_api.client(inside) as client:
        assert (await client.get("/v1/scheduler")).status_code == 403


async def test_a_changed_overcommit_lets_a_waiting_machine_in(api: Api) -> None:
    await tiny_image(api)
    await nodes(api, 1)
    await create(api, "big", memory_bytes=6 * GIB)
    await place(api)
    assert (await api.make("GET", "/v1/vms/big"))["node"] is None
    await api.make("PATCH", "/v1/scheduler", {"memory_overcommit": 1.5})
    await place(api)
    assert (await api.make("GET", "/v1/vms/big"))["node"]["name"] == "node-1"


async def test_an_explanation_says_why_here_and_not_elsewhere(api: Api) -> None:
    await tiny_image(api)
    await nodes(api, 2)
    await api.make("POST", "/v1/nodes/node-2/cordon")
    await create(api, "web")
    await place(api)
    told = await api.make("GET", "/v1/vms/web/explanation")
    assert (told["code"], told["node"]["name"], told["fresh"]) == ("placed", "node-1", False)
    assert told["decision"]["rejected"] == [{"code": "node_not_ready", "message": "the node is cordoned", "nodes": 1}]
    assert [candidate["name"] for candidate in told["decision"]["candidates"]] == ["node-1"]
    viewer = await api.user("eve", role="viewer", project="default")
    seen = await api.make("GET", "/v1/vms/web/explanation", token=viewer)
    assert seen["decision"]["candidates"] == []
    assert "node-2" not in str(seen)


async def test_the_explanation_of_a_waiting_machine_is_worked_out_now(api: Api) -> None:
    await tiny_image(api)
    await nodes(api, 2)
    await create(api, "big", memory_bytes=8 * GIB)
    await place(api)
    told = await api.make("GET", "/v1/vms/big/explanation")
    assert (told["code"], told["fresh"], told["node"]) == ("not_enough_memory", True, None)
    assert told["decision"]["rejected"][0]["nodes"] == 2
    assert told["hint"]
    async with api.parts.requests.db.write() as tx:
        await make_node(tx, "node-3", told=facts(memory_bytes=16 * GIB))
    told = await api.make("GET", "/v1/vms/big/explanation")
    assert (told["code"], told["decision"]["fitting"]) == ("placed", 1)
    assert told["summary"].startswith("it will be placed in a moment")
    await create(api, "off", start=False)
    assert (await api.make("GET", "/v1/vms/off/explanation"))["code"] == "not_wanted"


async def test_a_plan_changes_nothing_and_counts_in_what_comes_before(api: Api) -> None:
    await tiny_image(api)
    await nodes(api, 2)
    item = {"name": "web", "image": "tiny", "memory_bytes": 3 * GIB, "count": 3}
    planned = await api.make("POST", "/v1/plan", {"machines": [item]})
    assert [machine["name"] for machine in planned["machines"]] == ["web-1", "web-2", "web-3"]
    assert [machine["fits"] for machine in planned["machines"]] == [True, True, False]
    assert {machine["node"]["name"] for machine in planned["machines"][:2]} == {"node-1", "node-2"}
    assert planned["machines"][2]["code"] == "not_enough_memory"
    assert (planned["totals"]["machines"], planned["totals"]["fitting"], planned["totals"]["nodes"]) == (3, 2, 2)
    assert (await api.make("GET", "/v1/vms"))["items"] == []


async def test_a_plan_can_pack_tightly_or_spread(one_api: Api) -> None:
    await tiny_image(one_api)
    await nodes(one_api, 2, memory=8)
    item = {"name": "web", "image": "tiny", "memory_bytes": GIB, "count": 4}
    tight = await one_api.make("POST", "/v1/plan", {"machines": [item], "order": "best-fit"})
    wide = await one_api.make("POST", "/v1/plan", {"machines": [item], "order": "spread-nodes"})
    assert (tight["totals"]["nodes"], wide["totals"]["nodes"]) == (1, 2)


async def test_what_is_wrong_in_a_plan_is_named_with_its_path(one_api: Api) -> None:
    await tiny_image(one_api)
    good, bad = {"name": "a", "image": "tiny"}, {"name": "b", "image": "nothing"}
    async with one_api.client() as client:
        answer = await client.post("/v1/plan", json={"machines": [good, bad]})
        assert (answer.status_code, answer.json()["field"]) == (404, "machines[1].image")
        answer = await client.post("/v1/plan", json={"machines": [{**good, "count": 900}, {**good, "count": 200}]})
        assert answer.json()["code"] == "plan_too_large"
        answer = await client.post("/v1/plan", json={"machines": [{**good, "cores": 1}]})
        assert answer.json()["code"] == "unknown_field"


async def test_a_plan_needs_the_right_to_create(one_api: Api) -> None:
    await tiny_image(one_api)
    viewer = await one_api.user("eve", role="viewer", project="default")
    editor = await one_api.user("ed", role="editor", project="default")
    body = {"machines": [{"name": "a", "image": "tiny"}]}
    async with one_api.client(viewer) as client:
        assert (await client.post("/v1/plan", json=body)).status_code == 403
    planned = await one_api.make("POST", "/v1/plan", body, token=editor)
    assert planned["machines"][0]["node"] is None


async def test_rebalancing_proposes_first_and_moves_when_told_to(api: Api) -> None:
    await tiny_image(api)
    await nodes(api, 1, memory=8)
    for number in range(4):
        await create(api, f"vm-{number}", memory_bytes=GIB)
    await place(api)
    async with api.parts.requests.db.write() as tx:
        await make_node(tx, "node-2", told=facts(memory_bytes=8 * GIB))
    proposed = await api.make("POST", "/v1/rebalance", {"dry_run": True, "min_gain": 0.01})
    assert proposed["moves"]
    assert proposed["spread_after"] < proposed["spread_before"]
    assert {(move["source"]["name"], move["target"]["name"], move["move"]) for move in proposed["moves"]} == {
        ("node-1", "node-2", None)
    }
    assert (await api.make("GET", "/v1/moves"))["items"] == []
    begun = await api.make("POST", "/v1/rebalance", {"min_gain": 0.01, "max_moves": 1})
    (move,) = (await api.make("GET", "/v1/moves"))["items"]
    assert (move["id"], move["reason"], move["pinned"]["name"]) == (begun["moves"][0]["move"], "rebalance", "node-2")


async def test_what_hypervisors_can_do_is_listed_without_names_of_nodes(api: Api) -> None:
    await nodes(api)
    listed = await api.make("GET", "/v1/capabilities")
    (qemu,) = listed["hypervisors"]
    assert (qemu["name"], qemu["nodes"], qemu["available"]) == ("qemu", 2, 2)
    by_name = {one["capability"]: one for one in qemu["capabilities"]}
    assert (by_name["boot.kernel"]["level"], by_name["boot.kernel"]["nodes"]) == ("native", 2)
    assert (by_name["tpm"]["level"], by_name["tpm"]["nodes"]) == ("unsupported", 0)
    assert "node-1" not in str(listed)
