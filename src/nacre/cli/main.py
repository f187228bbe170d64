"""`nacre`: reads the global options, runs one command, turns errors into exit codes.

Command files are imported only when their word is used, so that help and completion stay quick.
"""

import asyncio
import errno
import inspect
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, TextIO, cast

from cyclopts import App, CycloptsError, Group, Parameter

from nacre.cli import exits, names
from nacre.cli.session import Output, Session
from nacre.cli.verbs import FailuresToldError
from nacre.errors import NacreError

HELP = "A self-hosted private cloud: virtual machines on one elastic pool."
EPILOGUE = (
    "NACRE_URL, NACRE_TOKEN and NACRE_PROJECT override the context; NACRE_CONTEXT chooses one; "
    "NACRE_CONFIG is the file that keeps them.\n\n"
    "What destroys something asks first. In scripts, where there is no terminal to ask on, it does nothing "
    "without --yes, and ends with 2.\n\n" + exits.DOCUMENTED
)

THIS_MACHINE = Group("This machine", sort_key=1)
CLOUD = Group("The cloud", sort_key=2)
ACCESS = Group("Access", sort_key=3)
SHELL = Group("Shell", sort_key=4)
GLOBAL = Group("Global options", sort_key=100)

_COMMANDS: tuple[tuple[str, str, Group, str], ...] = (
    ("up", "nacre.cli.up:up", THIS_MACHINE, "Run a control plane and a node on this machine, in the foreground."),
    ("down", "nacre.cli.down:down", THIS_MACHINE, "Stop what nacre up runs."),
    ("vm", "nacre.cli.vm:app", CLOUD, "Virtual machines."),
    ("template", "nacre.cli.template:app", CLOUD, "Templates, which machines are made from."),
    ("instance-type", "nacre.cli.instance_type:app", CLOUD, "Instance types, which are named sizes of machines."),
    ("volume", "nacre.cli.volume:app", CLOUD, "Disks that outlive machines, and their snapshots."),
    ("pool", "nacre.cli.pool:app", CLOUD, "Storage that volumes are in."),
    ("image", "nacre.cli.image:app", CLOUD, "Images that machines boot from."),
    ("node", "nacre.cli.node:app", CLOUD, "Nodes that run machines."),
    ("hypervisor", "nacre.cli.hypervisor:app", CLOUD, "What runs machines, and what it can do for them."),
    ("failover", "nacre.cli.failover:app", CLOUD, "Lost nodes, and what of theirs is started elsewhere."),
    ("move", "nacre.cli.move:app", CLOUD, "Machines on their way between nodes."),
    ("scheduler", "nacre.cli.scheduler:app", CLOUD, "How the platform places machines."),
    ("plan", "nacre.cli.plan:plan", CLOUD, "Say where machines would go, without creating them."),
    ("rebalance", "nacre.cli.rebalance:rebalance", CLOUD, "Move machines so that the load of nodes becomes more even."),
    ("event", "nacre.cli.event:app", CLOUD, "What happened."),
    ("operation", "nacre.cli.operation:app", CLOUD, "Changes that are under way."),
    ("login", "nacre.cli.login:login", ACCESS, "Log in to a control plane and remember it as a context."),
    ("context", "nacre.cli.context:app", ACCESS, "Control planes that you have logged in to."),
    ("whoami", "nacre.cli.login:whoami", ACCESS, "Say who you are and what you may do."),
    ("project", "nacre.cli.project:app", ACCESS, "Projects, which own machines and images."),
    ("user", "nacre.cli.user:app", ACCESS, "Users."),
    ("grant", "nacre.cli.grant:app", ACCESS, "Roles of users on projects and on the platform."),
    ("token", "nacre.cli.token:app", ACCESS, "API tokens."),
    ("completion", "nacre.cli.completion:completion", SHELL, "Print a completion script for bash, zsh or fish."),
)

_UNWRITABLE = frozenset({errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC})
"""What writing to a standard stream can end with. What else is refused says which file it is about."""


def build() -> App:
    """Return the whole command line."""
    app = App(
        name="nacre",
        help=HELP,
        help_epilogue=EPILOGUE,
        help_format="plaintext",
        version=lambda: version("nacre"),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        help_on_error=False,
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(show_default=_worth_saying),
    )
    for name, path, group, text in _COMMANDS:
        app.command(path, name=name, group=group, help=text)
    app.meta.group_parameters = GLOBAL

    @app.meta.default
    def launch(  # pyright: ignore[reportUnusedFunction]  # called by the framework
        *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        output: Annotated[
            Output, Parameter(name=["--output", "-o"], help="Tables for people, JSON or YAML for programs.")
        ] = "table",
        project: Annotated[
            str | None,
            Parameter(
                name=["--project", "-p"],
                completer=names.projects,
                help="Project that names belong to. Otherwise NACRE_PROJECT, the context's, or default.",
            ),
        ] = None,
        context: Annotated[
            str,
            Parameter(name="--context", completer=names.contexts, help="Context to use instead of the current one."),
        ] = "",
    ) -> int:
        command, bound, ignored = app.parse_args(words, exit_on_error=False, print_error=False)
        session = Session(output=output, project_option=project, context_name=context, environment=os.environ)
        offered: dict[str, object] = {"session": session, "commands": app}
        injected = {name: offered[name] for name in ignored}
        result = command(*bound.args, **bound.kwargs, **injected)
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
        return result if isinstance(result, int) else exits.OK

    return app


def run(words: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Prints errors; never raises."""
    try:
        _open_what_is_closed()
        code = build().meta(words)
        sys.stdout.flush()
    except FailuresToldError as error:
        return error.exit_code
    except NacreError as error:
        exits.report(error)
        return exits.code_of(error)
    except CycloptsError as error:
        exits.complain(_said(error), hint=f"{_path(error)} --help shows what there is")
        return exits.USAGE
    except BrokenPipeError:
        _drop_output()  # whoever read it has seen enough
        return exits.ERROR
    except OSError as error:
        _drop_output()
        what = "cannot write the output: " if error.errno in _UNWRITABLE else ""
        exits.complain(f"{what}{exits.one_line(error.strerror or str(error))}")
        return exits.ERROR
    except (KeyboardInterrupt, EOFError):
        return exits.INTERRUPTED
    return code if isinstance(code, int) else exits.OK


def main() -> None:
    """Entry point of the `nacre` program."""
    sys.exit(run())


def _open_what_is_closed() -> None:
    """Let nothing trip over a stream that was closed before we began. Raises OSError if there is no standard output."""
    streams = cast("dict[str, TextIO | None]", vars(sys))
    if streams["stdin"] is None:
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115  # open as long as we run
    if streams["stderr"] is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # open as long as we run
    if streams["stdout"] is None:
        raise OSError(errno.EBADF, "standard output is closed")


def _drop_output() -> None:
    """Send what is still to be written nowhere, so that the interpreter does not try again when it ends."""
    if cast("TextIO | None", sys.stdout) is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _worth_saying(default: object) -> str | None:
    """The default of an option in help; None for one that means nothing in particular."""
    if default is None or default is False or default in ("", ()):
        return None
    if default is True:
        return "yes"
    return ", ".join(cast("tuple[str, ...]", default)) if isinstance(default, tuple) else str(default)


def _said(error: CycloptsError) -> str:
    """The parser's complaint on one line."""
    return exits.one_line(" ".join(str(error).split()))


def _path(error: CycloptsError) -> str:
    """The words up to the command that did not parse."""
    return " ".join(("nacre", *(error.command_chain or ())))


if __name__ == "__main__":
    main()
