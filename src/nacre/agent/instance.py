"""A name for each start of the agent that sorts after those of all earlier starts, even if the clock was set back."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_bytes

from nacre.lib.clock import Clock
from nacre.lib.files import write_atomically
from nacre.model.ids import make_id

_FILE = "instance"


def new_instance(folder: Path, clock: Clock) -> str:
    """Return the name, and remember when it was made. Raises OSError."""
    path = folder / _FILE
    last = _last(path)
    now = clock.now()
    if last is not None and now <= last:
        now = last + timedelta(milliseconds=1)
    write_atomically(path, now.isoformat().encode())
    return make_id("run", now, token_bytes(10))


def _last(path: Path) -> datetime | None:
    try:
        return datetime.fromisoformat(path.read_text().strip()).astimezone(UTC)
    except (FileNotFoundError, ValueError):
        return None
