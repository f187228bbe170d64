"""The small guest inside a stand-in: it boots, speaks on a console, reads what is typed, obeys its power button.

One thread in the stand-in's own process, so whatever stops or ends that process does the same to the guest. Words in
the kernel arguments change its behaviour, as with the fake hypervisor: `fake.boot=SECONDS`, `fake.deaf` (ignores the
power button), `fake.crash=SECONDS`, `fake.poweroff=SECONDS`, `fake.reboot=SECONDS`, `fake.tick=SECONDS` (counts on its
console).
"""

import threading
import time
from collections.abc import Callable, Mapping

PROMPT = "/ # "


class Guest:
    """What runs on the virtual CPUs. `left` is told how it ended: `poweroff`, `reboot` or `crash`."""

    def __init__(
        self,
        *,
        name: str,
        kernel_args: str,
        output: Callable[[bytes], None],
        left: Callable[[str], None],
        button: str = "poweroff",
        memory: Mapping[str, object] | None = None,
    ) -> None:
        """`button`: what it does when the power button is pressed. `memory`: that of a guest which was saved."""
        self._name = name
        self._args = kernel_args
        self._words = {word.partition("=")[0]: word.partition("=")[2] for word in kernel_args.split()}
        self._output = output
        self._left = left
        self._button = button
        self._changed = threading.Condition()
        self._paused = memory is not None
        self._ended = False
        self._typed = b""
        self._timers: list[tuple[float, str]] = []
        self._ticks = 0
        self._notes: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        if memory is None:
            self._boot()
        else:
            self._remember(memory)

    @property
    def boots(self) -> str:
        """The kernel arguments."""
        return self._args

    def start(self) -> None:
        """Let it run."""
        self._thread.start()

    def pause(self) -> None:
        """Stop the virtual CPUs."""
        with self._changed:
            self._paused = True
            self._changed.notify()

    def resume(self) -> None:
        """Let them run again."""
        with self._changed:
            self._paused = False
            self._changed.notify()

    def type(self, data: bytes) -> None:
        """What comes in on the console."""
        with self._changed:
            self._typed += data
            self._changed.notify()

    def press(self) -> None:
        """Press the power button, or the three keys."""
        with self._changed:
            if "fake.deaf" not in self._words:
                self._timers.append((time.monotonic() + 0.02, self._button))
                self._changed.notify()

    def reboot(self) -> None:
        """Begin again from the kernel, in the same process."""
        with self._changed:
            self._boot()
            self._ended = False
            self._changed.notify()

    def end(self) -> None:
        """It does nothing any more."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def memory(self) -> dict[str, object]:
        """All that it knows, while it is paused."""
        with self._changed:
            now = time.monotonic()
            timers = [[at - now, what] for at, what in self._timers]
            return {"args": self._args, "ticks": self._ticks, "notes": list(self._notes), "timers": timers}

    def _remember(self, memory: Mapping[str, object]) -> None:
        self._ticks = int(str(memory["ticks"]))
        self._notes = list(memory["notes"])  # type: ignore[call-overload]
        now = time.monotonic()
        self._timers = [(now + at, what) for at, what in memory["timers"]]  # type: ignore[attr-defined]

    def _boot(self) -> None:
        self._timers = []
        self._typed = b""
        self._ticks = 0
        self._notes = []
        self._say("stand-in guest: booting\r\n")
        for what in ("boot", "crash", "poweroff", "reboot", "tick"):
            if what == "boot" or f"fake.{what}" in self._words:
                self._timers.append((time.monotonic() + float(self._words.get(f"fake.{what}") or 0), what))

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._paused or self._ended:
                    self._changed.wait()
                    continue
                now = time.monotonic()
                due = [timer for timer in self._timers if timer[0] <= now]
                self._timers = [timer for timer in self._timers if timer[0] > now]
                typed, self._typed = self._typed, b""
                if not due and not typed:
                    self._changed.wait(min((at for at, _ in self._timers), default=now + 60) - now)
                    continue
                for _, what in due:
                    self._happen(what)
                self._read(typed)

    def _happen(self, what: str) -> None:
        match what:
            case "boot":
                self._say(f"NACRE-TINY ready ip=10.0.2.15/24 host={self._name}\r\n{PROMPT}")
            case "tick":
                self._ticks += 1
                self._say(f"tick {self._ticks}\r\n")
                self._timers.append((time.monotonic() + float(self._words["fake.tick"]), "tick"))
            case _:
                self._leave(what)

    def _leave(self, how: str) -> None:
        self._ended = True
        self._left(how)

    def _read(self, typed: bytes) -> None:
        *lines, rest = typed.replace(b"\r", b"\n").split(b"\n")
        self._typed = rest + self._typed
        for line in lines:
            text = line.decode(errors="replace").strip()
            self._say(text + "\r\n")
            self._command(text.split())
            if self._ended:
                return
            self._say(PROMPT)

    def _command(self, words: list[str]) -> None:
        match words:
            case [("poweroff" | "reboot" | "crash") as what, *_]:
                self._leave(what)
            case ["echo", *rest]:
                self._say(" ".join(rest) + "\r\n")
            case ["note", *rest]:
                self._notes.append(" ".join(rest))
            case ["notes"]:
                self._say("; ".join(self._notes) + "\r\n")
            case ["cmdline"]:
                self._say(self._args + "\r\n")
            case [word, *_]:
                self._say(f"sh: {word}: not found\r\n")
            case _:
                pass

    def _say(self, text: str) -> None:
        self._output(text.encode())
