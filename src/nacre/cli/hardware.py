"""Options of machines beyond their size, as people write them. Shared by `vm create` and `vm update`.

The common ones have an option each; all of them are set by their path, `--set devices.watchdog=reset`, or come from a
file that is written like the body of the API. An option is nothing but a path and a value as well.
"""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec
import yaml
from cyclopts import Parameter

from nacre.cli import arguments, written
from nacre.errors import InvalidInputError
from nacre.model.units import parse_size
from nacre.model.vms import VmSpec
from nacre.schema.vms import VmCreate, VmUpdate

Tree = dict[str, Any]
Assignments = list[tuple[str, object]]
T = TypeVar("T")

_PART = re.compile(r"([a-z_]+)((?:\[\d+\])*)")
_RATE = re.compile(r"^(?P<size>[0-9.]+[A-Za-z]*)/s$")
_MOST_ITEMS = 32


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a machine is made of and how it is tuned."""

    cpus_max: Annotated[int | None, Parameter(help="How many CPUs it may have while it runs.")] = None
    cpu_model: Annotated[str | None, Parameter(help="A model that the hypervisor knows.")] = None
    pin: Annotated[
        tuple[str, ...], Parameter(negative=(), help="Bind a CPU to CPUs of the node: 0=0-3,8. Repeatable.")
    ] = ()
    memory_max: Annotated[str | None, Parameter(help="How much memory it may have while it runs.")] = None
    hugepages: Annotated[
        Literal["2MiB", "1GiB"] | None, Parameter(help="Take its memory from the node's huge pages of this size.")
    ] = None
    shared_memory: Annotated[bool | None, Parameter(help="Share its memory with other processes of the node.")] = None
    balloon: Annotated[
        str | None, Parameter(help="Give it a balloon that takes this much memory back, such as 0B or 256MiB.")
    ] = None
    firmware: Annotated[
        Literal["bios", "uefi"] | None, Parameter(help="What starts it if its image has no kernel.")
    ] = None
    secure_boot: Annotated[bool | None, Parameter(help="Start only what is signed; needs --firmware uefi.")] = None
    tpm: Annotated[bool | None, Parameter(help="Give it an emulated TPM 2.0.")] = None
    watchdog: Annotated[
        Literal["reset", "poweroff", "pause", "none"] | None,
        Parameter(help="Give it a watchdog, and say what happens when it is not fed."),
    ] = None
    vnc: Annotated[bool | None, Parameter(help="Give it a screen that is shown by VNC.")] = None
    disk_limit: Annotated[
        tuple[str, ...], Parameter(negative=(), help="Limit its root disk: 50MiB/s, or 500/s for requests. Repeatable.")
    ] = ()
    nic_limit: Annotated[
        tuple[str, ...],
        Parameter(negative=(), help="Limit its first NIC, both ways: 10MiB/s, or 1000/s for packets. Repeatable."),
    ] = ()
    set_: Annotated[
        tuple[str, ...],
        Parameter(name="--set", negative=(), help="Any field by its path: memory.thp=false. Repeatable."),
    ] = ()
    file: Annotated[
        Path | None,
        Parameter(
            name=["--file", "-f"],
            help="Fields from a file in YAML or JSON, as of templates; - for standard input. Options override it.",
        ),
    ] = None

    @property
    def asked(self) -> bool:
        """Whether there is anything in it."""
        return self != USUAL


USUAL = Hardware()

_OPTIONS = {
    "cpu.max": "cpus-max",
    "cpu.model": "cpu-model",
    "cpu.pins": "pin",
    "memory.max_bytes": "memory-max",
    "memory.hugepage_bytes": "hugepages",
    "memory.shared": "shared-memory",
    "memory.balloon.reclaim_bytes": "balloon",
    "boot.firmware": "firmware",
    "boot.secure_boot": "secure-boot",
    "devices.tpm": "tpm",
    "devices.watchdog": "watchdog",
    "devices.graphics": "vnc",
    "root_disk.limits.bandwidth": "disk-limit",
    "root_disk.limits.operations": "disk-limit",
    "nics[0].options.receive_limits.bandwidth": "nic-limit",
    "nics[0].options.receive_limits.operations": "nic-limit",
}
"""The options by the paths that they set."""
_FIELDS = {
    "memory_bytes": "memory",
    "disk_bytes": "disk",
    "stop_timeout_s": "stop-timeout",
    "nics": "nic",
    "labels": "label",
}
"""The options by the fields that they set, where they are not called alike."""


def assignments(asked: Hardware) -> Assignments:
    """Return what the options say, as paths and values. Raises InvalidInputError."""
    plain: dict[str, object] = {
        "cpu.max": asked.cpus_max,
        "cpu.model": asked.cpu_model,
        "memory.max_bytes": None if asked.memory_max is None else parse_size(asked.memory_max, field="memory-max"),
        "memory.hugepage_bytes": None if asked.hugepages is None else parse_size(asked.hugepages),
        "memory.shared": asked.shared_memory,
        "memory.balloon.reclaim_bytes": None if asked.balloon is None else parse_size(asked.balloon, field="balloon"),
        "boot.firmware": asked.firmware,
        "boot.secure_boot": asked.secure_boot,
        "devices.tpm": asked.tpm,
        "devices.watchdog": asked.watchdog,
        "devices.graphics": None if asked.vnc is None else "vnc" if asked.vnc else "none",
    }
    found: Assignments = [(path, value) for path, value in plain.items() if value is not None]
    if asked.pin:
        found.append(("cpu.pins", [_pin(text) for text in asked.pin]))
    found += [(f"root_disk.limits.{name}", bucket) for name, bucket in map(_limit, asked.disk_limit)]
    for name, bucket in map(_limit, asked.nic_limit):
        found += [(f"nics[0].options.{way}_limits.{name}", bucket) for way in ("receive", "send")]
    paths = [_assignment(text) for text in asked.set_]
    _check_said_once({path: f"--{_OPTIONS[path]}" for path, _ in found if path in _OPTIONS}, paths)
    return found + paths


def check_fields(asked: Hardware, given: Collection[str]) -> None:
    """Raise InvalidInputError if `--set` says once more what options beside it have said: fields of these names."""
    options = {name: f"--{_FIELDS.get(name, name.replace('_', '-'))}" for name in given}
    _check_said_once(options, [_assignment(text) for text in asked.set_])


def _check_said_once(options: Mapping[str, str], paths: Assignments) -> None:
    for path, value in paths:
        for same, option in options.items():
            if path == same or same.startswith(f"{path}."):
                raise InvalidInputError(
                    "said_twice",
                    f"{option} and --set {path}={shown_value(value)} are about the same thing",
                    hint="give one of the two",
                    field=path,
                )


def shown_value(value: object) -> str:
    """Return a value as `--set` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def with_hardware(asked: Hardware, body: VmCreate) -> VmCreate:
    """Return a new machine with what a file and options say of it; what was given beside them wins over the file."""
    given = _plain(body)
    usual = _plain(VmCreate(name=""))
    named = {name: value for name, value in given.items() if value != usual[name]}
    check_fields(asked, named.keys() - {"name", "project"})
    tree = dict(given)
    apply(tree, asked)
    tree |= named
    apply(tree, without_file(asked))
    return made(tree, VmCreate)


