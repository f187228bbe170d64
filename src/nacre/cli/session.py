"""What a command runs with: the control plane it talks to, the project, how to print. Made once by `main`."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from nacre.cli import profile
from nacre.errors import UnauthenticatedError

if TYPE_CHECKING:
    from nacre.client.api import Nacre

Output = Literal["table", "json", "yaml"]
DEFAULT_PROJECT = "default"


@dataclass(frozen=True, kw_only=True)
class Session:
    """Options and environment of one run of the command line."""

    output: Output
    project_option: str | None
    """What `--project` said, and only that."""
    context_name: str
    environment: Mapping[str, str]

    @property
    def profile_path(self) -> Path:
        """Where contexts are kept."""
        return profile.location(self.environment)

    def context(self) -> profile.Context:
        """Where to connect and as whom: the environment first, then the chosen context. Raises NacreError."""
        url, token = self.environment.get("NACRE_URL", ""), self.environment.get("NACRE_TOKEN", "")
        found = profile.load(self.profile_path).context(self.context_name or self.environment.get("NACRE_CONTEXT", ""))
        if found is None and not url:
            raise UnauthenticatedError(
                "not_logged_in",
                "not logged in to any control plane",
                hint="nacre login URL, or set NACRE_URL and NACRE_TOKEN",
            )
        if found is None or (url and url.rstrip("/") != found.url):
            # A stored token belongs to its own URL and is shown to no other.
            return profile.Context(url=url, token=token)
        return profile.Context(url=found.url, token=token or found.token, project=found.project, ca=found.ca)

    @property
    def project(self) -> str:
        """The project that names belong to."""
        chosen = self.project_option or self.environment.get("NACRE_PROJECT")
        return chosen or self.context().project or DEFAULT_PROJECT

    @property
    def chosen_project(self) -> str | None:
        """The project that somebody asked for, by option, environment or context; None for all that may be seen."""
        chosen = self.project_option or self.environment.get("NACRE_PROJECT") or self.context().project
        return None if chosen == "*" else chosen or None

    def client(self) -> "Nacre":
        """Return a client for the chosen control plane. Raises NacreError."""
        from nacre.client.api import Nacre  # here, so that help and completion scripts need no HTTP client

        context = self.context()
        return Nacre(context.url, context.token or None, ca=Path(context.ca) if context.ca else None)

    @property
    def interactive(self) -> bool:
        """Whether a person sits at both ends: questions may be asked."""
        return sys.stdin.isatty() and sys.stderr.isatty()


Here = Annotated[Session, Parameter(parse=False)]
"""How a command asks for its session."""
