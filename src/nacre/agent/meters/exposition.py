"""Samples of machines in Prometheus' text format. Pure.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Iterator, Mapping

from nacre.agent.meters.samples import Sample
from nacre.model.ids import VmId

_SERIES = (
    ("cpu_ns", "cpu_seconds_total", "counter", "CPU time of the host that the machine took.", 1e9),
    ("resident_bytes", "memory_resident_bytes", "gauge", "Memory of the host that the machine's process has.", 1),
    ("balloon_bytes", "memory_balloon_bytes", "gauge", "What the balloon has taken from the guest.", 1),
    ("disk_read_bytes", "disk_read_bytes_total", "counter", "Bytes read from disks.", 1),
    ("disk_written_bytes", "disk_written_bytes_total", "counter", "Bytes written to disks.", 1),
    ("disk_reads", "disk_reads_total", "counter", "Reads from disks.", 1),
    ("disk_writes", "disk_writes_total", "counter", "Writes to disks.", 1),
    ("received_bytes", "network_received_bytes_total", "counter", "Bytes that the guest received.", 1),
    ("sent_bytes", "network_sent_bytes_total", "counter", "Bytes that the guest sent.", 1),
    ("received_packets", "network_received_packets_total", "counter", "Packets that the guest received.", 1),
    ("sent_packets", "network_sent_packets_total", "counter", "Packets that the guest sent.", 1),
    ("guest_load_milli", "guest_load_1m", "gauge", "Load of the guest, as its agent says.", 1e3),
    ("guest_available_bytes", "guest_memory_available_bytes", "gauge", "Memory that the guest has left.", 1),
    ("guest_disk_used_bytes", "guest_disk_used_bytes", "gauge", "What the guest's file systems hold.", 1),
)


def lines(latest: Mapping[VmId, Sample], names: Mapping[VmId, str]) -> Iterator[str]:
    """Yield the lines of all machines; nothing for what nobody counts."""
    for field, name, kind, text, factor in _SERIES:
        known = [(vm, value) for vm in sorted(latest) if (value := getattr(latest[vm], field)) is not None]
        if not known:
            continue
        yield f"# HELP nacre_vm_{name} {text}"
        yield f"# TYPE nacre_vm_{name} {kind}"
        for vm, value in known:
            yield f'nacre_vm_{name}{{vm="{vm}",name="{_escaped(names.get(vm, ""))}"}} {value / factor:.15g}'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
