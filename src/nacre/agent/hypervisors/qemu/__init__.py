"""QEMU, one process per machine, driven over QMP."""
