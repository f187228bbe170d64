"""The fields that Cloud Hypervisor 54 reads in each request. Others it drops without a word; a stand-in notes them.

`name:Type` is a field with fields of its own, or a list of such. From the project's data types, with those that its API
document does not know.
"""

import json
import os
from pathlib import Path
from typing import cast

Fields = dict[str, object]

STRAYS = "NACRE_STAND_IN_STRAYS"
"""Environment variable: a file to which a line is appended per field that was dropped. Tests fail if it has any."""

BODIES = {
    "vm.create": "Vm",
    "vm.resize": "Resize",
    "vm.resize-disk": "ResizeDisk",
    "vm.resize-zone": "ResizeZone",
    "vm.add-disk": "Disk",
    "vm.add-net": "Net",
    "vm.remove-device": "Remove",
    "vm.snapshot": "Snapshot",
    "vm.restore": "Restore",
    "vm.receive-migration": "Receive",
    "vm.send-migration": "Send",
}
_PCI = "id pci_segment pci_device_id"
_TYPES = {
    "Vm": "cpus:Cpus memory:Memory payload:Payload rate_limit_groups:Group disks:Disk net:Net rng:Rng balloon:Balloon "
    "fs pmem serial:Serial console:Console debug_console:Console devices user_devices vdpa vsock:Vsock numa:Numa iommu "
    "watchdog rtc pvpanic pci_segments platform:Platform tpm:Tpm landlock_enable landlock_rules generic_vhost_user",
    "Cpus": "boot_vcpus max_vcpus topology:Topology kvm_hyperv max_phys_bits nested affinity:Affinity features "
    "core_scheduling profile",
    "Topology": "threads_per_core cores_per_die dies_per_package packages",
    "Affinity": "vcpu host_cpus",
    "Memory": "size hotplug_size hotplugged_size mergeable hotplug_method shared hugepages hugepage_size prefault "
    "reserve thp zones:Zone",
    "Zone": "id size file mergeable shared hugepages hugepage_size host_numa_node hotplug_size hotplugged_size "
    "prefault reserve",
    "Payload": "firmware kernel cmdline initramfs igvm host_data fw_cfg_config",
    "Group": "id rate_limiter_config:Limiter",
    "Limiter": "bandwidth:Bucket ops:Bucket",
    "Bucket": "size one_time_burst refill_time",
    "Disk": f"{_PCI} path readonly direct iommu num_queues queue_size vhost_user vhost_socket serial backing_files "
    "sparse rate_limiter_config:Limiter rate_limit_group queue_affinity:QueueAffinity image_type lock_granularity "
    "disable_io_uring disable_aio",
    "QueueAffinity": "queue_index host_cpus",
    "Net": f"{_PCI} tap ip mask mac host_mac mtu iommu num_queues queue_size vhost_user vhost_socket vhost_mode fds "
    "rate_limiter_config:Limiter offload_tso offload_ufo offload_csum",
    "Rng": f"{_PCI} src iommu",
    "Balloon": f"{_PCI} size deflate_on_oom free_page_reporting iommu",
    "Serial": "file socket mode",
    "Console": f"{_PCI} file mode iommu iobase socket",
    "Vsock": f"{_PCI} cid socket iommu",
    "Numa": "guest_numa_id cpus distances memory_zones pci_segments device_id",
    "Platform": "num_pci_segments iommu_segments iommu_address_width_bits system_serial_number serial_number "
    "system_uuid uuid oem_strings system_manufacturer system_product_name system_version system_family "
    "system_sku_number chassis_asset_tag tdx sev_snp iommufd iommufd_fd vfio_p2p_dma",
    "Tpm": "socket",
    "Resize": "desired_vcpus desired_ram desired_balloon",
    "ResizeDisk": "id desired_size",
    "ResizeZone": "id desired_ram",
    "Remove": "id",
    "Snapshot": "destination_url",
    "Restore": "source_url prefault memory_restore_mode resume zone_updates net_fds vfio_fds iommufd_fd",
    "Receive": "receiver_url tls_dir memory_mode zone_updates vfio_fds iommufd_fd",
    "Send": "destination_url local downtime_ms timeout_s timeout_strategy connections tls_dir memory_mode "
    "preserve_source",
}
_STRICT = {"Limiter"}
"""These refuse fields that they do not know."""


class StrictError(Exception):
    """A field that is refused."""


def known(call: str, body: Fields) -> Fields:
    """Return what is read of a body, and write down the rest."""
    strays: list[str] = []
    found = _known(BODIES[call], body, call, strays)
    if strays and os.environ.get(STRAYS):
        with Path(os.environ[STRAYS]).open("a") as file:
            file.writelines(json.dumps(stray) + "\n" for stray in strays)
    return found


def _known(kind: str, value: Fields, where: str, strays: list[str]) -> Fields:
    types = dict(word.partition(":")[::2] for word in _TYPES[kind].split())
    found: Fields = {}
    for name, inner in value.items():
        here = f"{where}.{name}"
        if name not in types:
            if kind in _STRICT:
                raise StrictError(f"unknown field `{name}`")
            strays.append(here)
        elif types[name] and isinstance(inner, list):
            found[name] = [_known(types[name], cast("Fields", each), here, strays) for each in inner]
        elif types[name] and isinstance(inner, dict):
            found[name] = _known(types[name], cast("Fields", inner), here, strays)
        elif inner is not None:
            found[name] = inner
    return found
