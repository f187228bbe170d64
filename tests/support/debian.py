"""A small Debian for tests, with the real cloud-init and the real QEMU guest agent: a kernel, an initrd and a disk.

Made from the distribution's packages once per machine and shared by every worker. What is left out is the service
manager: a script is the first process, because systemd takes half a minute to start without hardware virtualization.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nacre.tiny import initramfs, modules, packages
from nacre.tiny.build import default_cache

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
DISK_MIB = 1024
KERNEL_ARGS = "console=ttyS0 quiet panic=10 net.ifnames=0 mitigations=off"
PACKAGES = (
    *("cloud-init", "qemu-guest-agent", "busybox-static", "iproute2", "isc-dhcp-client", "mount", "passwd"),
    *("e2fsprogs", "openssh-client"),  # file systems that are made and grow; keys of a host
)
NOT_UNPACKED = ("man", "doc", "locale", "info", "i18n/locales")

CLOUD = """\
users: []
disable_root: false
datasource_list: [NoCloud]
preserve_hostname: false
cloud_init_modules: [write-files, set_hostname, users-groups, ssh, set-passwords, runcmd, scripts-user]
cloud_config_modules: []
cloud_final_modules: []
ssh_genkeytypes: [ed25519]
ssh_deletekeys: false
system_info:
  distro: debian
  default_user: {name: debian, lock_passwd: true, groups: [adm], shell: /bin/bash}
  paths: {cloud_dir: /var/lib/cloud, templates_dir: /etc/cloud/templates}
"""

FIRST = """\
#!/bin/sh
# The first process of the test's Debian: mounts, an address, cloud-init, the guest agent.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs run /run
mkdir -p /dev/pts /run/lock; mount -t devpts pts /dev/pts
exec >/dev/console 2>&1 </dev/null
mount -o remount,rw /
ip link set lo up
[ -e /sys/class/net/eth0 ] && dhclient -1 -q eth0
for port in /sys/class/virtio-ports/*; do
    [ "$(cat $port/name)" = org.qemu.guest_agent.0 ] && qemu-ga -d -m virtio-serial -p /dev/${port##*/}
done
echo DEBIAN agent
cloud-init init --local >/var/log/cloud-init-output.log 2>&1
cloud-init init >>/var/log/cloud-init-output.log 2>&1
echo DEBIAN ready
while :; do sleep 1000; done
"""

OFF = """\
#!/bin/sh
# What the guest agent calls to power off.
echo DEBIAN leaves >/dev/console
sync
exec busybox poweroff -f
"""

INITRD = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /bin/busybox insmod $module; done 2>/dev/null
while [ ! -b /dev/vda ]; do /bin/busybox sleep 0.05; done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/first
"""


@dataclass(frozen=True)
class Debian:
    """The three files of the image."""

    kernel: Path
    initrd: Path
    disk: Path


def hindrance() -> str:
    """Why this Debian cannot be made here; empty if it can."""
    if platform.machine() != "x86_64":
        return "made on x86_64 only"
    if os.geteuid() != 0:
        return "needs root, to unpack packages with their owners"
    missing = [tool for tool in ("mmdebstrap", "mke2fs") if shutil.which(tool, path=_PATH) is None]
    return f"needs {', '.join(missing)}: scripts/setup.sh develop" if missing else ""


_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


@cache
def debian() -> Debian:
    """Return the image. The first caller on this machine builds it, everyone else waits for that."""
    shared = Path(tempfile.gettempdir()) / f"nacre-tests-{os.getuid()}"
    shared.mkdir(mode=0o700, exist_ok=True)
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    place = shared / f"debian-{recipe}"
    with (shared / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            with tempfile.TemporaryDirectory(dir=shared, prefix="debian-") as draft:
                _build(Path(draft))
                (Path(draft) / "made").rename(place)
    return Debian(kernel=place / "kernel", initrd=place / "initrd", disk=place / "disk.qcow2")


def _build(draft: Path) -> None:
    made = draft / "made"
    made.mkdir()
    sources = packages.find(default_cache(), lambda _line: None)
    shutil.copyfile(sources.kernel, made / "kernel")
    entries = {
        "bin/busybox": initramfs.file(sources.busybox.read_bytes(), executable=True),
        "init": initramfs.file(INITRD.encode(), executable=True),
        "dev/console": initramfs.character_device(5, 1),
        **{name: initramfs.directory() for name in ("dev", "root")},
    }
    for number, (name, content) in enumerate(modules.ordered(sources)):
        entries[f"modules/{number:02d}-{name}"] = initramfs.file(content)
    (made / "initrd").write_bytes(initramfs.pack(entries))
    root = draft / "root"
    _unpack(root)
    for name, content in (("first", FIRST), ("shutdown", OFF)):
        path = root / "sbin" / name
        path.unlink(missing_ok=True)
        path.write_text(content)
        path.chmod(0o755)
    (root / "etc/cloud/cloud.cfg").write_text(CLOUD)
    for path in (root / "etc/cloud/cloud.cfg.d").glob("*.cfg"):
        path.unlink()
    (root / "etc/hostname").write_text("unnamed\n")
    raw = draft / "disk.raw"
    _run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-E", "nodiscard", "-d", str(root), str(raw), f"{DISK_MIB}M")
    _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(made / "disk.qcow2"))


def _unpack(root: Path) -> None:
    excludes = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in NOT_UNPACKED]
    _run(
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=essential",
        "--format=directory",
        f"--include={','.join(PACKAGES)}",
        '--aptopt=Acquire::Languages "none"',
        "--dpkgopt=force-unsafe-io",
        *excludes,
        SUITE,
        str(root),
        MIRROR,
    )


def _run(*words: str) -> None:
    environment = {**os.environ, "PATH": _PATH}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=900)
    assert done.returncode == 0, f"{words[0]}: {done.stderr[-4000:]}"
