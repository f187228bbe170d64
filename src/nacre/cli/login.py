"""`nacre login`: turn a claim or a token into a context. `nacre whoami`: what that context is worth."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter
from msgspec.structs import replace

from nacre.cli import arguments, output, profile
from nacre.cli.exits import note, one_line
from nacre.cli.output import moment
from nacre.cli.session import DEFAULT_PROJECT, Here, Session
from nacre.errors import InvalidInputError, NacreError
from nacre.model.access import PLATFORM
from nacre.schema.access import ClaimBody, MeOut

if TYPE_CHECKING:
    from nacre.client.api import Nacre

LOCAL_CONTEXT = "local"
FROM_STDIN = "-"
SHOWN_PROJECTS = 10


async def login(
    url: Annotated[str, Parameter(help="Address of the control plane, such as http://127.0.0.1:7480.")],
    /,
    *,
    claim: Annotated[
        str | None,
        Parameter(help="The one-time claim of the first start; - reads it from stdin.", allow_leading_hyphen=True),
    ] = None,
    claim_file: Annotated[Path | None, Parameter(help="File with the one-time claim.")] = None,
    token: Annotated[
        str | None, Parameter(help="An API token; - reads it from stdin.", allow_leading_hyphen=True)
    ] = None,
    user: Annotated[str, Parameter(help="With a claim: name of the administrator to be.")] = "admin",
    name: Annotated[str | None, Parameter(help="Name of the context; otherwise made from the URL.")] = None,
    ca: Annotated[Path | None, Parameter(help="Certificate authority of an https URL.")] = None,
    session: Here,
) -> None:
    """Log in to a control plane and make it the current context."""
    from nacre.client.api import Nacre
    from nacre.client.transport import check_url, is_loopback

    url = check_url(url)
    context_name = arguments.new_name(name) if name else context_name_of(url)
    if urlsplit(url).scheme == "http" and not is_loopback(url):
        note(f"warning: {url} is not encrypted: whoever is on the way can read the token")
    claim = _given(claim, claim_file)
    secret = "" if claim else _token(session, token)
    if claim:
        async with Nacre(url, ca=ca) as nacre:
            secret = (await nacre.access.claim(ClaimBody(claim=claim, user_name=arguments.new_name(user)))).secret
    made = profile.Context(
        url=url, token=secret, project=session.project_option or "", ca=str(ca.absolute()) if ca else ""
    )
    known = profile.load(session.profile_path)
    if claim:  # a claim works once: keep what it gave before anything else can fail
        profile.save(session.profile_path, known.put(context_name, made))
    async with Nacre(url, secret, ca=ca) as nacre:
        me = await nacre.access.me()
        if session.project_option is None:
            made = replace(made, project=_usual_project(context_name, await _projects(nacre, me)))
    profile.save(session.profile_path, known.put(context_name, made))
    where = f"context {context_name}" + (f", project {made.project}" if made.project else "")
    output.outcome(session, [me], lambda found: f"logged in to {url} as {found.user.name} ({where})")


async def whoami(*, session: Here) -> None:
    """Say who you are and what you may do."""
    async with session.client() as nacre:
        me = await nacre.access.me()
    output.details(session, [me], facts)


def facts(me: MeOut) -> list[tuple[str, str]]:
    """Return who the caller is, in words."""
    roles = [f"{grant.role} on {grant.project.name if grant.project else PLATFORM}" for grant in me.grants]
    return [
        ("user", me.user.name),
        ("id", me.user.id),
        ("token", f"{me.token.name} ({me.token.id})"),
        ("good until", moment(me.token.expires_at)),
        ("may do", ", ".join(me.token.actions)),
        ("roles", "\n".join(roles) or "none"),
    ]


def context_name_of(url: str) -> str:
    """Return a name for the context of a URL: `local` for this machine, otherwise its host."""
    from nacre.client.transport import is_loopback

    host = urlsplit(url).hostname or ""
    return LOCAL_CONTEXT if is_loopback(url) else "".join(c if c.isalnum() else "-" for c in host)[:63].strip("-")


async def _projects(nacre: "Nacre", me: MeOut) -> list[str]:
    """Names of the projects that the caller can use; none if they cannot be known."""
    if me.token.project is not None:
        return [me.token.project.name]
    try:
        return sorted(project.name for project in await nacre.projects.all())
    except NacreError:  # a token that is not for listing them; the login is good all the same
        return []


def _usual_project(context_name: str, projects: list[str]) -> str:
    """The project that names belong to if nothing else is said; empty for the default. Says so where it is open."""
    if not projects or DEFAULT_PROJECT in projects:
        return ""
    if len(projects) > 1:
        shown = ", ".join(projects[:SHOWN_PROJECTS]) + (", …" if len(projects) > SHOWN_PROJECTS else "")
        note(f"you have access to the projects {one_line(shown)}; choose one:")
        note(f"  nacre context use {context_name} --project {one_line(projects[0])}")
        return ""
    return projects[0]


def _given(claim: str | None, claim_file: Path | None) -> str | None:
    if claim_file is not None:
        try:
            return claim_file.read_text().strip()
        except OSError as error:
            raise InvalidInputError(
                "unreadable_claim",
                f"{claim_file}: {error.strerror}",
                hint="is the claim used already? log in with --token",
            ) from error
    return sys.stdin.readline().strip() if claim == FROM_STDIN else claim


def _token(session: Session, token: str | None) -> str:
    """The token from where it was given: option, stdin, environment, or a question."""
    if token == FROM_STDIN:
        return sys.stdin.readline().strip()
    found = token or session.environment.get("NACRE_TOKEN")
    if found:
        return found
    if not session.interactive:
        raise InvalidInputError(
            "no_credential", "neither a claim nor a token is given", hint="use --claim, --token, or --token - for stdin"
        )
    from getpass import getpass

    return getpass("token: ").strip()
