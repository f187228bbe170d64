"""What is read of a machine's sizes and counters."""

from nacre.agent.hypervisors.abilities import DeviceCounters, GuestCounters, Sizes
from nacre.agent.hypervisors.cloud_hypervisor.sizes import counters_of, sizes_of


def test_sizes_are_those_that_were_asked_for():
    info = {
        "config": {
            "cpus": {"boot_vcpus": 3, "max_vcpus": 4},
            "memory": {"size": 1000, "hotplugged_size": 500, "zones": None},
            "balloon": {"size": 200},
        },
        "memory_actual_size": 1300,
    }
    assert sizes_of(info) == Sizes(cpus=3, memory_bytes=1500, reclaimed_bytes=200)


def test_memory_nodes_are_added_up():
    zones = [{"id": "a", "size": 10}, {"id": "b", "size": 20, "hotplugged_size": 5}]
    info = {"config": {"cpus": {"boot_vcpus": 1}, "memory": {"size": 0, "zones": zones}, "balloon": None}}
    assert sizes_of(info) == Sizes(cpus=1, memory_bytes=35)


def test_counters_are_told_apart_by_what_they_count():
    said = {
        "root": {"read_bytes": 1, "write_bytes": 2, "read_ops": 3, "write_ops": 4, "read_latency_min": 1 << 63},
        "nic0": {"rx_bytes": 5, "tx_bytes": 6, "rx_frames": 7, "tx_frames": 8},
        "__rng": {"something": 9},
    }
    assert counters_of(said) == GuestCounters(
        disks=(DeviceCounters(id="root", read_bytes=1, written_bytes=2, reads=3, writes=4),),
        nics=(DeviceCounters(id="nic0", read_bytes=5, written_bytes=6, reads=7, writes=8),),
    )
