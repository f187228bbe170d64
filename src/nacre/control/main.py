"""`nacre-control`: the control plane as a program. REST API, gateway, reconcilers and doorbells in one event loop.

Exit codes: 0 after SIGTERM or SIGINT, 1 when something broke, 2 for settings that cannot be used.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

import structlog
import uvicorn
import uvloop

from nacre.control.app import Control, control_plane, opened
from nacre.control.auth.claim import renew_claim
from nacre.control.settings import Settings, load
from nacre.control.wake import EVENTS, OPERATIONS
from nacre.errors import ConflictError, NacreError
from nacre.lib import logs
from nacre.lib.configuration import split_address
from nacre.lib.limits import allow_files, collect_rarely

log = structlog.get_logger()

GRACE_S = 3
"""How long requests that are being answered may take once we stop."""
GIVE_UP_S = 12.0
"""After this the program leaves, whatever still hangs."""
IDLE_CONNECTION_S = 75
MAX_CONSOLE_MESSAGE = 1 << 20
BACKLOG = 1024
SECRET_SETTINGS = frozenset({"database"})
"""May hold a password: not taken from the command line, where every user of the machine can read it."""


def main() -> None:
    """Run the program. Called by the `nacre-control` script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run the program with these arguments and return its exit code."""
    try:
        settings, new_claim = _read(arguments)
    except NacreError as error:
        _complain(error)
        return 2
    logs.set_up(settings.log_level, program="nacre-control")
    allow_files()
    os.umask(0o077)  # whatever is written holds secrets or belongs to tenants
    try:
        if new_claim:
            asyncio.run(write_claim(settings))
            return 0
        with listening(settings) as listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings, listener))
    except NacreError as error:
        _complain(error)
        return 1
    except BaseExceptionGroup as group:
        log.error("control.failed", exc_info=group)  # noqa: TRY400 - the group is the traceback
        return 1
    return 0


def read_settings(arguments: Sequence[str]) -> Settings:
    """Return the settings of a command line and the environment. Raises InvalidInputError."""
    return _read(arguments)[0]


def _read(arguments: Sequence[str]) -> tuple[Settings, bool]:
    """Return the settings, and whether a new claim is all that is wanted."""
    parser = argparse.ArgumentParser(
        prog="nacre-control", description="The control plane of Nacre.", allow_abbrev=False
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML")
    parser.add_argument(
        "--new-claim", action="store_true", help="write a new one-time claim for an administrator, print where, and end"
    )
    for name in Settings.__struct_fields__:
        if name not in SECRET_SETTINGS:
            parser.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", default=None)
    given: dict[str, object] = vars(parser.parse_args(arguments))
    config, new_claim = given.pop("config"), given.pop("new_claim") is True
    flags = {name: str(value) for name, value in given.items() if value is not None}
    return load(config if isinstance(config, Path) else None, os.environ, flags), new_claim


@contextlib.contextmanager
def listening(settings: Settings) -> Generator[socket.socket]:
    """Hold the listening socket of the API. Raises ConflictError when the address is taken."""
    host, port = split_address(settings.listen, field="listen")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConflictError(
            "address_in_use",
            f"cannot listen on {settings.listen}: {error.strerror}",
            hint="choose another address with --listen, or find out who uses it: ss -ltnp",
            field="listen",
        ) from error
    with listener:
        yield listener


async def write_claim(settings: Settings) -> None:
    """Make a new claim, beside a control plane that may be running. Raises NacreError."""
    async with opened(settings) as db:
        await renew_claim(db, settings.claim_path)
    path = settings.claim_path
    sys.stdout.write(f"a new claim is in {path}; use it with: nacre login URL --claim-file {path}\n")


async def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; raises when a part of the program breaks."""
    stopping = asyncio.Event()
    async with control_plane(settings, stopping) as control:
        server = _Server(_configuration(control))

        def stop() -> None:
            if stopping.is_set():
                return
            log.info("control.stopping")
            asyncio.get_running_loop().call_later(GIVE_UP_S, _give_up)
            stopping.set()
            for topic in (EVENTS, OPERATIONS):
                control.db.wakes.ring(topic)  # streams and waits look up and see that we stop
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        async with control.gateway.running(), asyncio.TaskGroup() as group:
            tasks = [group.create_task(work(), name=name) for name, work in control.background]
            collect_rarely()
            _greet(control)
            await server.serve(sockets=[listener])
            for task in tasks:
                task.cancel()
    log.info("control.stopped")


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: ours stop all parts in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals alone."""
        yield


def _configuration(control: Control) -> uvicorn.Config:
    return uvicorn.Config(
        control.api,  # type: ignore[arg-type] - the same ASGI in another library's types
        loop="none",
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=MAX_CONSOLE_MESSAGE,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_CONNECTION_S,
        timeout_graceful_shutdown=GRACE_S,
    )


def _greet(control: Control) -> None:
    settings = control.settings
    log.info("control.listening", api=settings.listen, gateway=settings.gateway_listen)
    if control.claim is None:
        return
    log.info("control.unclaimed", claim_file=str(settings.claim_path))
    if sys.stdout.isatty():  # on a screen it can be read and is gone; a log would keep it
        sys.stdout.write(f"Become the first administrator: nacre login --claim {control.claim}\n")
        sys.stdout.flush()


def _give_up() -> None:
    log.error("control.hangs", after_s=GIVE_UP_S, next="the program leaves without waiting any longer")
    os._exit(1)


def _complain(error: NacreError) -> None:
    sys.stderr.write(f"nacre-control: {error.message}\n  {error.hint}\n")


if __name__ == "__main__":
    main()
