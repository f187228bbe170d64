"""Enrolment tokens: good as often as they say, and never for anyone else."""

import asyncio

import pytest

from nacre.control.services import enrolments, nodes
from nacre.control.services.enrolments import Joining, node_name_of
from nacre.control.services.listing import ListQuery
from nacre.control.store import enrolments as store
from nacre.control.store import nodes as node_store
from nacre.control.store.db import Database
from nacre.control.store.nodes import NodeRow
from nacre.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, UnauthenticatedError
from nacre.lib.clock import ManualClock
from nacre.model.access import Role
from nacre.model.metadata import check_name
from nacre.protocol import join
from nacre.schema.nodes import NodeTokenCreate, NodeTokenCreated, NodeTokenOut
from support.access import user
from support.cloud import by
from support.ledger import event_types, events_of

pytestmark = pytest.mark.anyio

JOINING = Joining(gateway="control:7481", ca="ab" * 32)


async def token(database: Database, **fields: object) -> NodeTokenCreated:
    async with database.write() as tx:
        return await enrolments.create(tx, by("node:enrol"), NodeTokenCreate(**fields), JOINING)  # type: ignore[arg-type]


async def redeem(database: Database, made: NodeTokenCreated, name: str = "host", key: str = "key-1") -> NodeRow:
    async with database.write() as tx:
        return await enrolments.redeem(tx, join.decode(made.join).secret, name, key)


async def test_a_join_string_says_where_whom_to_trust_and_the_secret(database: Database) -> None:
    made = await token(database)
    parts = join.decode(made.join)
    assert (parts.gateway, parts.ca) == (JOINING.gateway, JOINING.ca)
    assert join.decode(made.join).secret not in made.command
    assert made.command == "curl -fsSL http://127.0.0.1:7480/install.sh | sudo sh"


async def test_the_secret_is_nowhere_in_the_database(database: Database) -> None:
    made = await token(database)
    secret = join.decode(made.join).secret
    async with database.read() as rd:
        row = await store.get(rd, made.token.id)
    assert secret not in str(row)
    assert secret not in str(await events_of(database, made.token.id))


async def test_a_token_lets_one_node_in_and_the_same_key_again(database: Database) -> None:
    made = await token(database, region="eu", zone="a")
    node = await redeem(database, made)
    assert (node.name, node.region, node.zone, node.state) == ("host", "eu", "a", "enrolling")
    assert (await redeem(database, made)).id == node.id
    with pytest.raises(UnauthenticatedError) as refused:
        await redeem(database, made, key="key-2")
    assert refused.value.code == "enrolment_token_used"
    seen = await shown(database, made)
    assert (seen.used_by, seen.used, seen.uses) == (node.id, 1, 1)
    assert await event_types(database, node.id) == ["node.enrolled"]


async def shown(database: Database, made: NodeTokenCreated) -> NodeTokenOut:
    async with database.read() as rd:
        return await enrolments.show(rd, by("node:enrol"), made.token.id)


async def test_a_known_key_keeps_its_node_with_a_new_token(database: Database) -> None:
    first = await redeem(database, await token(database))
    newer = await token(database)
    for _ in range(2):
        node = await redeem(database, newer)
        assert (node.id, node.enrolment) == (first.id, newer.token.id)
    assert (await shown(database, newer)).used == 1


async def test_a_token_for_several_nodes_counts_each_of_them_once(database: Database) -> None:
    made = await token(database, uses=2, zone="b")
    first = await redeem(database, made, key="key-1")
    assert (first.zone, first.enrolment) == ("b", made.token.id)
    assert (await redeem(database, made, key="key-1")).id == first.id
    seen = await shown(database, made)
    assert (seen.used, seen.uses, seen.used_by) == (1, 2, first.id)
    second = await redeem(database, made, key="key-2")
    with pytest.raises(UnauthenticatedError) as refused:
        await redeem(database, made, key="key-3")
    assert refused.value.code == "enrolment_token_used"
    assert "all of its 2 nodes" in refused.value.message
    for key, node in (("key-1", first), ("key-2", second)):
        assert (await redeem(database, made, key=key)).id == node.id
    seen = await shown(database, made)
    assert (seen.used, seen.used_by) == (2, second.id)


