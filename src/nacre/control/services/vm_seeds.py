"""What machines' cloud-inits are given: taken, sealed at once, and opened only for the node that runs the machine.

Specs, events and answers have a `SeedRef` of it, which says what is there and nothing of what it is.
"""

from collections.abc import Collection

import msgspec

from nacre.control.auth.sealing import Sealer, needed
from nacre.control.store import vm_seeds as store
from nacre.control.store.db import Read, Tx
from nacre.errors import InvalidInputError
from nacre.lib.passwords import new_salt, sha512_crypt
from nacre.model.guests import CloudInit, SeedRef, check_cloud_init
from nacre.model.ids import VmId
from nacre.schema.guests import CloudInitBody

FIELD = "cloud_init"
_PURPOSE = "cloud-init"


def taken(body: CloudInitBody) -> CloudInit:
    """Return what was asked, checked and with its password hashed. Raises InvalidInputError. Slow if there is one."""
    if body.password is not None and body.password_hash:
        raise InvalidInputError(
            "password_given_twice",
            "there are a password and the hash of one",
            hint="give one of them",
            field=f"{FIELD}.password",
        )
    if body.password is not None and (not body.password or not body.password.isprintable()):
        raise InvalidInputError(
            "invalid_password",
            "a password is one line of text",
            hint="use letters and digits",
            field=f"{FIELD}.password",
        )
    hashed = body.password_hash if body.password is None else sha512_crypt(body.password, new_salt())
    return check_cloud_init(
        CloudInit(
            user_data=body.user_data,
            meta_data=body.meta_data,
            network_config=body.network_config,
            hostname=body.hostname,
            user=body.user,
            ssh_keys=tuple(key.strip() for key in body.ssh_keys),
            password_hash=hashed,
        ),
        FIELD,
    )


def ref_of(given: CloudInit, sealer: Sealer | None) -> SeedRef | None:
    """Return what may be shown of it; None if there is nothing."""
    if not given.parts:
        return None
    return SeedRef(
        digest=needed(sealer).fingerprint(msgspec.json.encode(given, order="deterministic"), _PURPOSE),
        parts=given.parts,
        hostname=given.hostname,
        user=given.user,
    )


async def keep(tx: Tx, vm: VmId, given: CloudInit, sealer: Sealer | None) -> None:
    """Store what a machine is given. Who it is does not change with that."""
    before = (await opened(tx, [vm], sealer)).get(vm)
    if before is not None and before.identity:
        given = msgspec.structs.replace(given, identity=before.identity, random_seed=before.random_seed)
    wanted = given.parts or given.identity
    sealed = needed(sealer).seal(msgspec.json.encode(given), _purpose(vm)) if wanted else None
    await store.put(tx, vm, sealed)


async def opened(rd: Read, among: Collection[VmId], sealer: Sealer | None) -> dict[VmId, CloudInit]:
    """Return what these machines are given, for the node that runs them. Raises SealedError."""
    sealed = await store.of(rd, among)
    return {
        vm: msgspec.json.decode(needed(sealer).open(content, _purpose(vm)), type=CloudInit)
        for vm, content in sealed.items()
    }


def _purpose(vm: VmId) -> str:
    return f"{_PURPOSE} {vm}"
