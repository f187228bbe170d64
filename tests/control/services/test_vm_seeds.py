"""What cloud-inits are given: checked, sealed, shown to nobody, and there for the node that runs the machine."""

import msgspec
import pytest
from sqlalchemy import text

from nacre.control.auth.sealing import SealedError, Sealer
from nacre.control.gateway import desired
from nacre.control.store import vm_seeds
from nacre.control.store.db import Database
from nacre.errors import InvalidInputError, NacreError
from nacre.schema.guests import CloudInitBody
from nacre.schema.vms import VmUpdate
from support.cloud import SEALER, Cloud, cloud

pytestmark = pytest.mark.anyio

SECRET = "open-sesame-4711"
GIVEN = {"user_data": f"#cloud-config\npassword: {SECRET}\n", "hostname": "web-1", "password": SECRET}


@pytest.fixture
async def made(database: Database) -> Cloud:
    return await cloud(database)


async def everything(db: Database) -> str:
    """Every text in the database."""
    async with db.read() as rd:
        rows: list[object] = []
        for table in ("vms", "events", "operations", "idempotency_answers"):
            rows += [*await rd.connection.execute(text(f"SELECT * FROM {table}"))]
    return repr(rows)


async def test_only_its_node_gets_it(made: Cloud) -> None:
    shown = await made.running(cloud_init=GIVEN)
    ref = shown.spec.cloud_init
    assert ref is not None
    assert set(ref.parts) == {"user_data", "hostname", "password_hash"}
    (intent,) = (await made.agent.intents()).values()
    assert intent.seed is not None
    assert SECRET in intent.seed.user_data
    assert intent.seed.password_hash.startswith("$6$rounds=")
    assert SECRET not in msgspec.json.encode(shown).decode()
    stored = await everything(made.db)
    assert SECRET not in stored
    assert intent.seed.password_hash not in stored
    async with made.db.read() as rd:
        sealed = await vm_seeds.of(rd, [shown.id])
        assert SECRET.encode() not in sealed[shown.id]
        with pytest.raises(SealedError):
            await desired.load(rd, made.agent.node, Sealer(bytes([1] * 32)))


async def test_the_digest_says_whether_it_is_the_same_and_nothing_else(made: Cloud) -> None:
    one = (await made.create("one", cloud_init={"user_data": "#!/bin/sh\n"})).resource.spec.cloud_init
    same = (await made.create("same", cloud_init={"user_data": "#!/bin/sh\n"})).resource.spec.cloud_init
    other = (await made.create("other", cloud_init={"user_data": "#!/bin/bash\n"})).resource.spec.cloud_init
    assert one == same != other
    assert Sealer(bytes(32)).fingerprint(b"x", "p") != Sealer(bytes([1] * 32)).fingerprint(b"x", "p")


async def test_another_one_waits_for_a_restart_and_none_takes_it_away(made: Cloud) -> None:
    await made.running(cloud_init=GIVEN)
    await made.verb("update", "web", VmUpdate(cloud_init=CloudInitBody(hostname="web-2")), sealer=SEALER)
    assert (await made.vm("web")).restart_required == ("cloud_init",)
    (intent,) = (await made.agent.intents()).values()
    assert intent.seed is not None
    assert (intent.seed.hostname, intent.seed.user_data) == ("web-2", "")
    await made.verb("update", "web", VmUpdate(cloud_init=CloudInitBody()), sealer=SEALER)
    shown = await made.vm("web")
    assert shown.spec.cloud_init is None
    (intent,) = (await made.agent.intents()).values()
    assert intent.seed is None


async def test_it_goes_with_its_machine(made: Cloud) -> None:
    shown = await made.running(cloud_init=GIVEN)
    await made.verb("delete")
    await made.converge()
    async with made.db.read() as rd:
        assert await vm_seeds.of(rd, [shown.id]) == {}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"user_data": "hello"}, "cloud_init.user_data"),
        ({"user_data": "#cloud-config\n- a\n"}, "cloud_init.user_data"),
        ({"user_data": "#cloud-config\na: [" + SECRET}, "cloud_init.user_data"),
        ({"network_config": "- 1"}, "cloud_init.network_config"),
        ({"ssh_keys": ["ssh-ed25519 AAAA", "nonsense"]}, "cloud_init.ssh_keys[1]"),
        ({"meta_data": {"instance-id": "mine"}}, "cloud_init.meta_data.instance-id"),
        ({"password": ""}, "cloud_init.password"),
        ({"password": "a", "password_hash": "$6$a$bbbbbbbb"}, "cloud_init.password"),
        ({"password_hash": "plain"}, "cloud_init.password_hash"),
    ],
)
async def test_what_no_cloud_init_can_read_is_refused_by_its_path(
    made: Cloud, given: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        await made.create(cloud_init=given)
    assert refused.value.field == field
    assert SECRET not in refused.value.message


async def test_without_a_master_key_nothing_is_stored_in_the_clear(made: Cloud) -> None:
    await made.running()
    with pytest.raises(NacreError) as refused:
        await made.verb("update", "web", VmUpdate(cloud_init=CloudInitBody(hostname="web-2")))
    assert refused.value.code == "master_key_missing"