def changed_hardware(asked: Hardware, changes: VmUpdate, spec: VmSpec) -> VmUpdate:
    """Return changes with what a file and options say; objects are those of now with the difference."""
    tree = _plain(spec) | {"cloud_init": None}  # which nobody sees, so it is given anew
    touched = apply(tree, asked)
    given = {name: value for name, value in _plain(changes).items() if value is not None}
    check_fields(asked, given.keys())
    return made({name: tree[name] for name in touched} | given, VmUpdate)


def _plain(value: msgspec.Struct) -> Tree:
    """Return a body of the API as it is sent: objects and lists, which can be changed."""
    return cast("Tree", msgspec.json.decode(msgspec.json.encode(value)))


def apply(tree: Tree, asked: Hardware) -> set[str]:
    """Put a file and the options into `tree`, and return the names of the fields at its top that this was about."""
    touched: set[str] = set()
    for name, value in (_file(asked.file) if asked.file is not None else {}).items():
        tree[name] = value
        touched.add(name)
    for path, value in assignments(asked):
        put(tree, path, value)
        touched.add(re.split(r"[.\[]", path, maxsplit=1)[0])
    return touched


def without_file(asked: Hardware) -> Hardware:
    """Return the options alone."""
    return replace(asked, file=None)


def put(tree: Tree, path: str, value: object) -> None:
    """Set the value at a path such as `nics[0].options.mtu`, making what is missing on the way."""
    steps = _steps(path)
    here: Any = tree
    for step, after in itertools.pairwise(steps):
        here = _inside(here, step, list if isinstance(after, int) else dict, path)
    _lengthen(here, steps[-1], path)
    here[steps[-1]] = value


