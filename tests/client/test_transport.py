import pytest

from nacre.client.api import Nacre
from nacre.client.collection import Query
from nacre.client.transport import check_url, is_loopback
from nacre.errors import (
    ConflictError,
    InvalidInputError,
    NacreError,
    NotFoundError,
    PreconditionError,
    UnauthenticatedError,
    UnavailableError,
)
from nacre.schema.vms import VmCreate, VmUpdate
from support.api_stub import ApiStub

pytestmark = pytest.mark.anyio

DROPPED = (0, b"")


async def test_a_dropped_change_is_sent_again_under_the_same_key(stub: ApiStub, nacre: Nacre) -> None:
    stub.answers = [DROPPED, DROPPED]
    accepted = await nacre.vms.create(VmCreate(name="web", image="tiny"))
    assert accepted.resource.name == "web"
    keys = {headers["Idempotency-Key"] for method, _, _, headers in stub.requests if method == "POST"}
    assert len(stub.requests) == 3
    assert len(keys) == 1


async def test_two_changes_have_different_keys(stub: ApiStub, nacre: Nacre) -> None:
    await nacre.vms.create(VmCreate(name="a", image="tiny"))
    await nacre.vms.create(VmCreate(name="b", image="tiny"))
    assert len({headers["Idempotency-Key"] for _, _, _, headers in stub.requests}) == 2


async def test_a_server_that_is_not_ready_is_asked_again(stub: ApiStub, nacre: Nacre) -> None:
    stub.answers = [stub.problem(503, "starting", "not yet")]
    assert await nacre.vms.all() == []
    assert len(stub.requests) == 2


async def test_a_refusal_is_not_repeated(stub: ApiStub, nacre: Nacre) -> None:
    stub.answers = [stub.problem(409, "port_in_use", "port 8080 is used by web", "choose another port")]
    with pytest.raises(ConflictError) as caught:
        await nacre.vms.create(VmCreate(name="web", image="tiny"))
    assert (caught.value.code, caught.value.hint) == ("port_in_use", "choose another port")
    assert len(stub.requests) == 1


@pytest.mark.parametrize(
    ("status", "kind"), [(400, InvalidInputError), (401, UnauthenticatedError), (412, PreconditionError)]
)
async def test_a_status_becomes_the_error_of_its_kind(
    stub: ApiStub, nacre: Nacre, status: int, kind: type[NacreError]
) -> None:
    stub.answers = [stub.problem(status, "some_code", "some detail")]
    with pytest.raises(kind, match="some detail"):
        await nacre.vms.show("web")


async def test_a_defect_of_the_server_names_its_request(stub: ApiStub, nacre: Nacre) -> None:
    stub.answers = [stub.problem(500, "internal_error", "something went wrong", "try again")]
    with pytest.raises(NacreError) as caught:
        await nacre.vms.show("web")
    assert "req-1" in caught.value.hint


async def test_something_that_is_not_nacre_is_said_to_be_that(stub: ApiStub, nacre: Nacre) -> None:
    stub.answers = [(200, b"<html>hello</html>")]
    with pytest.raises(NacreError, match="not what this version understands") as caught:
        await nacre.vms.show("web")
    assert caught.value.code == "unexpected_answer"


async def test_a_redirect_is_not_followed_so_that_no_token_leaves(stub: ApiStub, nacre: Nacre) -> None:
    stub.answers = [(302, b"")]
    with pytest.raises(NacreError, match="302"):
        await nacre.vms.show("web")
    assert len(stub.requests) == 1


async def test_an_address_where_nobody_listens_is_unreachable() -> None:
    async with Nacre("http://127.0.0.1:1", attempts=2) as nobody:
        with pytest.raises(UnavailableError, match=r"cannot reach http://127\.0\.0\.1:1"):
            await nobody.vms.all()


async def test_a_list_is_read_page_by_page(stub: ApiStub, nacre: Nacre) -> None:
    for number in range(1005):
        stub.add_vm(f"vm{number}")
    assert len(await nacre.vms.all()) == 1005
    assert len(stub.requests) == 2
    assert len(await nacre.vms.all(Query(limit=3))) == 3


async def test_labels_and_filters_narrow_a_list(stub: ApiStub, nacre: Nacre) -> None:
    stub.add_vm("a", labels={"tier": "web", "env": "prod"})
    stub.add_vm("b", labels={"tier": "web"})
    found = await nacre.vms.all(Query(labels={"tier": "web", "env": "prod"}, filters={"phase": "running"}))
    assert [vm.name for vm in found] == ["a"]


async def test_a_name_with_a_slash_stays_one_segment_of_the_path(nacre: Nacre) -> None:
    with pytest.raises(NotFoundError):
        await nacre.vms.show("a/b")


async def test_an_update_may_insist_on_what_was_read(stub: ApiStub, nacre: Nacre) -> None:
    stub.add_vm("web")
    await nacre.vms.update("web", VmUpdate(labels={"a": "b"}), if_match="e1")
    with pytest.raises(PreconditionError):
        await nacre.vms.update("web", VmUpdate(labels={}), if_match="e0")


@pytest.mark.parametrize("url", ["", "127.0.0.1:7480", "ftp://x", "http://", "http://u:p@x", "http://x/?a=b"])
async def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError):
        check_url(url)


async def test_this_host_is_reached_without_a_proxy() -> None:
    assert is_loopback("http://127.0.0.1:7480")
    assert is_loopback("http://[::1]:7480")
    assert is_loopback("http://localhost")
    assert not is_loopback("https://cloud.example.org")
