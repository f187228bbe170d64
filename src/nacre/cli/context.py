"""`nacre context …`: the control planes that one has logged in to."""

from pathlib import Path

from cyclopts import App
from msgspec.structs import replace

from nacre.cli import arguments, output, profile
from nacre.cli.exits import PROJECT_NOT_FOUND, note, one_line
from nacre.cli.options import ContextName, Yes
from nacre.cli.output import Column
from nacre.cli.session import Here
from nacre.cli.verbs import confirm
from nacre.errors import NacreError, NotFoundError
from nacre.schema.common import Out

ALL_PROJECTS = "*"

app = App(name="context", help="Control planes that you have logged in to.")


class ContextShown(Out, frozen=True, kw_only=True):
    """A context without its secret."""

    name: str
    url: str
    project: str
    current: bool
    ca: str = ""


COLUMNS: list[Column[ContextShown]] = [
    Column("", lambda context: "*" if context.current else ""),
    Column("NAME", lambda context: context.name),
    Column("URL", lambda context: context.url),
    Column("PROJECT", lambda context: context.project or "default"),
]


@app.command(name="list")
def list_(*, session: Here) -> None:
    """List contexts; the current one has a star."""
    known = profile.load(session.profile_path)
    found = [_shown(known, name) for name in sorted(known.contexts)]
    output.items(session, found, COLUMNS, empty="no contexts yet: nacre login URL makes one")


@app.command
async def use(name: ContextName, /, *, session: Here) -> None:
    """Make a context the current one. With --project, names belong to that project from now on."""
    known = profile.load(session.profile_path).use(name)
    if session.project_option is not None:
        chosen = replace(known.contexts[name], project=session.project_option)
        if chosen.project not in {"", ALL_PROJECTS}:
            await _check_project(chosen)
        known = known.put(name, chosen)
    profile.save(session.profile_path, known)
    output.outcome(session, [_shown(known, name)], _using)


@app.command
def show(name: ContextName = "", /, *, session: Here) -> None:
    """Show a context, or the current one. Its token is not shown."""
    known = profile.load(session.profile_path)
    chosen = name or known.current
    if known.context(chosen) is None:
        raise NotFoundError("no_current_context", "there is no current context", hint="nacre login URL makes one")
    output.details(session, [_shown(known, chosen)], facts)


@app.command
def delete(name: ContextName, /, *, yes: Yes = False, session: Here) -> None:
    """Forget a context and its token. The token stays valid: nacre token revoke ends it."""
    known = profile.load(session.profile_path).without(name)
    confirm(session, f"forget {name}?", yes=yes)
    profile.save(session.profile_path, known)
    output.outcome(session, [name], lambda gone: f"{gone}: forgotten")


def facts(context: ContextShown) -> list[tuple[str, str]]:
    """Return everything about a context that is no secret."""
    return [
        ("name", context.name),
        ("url", context.url),
        ("project", context.project or "default"),
        ("authority", context.ca),
        ("current", "yes" if context.current else "no"),
    ]


async def _check_project(context: profile.Context) -> None:
    """Raise NotFoundError if its control plane can be asked and knows of no such project."""
    from nacre.client.api import Nacre

    ref = arguments.ref(context.project, "project")
    try:
        ca = Path(context.ca) if context.ca else None
        async with Nacre(context.url, context.token or None, ca=ca, attempts=1) as nacre:
            await nacre.projects.show(ref)
    except NacreError as error:
        if error.code == PROJECT_NOT_FOUND:
            raise
        note(f"whether there is a project {ref} could not be checked: {one_line(error.message)}")


def _using(context: ContextShown) -> str:
    return f"using {context.name} ({context.url}{f', project {context.project}' if context.project else ''})"


def _shown(known: profile.Profile, name: str) -> ContextShown:
    context = known.contexts[name]
    return ContextShown(
        name=name, url=context.url, project=context.project, ca=context.ca, current=known.current == name
    )