async def test_of_many_that_race_for_the_last_uses_as_many_win_as_there_are(database: Database) -> None:
    made = await token(database, uses=3)

    async def race(number: int) -> NodeRow | UnauthenticatedError:
        try:
            return await redeem(database, made, f"host-{number}", f"key-{number}")
        except UnauthenticatedError as error:
            return error

    ends = await asyncio.gather(*(race(number) for number in range(8)))
    winners = [end for end in ends if isinstance(end, NodeRow)]
    assert len({node.id for node in winners}) == 3
    assert {end.code for end in ends if isinstance(end, UnauthenticatedError)} == {"enrolment_token_used"}
    assert (await shown(database, made)).used == 3
    async with database.read() as rd:
        assert len(await node_store.every(rd)) == 3


async def test_a_use_is_not_lost_when_the_node_cannot_be_made(database: Database) -> None:
    await redeem(database, await token(database, node_name="rack-1"), key="key-1")
    second = await token(database, node_name="rack-1")
    with pytest.raises(ConflictError):
        await redeem(database, second, key="key-2")
    assert (await shown(database, second)).used == 0


async def test_one_name_for_several_nodes_is_refused(database: Database) -> None:
    with pytest.raises(InvalidInputError) as refused:
        await token(database, uses=2, node_name="rack-1")
    assert (refused.value.code, refused.value.field) == ("name_for_many_nodes", "node_name")


async def test_a_token_that_is_wrong_old_or_revoked_lets_nobody_in(database: Database, clock: ManualClock) -> None:
    async with database.write() as tx:
        with pytest.raises(UnauthenticatedError) as unknown:
            await enrolments.redeem(tx, "guess", "host", "key")
    assert unknown.value.code == "enrolment_token_unknown"
    revoked = await token(database)
    async with database.write() as tx:
        await enrolments.revoke(tx, by("node:enrol"), revoked.token.id)
    with pytest.raises(UnauthenticatedError) as refused:
        await redeem(database, revoked)
    assert refused.value.code == "enrolment_token_revoked"
    old = await token(database, ttl_s=60)
    clock.advance(60)
    with pytest.raises(UnauthenticatedError) as expired:
        await redeem(database, old)
    assert expired.value.code == "enrolment_token_expired"
    assert "nacre node token" in expired.value.hint


async def test_a_removed_node_does_not_come_back_with_its_old_token(database: Database) -> None:
    made = await token(database)
    node = await redeem(database, made)
    async with database.write() as tx:
        await nodes.remove(tx, by("node:delete"), node.id)
    with pytest.raises(UnauthenticatedError) as refused:
        await redeem(database, made)
    assert refused.value.code == "enrolment_token_used"


async def test_two_hosts_of_one_name_become_two_nodes(database: Database) -> None:
    names = [(await redeem(database, await token(database), "Web.Example.org", f"key-{n}")).name for n in range(3)]
    assert names == ["web", "web-2", "web-3"]


async def test_a_token_bound_to_a_name_that_is_taken_lets_nobody_in(database: Database) -> None:
    await redeem(database, await token(database, node_name="rack-1"), key="key-1")
    with pytest.raises(ConflictError) as refused:
        await redeem(database, await token(database, node_name="rack-1"), key="key-2")
    assert refused.value.code == "node_name_taken"


@pytest.mark.parametrize("proposal", ["", "...", "Ümlaut", "a" * 200, "-x-", "node-00000000000000000000000000", "1"])
def test_whatever_a_host_is_called_its_node_gets_a_valid_name(proposal: str) -> None:
    check_name(node_name_of(proposal))


async def test_tokens_are_listed_until_revoked(database: Database) -> None:
    kept, gone = await token(database), await token(database)
    async with database.write() as tx:
        await enrolments.revoke(tx, by("node:enrol"), gone.token.id)
    async with database.write() as tx:
        listed = await enrolments.list_(tx, by("node:enrol"), ListQuery())
        assert [one.id for one in listed.items] == [kept.token.id]
        with pytest.raises(NotFoundError):
            await enrolments.revoke(tx, by("node:enrol"), gone.token.id)


async def test_only_an_administrator_of_the_platform_makes_tokens(database: Database) -> None:
    editor = await user(database, "ed", (Role.EDITOR, "platform"))
    async with database.write() as tx:
        with pytest.raises(ForbiddenError):
            await enrolments.create(tx, by("node:enrol", editor), NodeTokenCreate(), JOINING)


async def test_a_new_local_token_replaces_the_unused_one_before(database: Database) -> None:
    async with database.write() as tx:
        first = await enrolments.issue_local(tx, NodeTokenCreate(), JOINING)
    async with database.write() as tx:
        second = await enrolments.issue_local(tx, NodeTokenCreate(), JOINING)
    with pytest.raises(UnauthenticatedError):
        await redeem(database, first)
    await redeem(database, second)
