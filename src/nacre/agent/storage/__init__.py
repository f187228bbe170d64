"""Storage drivers: where a machine's disks come from."""