def _inside(here: Any, step: str | int, kind: type[Any], path: str) -> Any:
    """Return the object or list at a step, made if nothing is there."""
    _lengthen(here, step, path)
    inner: Any = here[step] if isinstance(step, int) else here.get(step)
    if not inner:
        inner = here[step] = kind()
    if not isinstance(inner, kind):
        raise _wrong(path, "it leads through something that has no such fields")
    return inner


def _lengthen(here: Any, step: str | int, path: str) -> None:
    """Make room for one item more at the end of a list; a gap before it was surely not meant."""
    if not isinstance(step, int):
        return
    if step > len(here):
        raise _wrong(path, f"there are {len(here)} of them, so the next one is [{len(here)}]")
    if step == len(here):
        here.append({})


def made(tree: Mapping[str, object], kind: type[T]) -> T:
    """Return a tree as a body of the API. Raises InvalidInputError that names the field."""
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        text, _, at = str(error).partition(" - at `$")
        raise InvalidInputError(
            "invalid_field",
            f"{at.rstrip('`').lstrip('.') or 'the machine'}: {text[:1].lower()}{text[1:]}",
            hint="the fields are those of VmCreate in the API's document, /docs",
            field=at.rstrip("`").lstrip(".") or None,
        ) from error


def shown(tree: object, path: str = "") -> list[str]:
    """Return every value of a tree with its path, as `--set` takes it."""
    if isinstance(tree, dict):
        inside = cast("Tree", tree)
        return [line for name, value in inside.items() for line in shown(value, f"{path}.{name}" if path else name)]
    if isinstance(tree, list | tuple):
        items = cast("Sequence[object]", tree)
        return [line for index, value in enumerate(items) for line in shown(value, f"{path}[{index}]")]
    return [] if tree is None or tree == "" else [f"{path}={shown_value(tree)}"]


def _steps(path: str) -> list[str | int]:
    found: list[str | int] = []
    for part in path.split("."):
        match = _PART.fullmatch(part)
        if match is None:
            raise _wrong(path, "it is no path")
        found.append(match.group(1))
        found += [int(number) for number in re.findall(r"\d+", match.group(2))]
    if any(isinstance(step, int) and step >= _MOST_ITEMS for step in found):
        raise _wrong(path, f"there are at most {_MOST_ITEMS} of anything")
    return found


def _assignment(text: str) -> tuple[str, object]:
    path, equals, value = text.partition("=")
    if not equals:
        raise _wrong(text, "it is not path=value")
    try:
        return path, written.sized(path, yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise _wrong(text, "its value cannot be read") from error


def _file(path: Path) -> Tree:
    return written.fields(arguments.text_of(str(path), "file"), str(path))


def _pin(text: str) -> Tree:
    cpu, equals, host_cpus = text.partition("=")
    if not equals or not cpu.isdecimal():
        raise InvalidInputError(
            "invalid_pin", f"{text!r} is no pin", hint="write CPU=CPUS, such as 0=0-3,8", field="pin"
        )
    return {"cpu": int(cpu), "host_cpus": host_cpus}


def _limit(text: str) -> tuple[str, Tree]:
    match = _RATE.match(text)
    if match is None:
        raise InvalidInputError(
            "invalid_limit",
            f"{text!r} is no limit",
            hint="write 50MiB/s for bytes or 500/s for requests",
            field="limit",
        )
    size = match.group("size")
    if size.isdecimal():
        return "operations", {"size": int(size)}
    return "bandwidth", {"size": parse_size(size, field="limit")}


def _wrong(path: str, why: str) -> InvalidInputError:
    return InvalidInputError(
        "invalid_path",
        f"{path!r}: {why}",
        hint="write path=value, such as cpu.max=8 or nics[0].options.mtu=1400",
        field="set",
    )
