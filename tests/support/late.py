"""What a test waits for that does not end: where each of its tasks stands."""

import asyncio
import faulthandler
import gc
import os
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import FrameType

from support.patience import Patience

_LOOK_S = 0.5


@contextmanager
def watched(name: str, seconds: float, to: int, *, patience_s: float) -> Generator[None]:
    """Tell it to a descriptor if the block goes on for longer, and end the process if it still does after patience."""
    over = threading.Event()

    def watch() -> None:
        if _ended(over, seconds):
            return
        os.write(to, told(name).encode())
        if not _ended(over, patience_s):
            faulthandler.dump_traceback(file=to)
            os._exit(1)

    threading.Thread(target=watch, name=f"late {name}", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _ended(over: threading.Event, seconds: float) -> bool:
    patience = Patience(seconds)
    while not patience.is_over():
        if over.wait(min(seconds, _LOOK_S)):
            return True
    return False


def told(name: str) -> str:
    """Return where every task of this process waits, the innermost last."""
    lines = [f"\n{name} goes on although its time is up. Its tasks wait here:"]
    # By their types: a proxy may do anything when it is asked what it is.
    for task in [one for one in gc.get_objects() if issubclass(type(one), asyncio.Task)]:
        if not task.done():
            lines += ["", task.get_name(), *(f"  {place}" for place in waiting(task.get_coro()))]
    return "\n".join(lines) + "\n"


def waiting(step: object) -> Iterator[str]:
    """Yield the places that a suspended coroutine waits in, the innermost last."""
    while step is not None:
        frame = _first(step, "cr_frame", "gi_frame", "ag_frame")
        if isinstance(frame, FrameType):
            yield f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
        step = _first(step, "cr_await", "gi_yieldfrom", "ag_await")


def _first(thing: object, *names: str) -> object:
    return next((found for name in names if (found := getattr(thing, name, None)) is not None), None)
