"""The image `tiny`: a Linux kernel and a few-megabyte initramfs, built on this machine from distribution packages.

A shell on the serial console, DHCP, a web server with a page and `/cgi-bin/info`, virtio drivers, a power button that
works. Boots in seconds even without hardware virtualization. Used by `python -m nacre.tiny`, by `nacre image build`
and by the tests. Installs nothing and needs no root.
"""

from nacre.tiny.build import KERNEL_ARGS, TinyImage, build

__all__ = ["KERNEL_ARGS", "TinyImage", "build"]
