"""Who may come in, and that no route forgets to ask."""

import pytest
from litestar import get
from structlog.testing import capture_logs

from nacre.control.api.access import UndeclaredRouteError
from nacre.control.api.calls import TheCall
from nacre.control.api.routes import ROUTES, build, serve
from support.api import Api

pytestmark = pytest.mark.anyio


@get("/v1/undeclared")
async def undeclared() -> None:
    """Says nothing about who may call it."""


@get("/v1/misspelt", opt={"action": "vm:strat"})
async def misspelt() -> None:
    """Names an action that is not in the table."""


@get("/v1/both", opt={"action": "vm:start", "public": True})
async def both() -> None:
    """Cannot make up its mind."""


@get("/v1/unchecked", opt={"action": "vm:view"})
async def unchecked(call: TheCall) -> None:
    """Reads without asking the policy."""

    async def nothing(_rd: object, _caller: object) -> None:
        return None

    await call.context.read(nothing)


@pytest.mark.parametrize("route", [undeclared, misspelt, both])
async def test_a_route_that_does_not_say_who_may_call_it_stops_the_server(route: object) -> None:
    with pytest.raises(UndeclaredRouteError, match="/v1/"):
        build(None, (*ROUTES, route))  # type: ignore[arg-type]


async def test_a_request_whose_service_never_asked_is_a_logged_defect(one_api: Api) -> None:
    one_api.asgi = serve(one_api.parts, (*ROUTES, unchecked))
    with capture_logs() as logs:
        async with one_api.client() as client:
            answer = await client.get("/v1/unchecked")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert any(line["event"] == "http.defect" for line in logs)


@pytest.mark.parametrize("header", [None, "Basic abc", "Bearer ", "Bearer nonsense", "Bearer nacre_" + "0" * 26])
async def test_a_request_without_a_good_token_is_refused_with_the_way_in(one_api: Api, header: str | None) -> None:
    async with one_api.client("") as client:
        answer = await client.get("/v1/projects", headers={} if header is None else {"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["code"] in {"token_missing", "token_unknown"}
    assert answer.json()["hint"]


async def test_a_revoked_token_opens_nothing(api: Api) -> None:
    made = await api.make("POST", "/v1/tokens", {"name": "second"})
    async with api.client(made["secret"]) as client:
        assert (await client.get("/v1/me")).json()["token"]["name"] == "second"
        await api.make("DELETE", f"/v1/tokens/{made['token']['id']}")
        answer = await client.get("/v1/me")
    assert (answer.status_code, answer.json()["code"]) == (401, "token_revoked")


async def test_a_token_for_some_actions_is_not_good_for_others(api: Api) -> None:
    made = await api.make("POST", "/v1/tokens", {"name": "narrow", "actions": ["project:view", "project:list"]})
    async with api.client(made["secret"]) as client:
        assert (await client.get("/v1/projects/default")).status_code == 200
        answer = await client.post("/v1/projects", json={"name": "x"})
    assert (answer.status_code, answer.json()["code"]) == (403, "token_not_for_action")


async def test_a_token_of_one_project_sees_no_other(api: Api) -> None:
    await api.make("POST", "/v1/projects", {"name": "web"})
    made = await api.make("POST", "/v1/tokens", {"name": "bound", "project": "web"})
    async with api.client(made["secret"]) as client:
        assert (await client.get("/v1/projects/web")).status_code == 200
        assert (await client.get("/v1/projects/default")).status_code == 404
        assert (await client.get("/v1/vms", params={"project": "default"})).status_code == 404


async def test_the_claim_works_once(api: Api) -> None:
    async with api.client("") as client:
        answer = await client.post("/v1/claim", json={"claim": "nacre_claim_guess"})
    assert (answer.status_code, answer.json()["code"]) == (401, "claim_used")


async def test_a_secret_is_not_kept_to_be_shown_again(api: Api) -> None:
    async with api.client() as client:
        headers = {"Idempotency-Key": "token"}
        first = await client.post("/v1/tokens", json={"name": "ci"}, headers=headers)
        assert first.status_code == 201
        again = await client.post("/v1/tokens", json={"name": "ci"}, headers=headers)
    assert (again.status_code, again.json()["code"]) == (409, "secret_shown_once")
    assert first.json()["secret"] not in again.text


async def test_an_entity_tag_where_none_is_compared_is_refused(one_api: Api) -> None:
    async with one_api.client() as client:
        answer = await client.post("/v1/projects", json={"name": "x"}, headers={"If-Match": '"1"'})
    assert (answer.status_code, answer.json()["code"]) == (400, "if_match_not_supported")


@pytest.mark.parametrize("key", ["", "x" * 256, "ü", "a\tb"])
async def test_an_idempotency_key_that_is_none_is_refused(one_api: Api, key: str) -> None:
    async with one_api.client() as client:
        answer = await client.post("/v1/projects", json={"name": "x"}, headers=[(b"idempotency-key", key.encode())])
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_idempotency_key")


async def test_roles_and_users_are_managed_over_the_api(api: Api) -> None:
    token = await api.user("ann", role="viewer")
    async with api.client(token) as client:
        me = (await client.get("/v1/me")).json()
        assert me["user"]["name"] == "ann"
        assert [grant["role"] for grant in me["grants"]] == ["viewer"]
        assert (await client.post("/v1/users", json={"name": "bob"})).status_code == 403
    async with api.client() as client:
        grant = me["grants"][0]["id"]
        assert (await client.get(f"/v1/grants/{grant}")).json()["user_name"] == "ann"
        assert [g["id"] for g in (await client.get("/v1/grants", params={"role": "viewer"})).json()["items"]] == [grant]
        assert (await client.delete(f"/v1/grants/{grant}")).status_code == 204
        names = [user["name"] for user in (await client.get("/v1/users", params={"sort": "name"})).json()["items"]]
        assert names == ["admin", "ann"]
        assert (await client.delete("/v1/users/ann")).status_code == 204
        assert (await client.delete("/v1/users/admin")).json()["code"] == "last_admin"
    async with api.client(token) as client:
        assert (await client.get("/v1/me")).status_code == 401
