"""Write configuration.md and capabilities.md in docs/reference from the code: `python scripts/write_reference.py`.

`make check` runs it with `--check` and fails when a page is out of step.
"""

import ast
import sys
from pathlib import Path

from nacre.agent.hypervisors.cloud_hypervisor import offer as cloud_hypervisor
from nacre.agent.hypervisors.firecracker import offer as firecracker
from nacre.agent.hypervisors.qemu import offer as qemu
from nacre.agent.storage import offer as pools
from nacre.model.capabilities import Capability, Level, Offer, Support
from nacre.model.units import GIB, MIB

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "nacre"
PAGES = ROOT / "docs" / "reference"

CONTROL = """\
`nacre-control --config FILE` reads a TOML file. The environment (`NACRE_CONTROL_DATA_DIR`, …) overrides the file, flags
(`--data-dir`, …) override both; `database`, which may hold a password, is not a flag. An unknown key is an error.
`nacre-control --new-claim` writes a new one-time claim for an administrator and ends."""

AGENT = """\
`nacre-agent` reads `/etc/nacre/agent.toml`, then `./agent.toml`, or only the file given with `--config FILE`. The
environment (`NACRE_AGENT_DATA_DIR`, …) overrides files, flags (`--data-dir`, …) override both; `join`, a secret,
is not a flag. An unknown key is an error."""

CAPABILITIES = """\
# What hypervisors can do

Made from the code by `scripts/write_reference.py`: the newest release of each, on a Linux host with KVM where nothing
is missing. What a node of yours can do is said by `nacre hypervisor show NAME --node NODE` and `GET /v1/capabilities`,
with the reason for what it cannot. A machine that asks for something goes only to nodes that offer it; what no node
could ever do is refused when it is asked for.

*yes*: by the hypervisor itself. *emulated*: by other means to the same end. *guest*: only if the guest plays along.
*preview*: its makers call it one.
"""
POOLS = """\
## Pools

What volumes can do in each kind of pool, by the format in which they are kept. What a pool of yours can do on each of
its nodes is said by `nacre pool show NAME` and `GET /v1/pools`; reflinks are found out by trying.

*layers*: what does not change is shared, whatever the size. *reflink*: the same, by the file system. *copy*: all of it
is copied.

| pool | format | clones | snapshots, restoring | live snapshots | live grow | shared | thin |
|---|---|---|---|---|---|---|---|
"""
MARKS = {
    Level.NATIVE: "yes",
    Level.EMULATED: "emulated",
    Level.NEEDS_GUEST: "guest",
    Level.EXPERIMENTAL: "preview",
    Level.UNSUPPORTED: "-",
}
NEWEST_FIRECRACKER = (1, 17, 0)

PROGRAMS = {"nacre-control": ("control/settings.py", CONTROL), "nacre-agent": ("agent/settings.py", AGENT)}
HEAD = "# Configuration\n\nMade from the code by `scripts/write_reference.py`. Times are in seconds, sizes in bytes.\n"


def configuration() -> str:
    """Return the page on settings."""
    parts = [HEAD]
    for program, (path, text) in PROGRAMS.items():
        parts.append(f"## {program}\n\n{text}\n\n| key | default | meaning |\n|---|---|---|")
        parts += [f"| `{name}` | {default} | {meaning} |" for name, default, meaning in fields(SOURCE / path)]
        parts.append("")
    return "\n".join(parts)


def offers() -> dict[str, Offer]:
    """Return what each hypervisor offers where nothing is missing: its newest release, on Linux with KVM."""
    facts = qemu.Facts(
        accelerator="kvm",
        ceph=True,
        uefi=True,
        secure_uefi=True,
        swtpm=True,
        merging=True,
        huge_pages=frozenset({2 * MIB, GIB}),
    )
    return {
        "qemu": qemu.offer(facts),
        "cloud-hypervisor": cloud_hypervisor.offer(guard_obstacle=""),
        "firecracker": firecracker.offer(NEWEST_FIRECRACKER, jailer=True, guard_obstacle=""),
    }


def capabilities() -> str:
    """Return the page on what hypervisors can do."""
    made = offers()
    parts = [CAPABILITIES, "| capability | " + " | ".join(made) + " |", "|---|" + "---|" * len(made)]
    notes: list[str] = []
    for capability in Capability:
        cells: list[str] = []
        for name, offer in made.items():
            support = offer.get(capability, Support(level=Level.UNSUPPORTED))
            cells.append(MARKS[support.level])
            if support.note:
                notes.append(f"| `{capability}` | {name} | {support.note} |")
        parts.append(f"| `{capability}` | {' | '.join(cells)} |")
    head = ["## Notes", "", "| capability | hypervisor | note |", "|---|---|---|"]
    return "\n".join([*parts, "", *head, *notes, "", POOLS + "\n".join(pool_rows()), ""])


def pool_rows() -> list[str]:
    """Return a row for each kind of pool and format."""
    kinds = {
        "`directory`": pools.directory(shared=False, reflinks=False),
        "`directory` with reflinks": pools.directory(shared=False, reflinks=True),
        "`directory`, `shared`": pools.directory(shared=True, reflinks=False),
        "`ceph`": pools.CEPH,
    }

    def mark(has: bool) -> str:
        return "yes" if has else "-"

    return [
        f"| {kind} | `{one.format}` | {one.clone} | {one.snapshot} | {mark(one.live_snapshots)}: {one.live_note} "
        f"| {mark(can.live_grow)} | {mark(can.shared)} | {mark(can.thin)} |"
        for kind, can in kinds.items()
        for one in can.formats
    ]


def fields(path: Path) -> list[tuple[str, str, str]]:
    """Return name, default and docstring of every field of the class `Settings` in a file."""
    tree = ast.parse(path.read_text())
    (settings,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings"]
    found: list[tuple[str, str, str]] = []
    for node, following in zip(settings.body, [*settings.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        meaning = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            meaning = " ".join(str(following.value.value).split()).replace("|", "\\|")
        default = "required" if node.value is None else f"`{ast.unparse(node.value)}`"
        found.append((node.target.id, default, meaning))
    return found


def write(check: bool) -> int:
    """Write the pages, or say whether they are as they would be written."""
    stale = 0
    for name, text in {"configuration.md": configuration(), "capabilities.md": capabilities()}.items():
        page = PAGES / name
        if page.exists() and page.read_text() == text:
            continue
        stale += 1
        if check:
            sys.stderr.write(f"{page} is out of step: run python scripts/write_reference.py\n")
        else:
            page.write_text(text)
    return stale if check else 0


if __name__ == "__main__":
    sys.exit(write("--check" in sys.argv))
