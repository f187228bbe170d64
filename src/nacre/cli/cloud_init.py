"""Options for what a guest's cloud-init is given. Files are read here; secrets never stand on a command line."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from nacre.cli import arguments
from nacre.errors import InvalidInputError
from nacre.schema.guests import CloudInitBody


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Seeding:
    """What the guest starts with."""

    user_data: Annotated[
        str | None, Parameter(name="--user-data", help="File that cloud-init in the guest runs; - for standard input.")
    ] = None
    network_config: Annotated[
        str | None, Parameter(name="--network-config", help="File with cloud-init's network configuration.")
    ] = None
    meta: Annotated[
        tuple[str, ...], Parameter(name="--meta", negative=(), help="Meta-data key=value for cloud-init. Repeatable.")
    ] = ()
    hostname: Annotated[str, Parameter(name="--hostname", help="What the guest calls itself.")] = ""
    user: Annotated[str, Parameter(name="--user", help="Name of the guest's first user.")] = ""
    ssh_key: Annotated[
        tuple[str, ...],
        Parameter(name="--ssh-key", negative=(), help="File with public keys that log in as it. Repeatable."),
    ] = ()
    password_file: Annotated[
        str | None, Parameter(name="--password-file", help="File with its password, hashed by the server; - for stdin.")
    ] = None


NOTHING = Seeding()


def body(given: Seeding) -> CloudInitBody | None:
    """Return what is sent; None if nothing was asked. Raises InvalidInputError for a file that cannot be read."""
    if given == NOTHING:
        return None
    return CloudInitBody(
        user_data=_text(given.user_data, "user-data"),
        network_config=_text(given.network_config, "network-config"),
        meta_data=arguments.labels_like(given.meta, "meta"),
        hostname=given.hostname,
        user=given.user,
        ssh_keys=tuple(key for file in given.ssh_key for key in _keys(_text(file, "ssh-key"))),
        password=None if given.password_file is None else _text(given.password_file, "password-file").rstrip("\r\n"),
    )


def changed(given: Seeding, *, none: bool) -> CloudInitBody | None:
    """Return what is sent to change it; `none` takes all of it away. Raises InvalidInputError."""
    if none and given != NOTHING:
        raise InvalidInputError(
            "said_twice", "--no-cloud-init goes with none of its options", hint="give one or the other"
        )
    return CloudInitBody() if none else body(given)


def _keys(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _text(name: str | None, option: str) -> str:
    return "" if name is None else arguments.text_of(name, option)
