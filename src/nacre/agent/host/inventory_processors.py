"""What a host computes with: processors, memory nodes, huge pages. Called by `inventory`, read from /proc and /sys."""

import hashlib
import platform
import re
from pathlib import Path

import psutil

from nacre.agent.host.files import names, number, text
from nacre.model.nodes import HugePages, NumaNode
from nacre.model.units import KIB

_FIELD = re.compile(r"^([^:\n]+?)\s*:[ \t]*(.*)$", re.MULTILINE)
_MODEL_NAMES = ("model name", "cpu model", "Processor", "Model")
"""How the kernels of different architectures call it."""


def processors(root: Path) -> tuple[str, int, int]:
    """Return model, cores and threads. Where /proc does not tell, as on macOS, the system is asked."""
    blocks = [dict(_FIELD.findall(block)) for block in text(root / "proc/cpuinfo").split("\n\n")]
    threads = [block for block in blocks if "processor" in block]
    if not threads:
        return platform.processor(), psutil.cpu_count(logical=False) or 0, psutil.cpu_count() or 0
    model = next((block[name] for block in blocks for name in _MODEL_NAMES if block.get(name)), "")
    return " ".join(model.split()), _cores(root, threads), len(threads)


def flags(root: Path) -> str:
    """Return a digest of what the CPUs can do; empty where /proc does not tell."""
    found = re.search(r"^(?:flags|Features)\s*:[ \t]*(.*)$", text(root / "proc/cpuinfo"), re.MULTILINE)
    return "" if found is None else hashlib.sha256(" ".join(sorted(found[1].split())).encode()).hexdigest()[:16]


def numa(root: Path) -> tuple[NumaNode, ...]:
    """Return the memory nodes in their order."""
    folder = root / "sys/devices/system/node"
    found = (int(name[4:]) for name in names(folder) if re.fullmatch(r"node\d+", name))
    return tuple(
        NumaNode(
            id=node,
            cpus=text(folder / f"node{node}/cpulist"),
            memory_bytes=_node_memory(folder / f"node{node}/meminfo"),
        )
        for node in sorted(found)
    )


def huge_pages(root: Path) -> tuple[HugePages, ...]:
    """Return how many huge pages of each size there are, small ones first."""
    folder = root / "sys/kernel/mm/hugepages"
    sizes = (int(match[1]) for name in names(folder) if (match := re.fullmatch(r"hugepages-(\d+)kB", name)))
    return tuple(
        HugePages(size_bytes=kib * KIB, total=number(folder / f"hugepages-{kib}kB/nr_hugepages") or 0)
        for kib in sorted(sizes)
    )


def _cores(root: Path, threads: list[dict[str, str]]) -> int:
    if all("core id" in thread for thread in threads):
        return len({(thread.get("physical id"), thread["core id"]) for thread in threads})
    folder = root / "sys/devices/system/cpu"  # Arm does not tell in cpuinfo
    cpus = (name for name in names(folder) if re.fullmatch(r"cpu\d+", name))
    siblings = {text(folder / cpu / "topology/thread_siblings_list") for cpu in cpus} - {""}
    return len(siblings) or len(threads)


def _node_memory(meminfo: Path) -> int:
    match = re.search(r"MemTotal:\s*(\d+) kB", text(meminfo))
    return int(match[1]) * KIB if match else 0
