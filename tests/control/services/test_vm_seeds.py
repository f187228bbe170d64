"""What cloud-inits are given: checked, sealed, shown to nobody, and there for the node that runs the machine."""

import msgspec
import pytest
from sqlalchemy import text

from nacre.control.auth.sealing import SealedError, Sealer
from nacre.control.gateway import desired
from nacre.control.services import previews
from nacre.control.store import vm_seeds
from nacre.control.store.db import Database
from nacre.errors import InvalidInputError, NacreError
from nacre.model.templates import Layer
from nacre.schema.guests import CloudInitBody
from nacre.schema.templates import TemplateCreate
from nacre.schema.vms import VmCreate, VmUpdate
from support.cloud import SEALER, Cloud, by, cloud
from support.templates import make_template

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


async def test_of_several_at_once_each_has_its_own_and_the_name_of_its_machine(made: Cloud) -> None:
    accepted = await made.create("web-{n}", count=2, cloud_init={"password": SECRET})
    await made.converge()
    intents = await made.agent.intents()
    seeds = {intents[vm].name: intents[vm].seed for vm in intents}
    assert {name: seed and seed.hostname for name, seed in seeds.items()} == {"web-1": "web-1", "web-2": "web-2"}
    async with made.db.read() as rd:
        sealed = await vm_seeds.of(rd, list(intents))
    assert len(set(sealed.values())) == 2
    assert [one.resource.spec.cloud_init for one in accepted.more] == [accepted.resource.spec.cloud_init]


async def test_a_preview_says_that_it_is_given_and_not_what(made: Cloud) -> None:
    body = msgspec.convert({"name": "web", "image": "tiny", "cloud_init": GIVEN}, VmCreate)
    async with made.db.write() as tx:
        seen = await previews.of_request(tx, by("vm:plan"), body, sealer=SEALER)
    assert seen.spec is not None
    assert seen.spec.cloud_init is not None
    assert set(seen.spec.cloud_init.parts) == {"user_data", "hostname", "password_hash"}
    assert [field.layer for field in seen.fields if field.path == "cloud_init"] == [Layer.REQUEST]
    assert SECRET not in msgspec.json.encode(seen).decode()


async def test_no_template_has_any(made: Cloud) -> None:
    with pytest.raises(msgspec.ValidationError, match="cloud_init"):
        msgspec.convert({"name": "shop", "config": {"cloud_init": GIVEN}}, TemplateCreate)
    await made.running(cloud_init=GIVEN)
    template = await make_template(made.db, from_vm="web")
    assert "cloud_init" not in msgspec.to_builtins(template.config)
    async with made.db.read() as rd:
        found = await previews.difference(rd, by("template:view"), "shop", other=None, vm="web")
    assert found.differences == ()


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
