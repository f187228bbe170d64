"""Which kernel modules the guest needs, in the order in which they must be loaded. Called by `build`.

Asks modprobe, which knows dependencies and what is built into the kernel; loads nothing.
"""

import gzip
import lzma
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nacre.errors import UnavailableError, UnsupportedError
from nacre.tiny.packages import Sources, run, tool

# Buses, disk, network and what the power button needs: no guest of ours works without these.
NEEDED = ("virtio_pci", "virtio_blk", "virtio_net", "button", "evdev")
# Good to have; some kernels lack them or have them built in under another name.
WELCOME = (
    *("virtio_mmio", "virtio_rng", "virtio_console", "virtio_balloon", "virtio_mem", "af_packet", "ext4"),
    *("virtio_scsi", "sr_mod", "isofs"),  # for drives with a medium
)


def ordered(sources: Sources) -> list[tuple[str, bytes]]:
    """Return (file name, content) of every module, each after what it depends on. Raises UnsupportedError."""
    paths: dict[Path, None] = {}
    for name in (*NEEDED, *WELCOME):
        found = _with_dependencies(sources, name)
        if found is None and name in NEEDED:
            raise UnsupportedError(
                "driver_missing",
                f"the kernel {sources.release} has no driver {name}",
                hint="install another kernel package, such as linux-image-cloud-amd64 or linux-image-virtual",
            )
        paths.update(dict.fromkeys(found or ()))
    return [(_plain_name(path), _content(path)) for path in paths]


def parse(text: str) -> list[Path]:
    """Read what `modprobe --show-depends` prints: `insmod PATH` for files, `builtin NAME` for what needs none."""
    lines = (line.split() for line in text.splitlines())
    return [Path(words[1]) for words in lines if len(words) >= 2 and words[0] == "insmod"]


def _with_dependencies(sources: Sources, name: str) -> Sequence[Path] | None:
    with tempfile.TemporaryDirectory() as no_configuration:  # this host's blacklists are not the guest's
        argv = [tool("modprobe"), "-C", no_configuration, "-d", str(sources.modules), "-S", sources.release]
        try:
            return parse(run([*argv, "--show-depends", name]))
        except UnavailableError:
            return None


def _plain_name(path: Path) -> str:
    return path.name.partition(".ko")[0] + ".ko"


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    match path.suffix:
        case ".xz":
            return lzma.decompress(data)
        case ".gz":
            return gzip.decompress(data)
        case ".zst":
            return subprocess.run(
                [tool("zstd"), "-dcq"], input=data, capture_output=True, check=True, timeout=60
            ).stdout
        case _:
            return data
