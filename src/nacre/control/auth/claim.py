"""The claim: whoever can read what the server printed or wrote on its host becomes an administrator, once.

`ensure_claim` is called by `main` at every start and makes one while there is no user; `renew_claim` makes one at any
time, for when the last administrator's token is lost. `services.claim` redeems. There is no default password.
"""

import asyncio
import os
from pathlib import Path

from nacre.control.auth import secrets
from nacre.control.store import claims, users
from nacre.control.store.db import Database, Tx

_PREFIX = "nacre_claim_"


async def ensure_claim(db: Database, path: Path) -> str | None:
    """Return the claim to print, which is also in the file `path`; None once there is a user (the file then goes).

    A later start before the claim was redeemed returns the same claim, unless the file is lost: then a new one.
    """
    async with db.write() as tx:
        stored = await claims.get(tx)
        kept = await asyncio.to_thread(_read, path)
        if stored is not None and kept is not None and secrets.matches(kept, stored):
            return kept
        if await users.any_exists(tx):
            await asyncio.to_thread(_remove, path)
            return None
        claim = await _put(tx)
    await asyncio.to_thread(_write, path, claim)
    return claim


async def renew_claim(db: Database, path: Path) -> str:
    """Return a new claim, which is also in the file `path`, whether or not there are users. The old one is void."""
    async with db.write() as tx:
        claim = await _put(tx)
    await asyncio.to_thread(_write, path, claim)
    return claim


async def _put(tx: Tx) -> str:
    claim = _PREFIX + secrets.new_secret()
    await claims.put(tx, secrets.digest(claim))
    return claim


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return None


def _write(path: Path, claim: str) -> None:
    """Replace the file at once, never readable by others."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write(f"{claim}\n")
        file.flush()
        os.fsync(descriptor)
    fresh.replace(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
