"""An image whose guests claim to the witness that they run: the tiny image with another start-up script.

Linux unpacks several archives one after the other, so the script is an archive of one file behind the tiny one's.
Which machine it is, whom to tell and how often stand on the kernel command line: `arguments`.
"""

import os

from nacre.tiny import TinyImage, initramfs
from support.guests import tiny_image
from support.witness import EVERY_S

SCRIPT = """#!/bin/sh
# Bring up what a claim needs, then claim for ever. One datagram per claim, no program started for it.
export PATH=/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
for module in /lib/modules/*.ko; do
    insmod "$module" 2>/dev/null
done
acpid -c /etc/acpi -l /dev/null -p /run/acpid.pid
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2

for word in $(cat /proc/cmdline); do
    case $word in
    claim.machine=*) machine=${word#*=} ;;
    claim.to=*) to=${word#*=} ;;
    claim.every=*) every=${word#*=} ;;
    esac
done
boot=$(cat /proc/sys/kernel/random/boot_id)
syslogd -R "$to"
mkfifo /run/never
claim() {
    counter=0
    while :; do
        echo "claim $machine $boot $counter"
        counter=$((counter + 1))
        read -r -t $every _ <>/run/never
    done
}
claim | logger &
echo "NACRE-TINY ready machine=$machine boot=$boot up=$(cut -d ' ' -f 1 /proc/uptime)s"
"""


def claiming_image(tiny: TinyImage | None = None) -> TinyImage:
    """The image, beside the tiny one that it is made from."""
    tiny = tiny or tiny_image()
    initrd = tiny.initrd.with_name("initrd-claiming")
    extra = initramfs.pack({"etc/rc": initramfs.file(SCRIPT.encode(), executable=True)})
    partial = initrd.with_name(f"{initrd.name}.{os.getpid()}")
    partial.write_bytes(tiny.initrd.read_bytes() + extra)
    partial.replace(initrd)
    return TinyImage(kernel=tiny.kernel, initrd=initrd, kernel_args=tiny.kernel_args)


def arguments(machine: str, recorder: str, *, every_s: float = EVERY_S) -> str:
    """Kernel arguments for one machine. `recorder` is `address:port`."""
    return f"claim.machine={machine} claim.to={recorder} claim.every={every_s}"
