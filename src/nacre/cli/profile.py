"""Contexts: which control plane, as whom, in which project. Kept in one file that only its owner can read.

Used by `login`, `context` and the session. The environment (`NACRE_URL`, `NACRE_TOKEN`, `NACRE_PROJECT`) overrides it.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from nacre.errors import InvalidInputError, NotFoundError
from nacre.lib import files


class Context(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One way to reach one control plane."""

    url: str
    token: str
    project: str = ""
    ca: str = ""
    """File with the certificate authority of the URL, if the system does not know it."""


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    current: str = ""
    contexts: dict[str, Context] = {}

    def context(self, name: str = "") -> Context | None:
        """Return a context by name, or the current one; None if there is no current one. Raises NotFoundError."""
        name = name or self.current
        if not name:
            return None
        found = self.contexts.get(name)
        if found is None:
            raise NotFoundError(
                "no_such_context",
                f"there is no context {name!r}",
                hint=f"there are: {', '.join(sorted(self.contexts))}" if self.contexts else "make one with nacre login",
            )
        return found

    def put(self, name: str, context: Context) -> "Profile":
        """Return the profile with this context added or replaced, and current."""
        return Profile(current=name, contexts={**self.contexts, name: context})

    def use(self, name: str) -> "Profile":
        """Return the profile with another current context. Raises NotFoundError."""
        self.context(name)
        return Profile(current=name, contexts=self.contexts)

    def without(self, name: str) -> "Profile":
        """Return the profile without a context. Raises NotFoundError."""
        self.context(name)
        left = {key: value for key, value in self.contexts.items() if key != name}
        return Profile(current="" if self.current == name else self.current, contexts=left)


def location(environment: Mapping[str, str]) -> Path:
    """Where the profile is kept."""
    if environment.get("NACRE_CONFIG"):
        return Path(environment["NACRE_CONFIG"])
    base = environment.get("XDG_CONFIG_HOME") or str(Path(environment.get("HOME") or "~").expanduser() / ".config")
    return Path(base) / "nacre" / "config.toml"


def load(path: Path) -> Profile:
    """Read the profile; an empty one if there is no file. Raises InvalidInputError."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Profile)
    except FileNotFoundError:
        return Profile()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InvalidInputError(
            "unreadable_profile",
            f"{path}: {error}",
            hint="mend the file, or remove it and log in again with nacre login",
        ) from error


def save(path: Path, profile: Profile) -> None:
    """Write the profile in one step, readable by its owner only. Raises InvalidInputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.write_atomically(path, render(profile).encode(), mode=0o600)
    except OSError as error:
        raise InvalidInputError(
            "unwritable_profile", f"{path}: {error.strerror}", hint="make the folder writable, or set NACRE_CONFIG"
        ) from error


def render(profile: Profile) -> str:
    """Return the profile as TOML."""
    lines = [f"current = {_quoted(profile.current)}"] if profile.current else []
    for name, context in sorted(profile.contexts.items()):
        lines += ["", f"[contexts.{_quoted(name)}]"]
        lines += [f"{key} = {_quoted(value)}" for key, value in msgspec.to_builtins(context).items()]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are a subset of TOML's (https://toml.io/en/v1.0.0#string)."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
