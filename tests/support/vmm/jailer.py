"""A program that is to its clients what Firecracker's `jailer` is: command line, layout, leftovers, exit codes.

What a Python program cannot do it does not pretend to: there is no change of root, because the interpreter would not be
there, and no mount namespace; control groups and network namespaces are read and left alone. The stand-in of
Firecracker is told its root instead (`NACRE_STAND_IN_ROOT`, relative to where it works) and keeps to it. All else is
real: inherited descriptors and the environment go (but for the stand-ins' own variables), the binary is copied, devices
are made (plain files without the right to make devices), limits are set, the user is changed if it may be.
"""

import os
import resource
import shutil
import stat
import sys
from pathlib import Path

VERSION = "NACRE_STAND_IN_VERSION"
ROOT = "NACRE_STAND_IN_ROOT"

_OPTIONS = {
    "id": True,
    "exec-file": True,
    "uid": True,
    "gid": True,
    "chroot-base-dir": True,
    "netns": True,
    "cgroup": True,
    "resource-limit": True,
    "cgroup-version": True,
    "parent-cgroup": True,
    "daemonize": False,
    "new-pid-ns": False,
    "version": False,
}
_NEEDED = ("id", "exec-file", "uid", "gid")
_MANY = {"cgroup", "resource-limit"}
_FOLDERS = ("", "dev", "dev/net", "run")
_DEVICES = {"dev/net/tun": (10, 200), "dev/kvm": (10, 232), "dev/urandom": (1, 9)}
_LIMITS = {"no-file": resource.RLIMIT_NOFILE, "fsize": resource.RLIMIT_FSIZE}


class JailerError(Exception):
    """Why it fails. All ends alike: words on standard error, exit code 1."""


def main(argv: list[str]) -> int:
    """Make a jail and become what is to be in it."""
    os.closerange(3, 1 << 16)
    kept = {key: value for key, value in os.environ.items() if key.startswith("NACRE_STAND_IN_")}
    try:
        options, extra = parse(argv[1:])
        if "version" in options:
            print(f"Jailer v{kept.get(VERSION, '1.17.0')}\n")
            return 0
        for name in _NEEDED:
            if name not in options:
                raise JailerError(f"Failed to parse arguments: Argument '{name}' required, but not found.")
        run(options, extra, kept)
    except JailerError as error:
        print(error, file=sys.stderr)
    return 1


def parse(words: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Understand the command line."""
    found: dict[str, list[str]] = {}
    rest = iter(words)
    for word in rest:
        if word == "--":
            return found, list(rest)
        name = word.removeprefix("--")
        if not word.startswith("--") or name not in _OPTIONS:
            raise JailerError(f"Failed to parse arguments: Found argument '{name}' which wasn't expected.")
        if name in found and name not in _MANY:
            raise JailerError(f"Failed to parse arguments: The argument '{name}' was provided more than once.")
        found.setdefault(name, []).append(next(rest, "") if _OPTIONS[name] else "")
    return found, []


def run(options: dict[str, list[str]], extra: list[str], environment: dict[str, str]) -> None:
    """Do it. Returns only if the exec fails."""
    name = options["id"][0]
    if not 1 <= len(name) <= 64 or not all(letter.isalnum() or letter == "-" for letter in name):
        raise JailerError(f"Invalid instance ID: Invalid char in {name!r}")
    binary = _canonical(options["exec-file"][0])
    base = _canonical(options.get("chroot-base-dir", ["/srv/jailer"])[0])
    uid, gid = _number(options, "uid"), _number(options, "gid")
    for each in options.get("resource-limit", ["no-file=2048"]):
        _limit(each)
    root = base / binary.name / name / "root"
    root.mkdir(parents=True, exist_ok=True)
    _copy(binary, root / binary.name, uid, gid)
    os.chdir(root)
    for folder in _FOLDERS:
        path = Path(folder or ".")
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
        _give(path, uid, gid)
    for device, numbers in _DEVICES.items():
        _make_device(Path(device), numbers, uid, gid)
    if "daemonize" in options:
        _daemonize()
    if "new-pid-ns" in options:
        _leave_pid(binary.name)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    words = [f"./{binary.name}", "--id", name, "--start-time-us", "1", "--start-time-cpu-us", "1"]
    words += ["--parent-cpu-time-us", "1", *extra]
    try:
        os.execve(words[0], words, environment | {ROOT: "."})
    except OSError as error:
        raise JailerError(f"Failed to exec into Firecracker: {_said(error)}") from error


def _canonical(text: str) -> Path:
    try:
        return Path(text).resolve(strict=True)
    except OSError as error:
        raise JailerError(f"Failed to canonicalize path {text}: {_said(error)}") from error


def _number(options: dict[str, list[str]], name: str) -> int:
    text = options[name][0]
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise JailerError(f"Invalid {name}: {text}")
    return int(text)


def _limit(text: str) -> None:
    name, equals, value = text.partition("=")
    if not equals:
        raise JailerError(f"Invalid format for resources limits: {text}")
    if name not in _LIMITS:
        raise JailerError(f"Invalid resource argument: {name}")
    if not value.isdecimal():
        raise JailerError(f"Invalid limit value for resource: {value}: invalid digit found in string")
    resource.setrlimit(_LIMITS[name], (int(value), int(value)))


def _copy(binary: Path, target: Path, uid: int, gid: int) -> None:
    if target.exists() and target.stat().st_nlink > 1:
        raise JailerError(f"Detected hard link at: {target}")
    shutil.copy(binary, target)
    _give(target, uid, gid)


def _make_device(path: Path, numbers: tuple[int, int], uid: int, gid: int) -> None:
    try:
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(*numbers))
        except PermissionError:
            path.touch(0o600, exist_ok=False)
    except FileExistsError as error:
        raise JailerError(f"Failed to create /{path} via mknod inside the jail: {_said(error)}") from error
    _give(path, uid, gid)


def _daemonize() -> None:
    for leave in (False, True):
        if os.fork():
            os._exit(0)
        if not leave:
            os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)


def _leave_pid(name: str) -> None:
    child = os.fork()
    if child:
        with Path(f"{name}.pid").open("x") as file:
            file.write(str(child))
        os._exit(0)


def _give(path: Path, uid: int, gid: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, uid, gid)


def _said(error: OSError) -> str:
    return f"{error.strerror} (os error {error.errno})"
