"""Who a machine is, and how one whose disk was another machine's becomes somebody else.

That is one made from a checkpoint, or from an image of one. Called where machines are made and where the medium
for their cloud-inits is written. Pure. The rules:

* **Id, name, MACs.** A new machine has an id and a name of its own. MACs that its origin was given are not taken over:
  they are derived from the new id, as is the UUID that firmware and hypervisors show.
* **cloud-init's instance-id.** Made of the machine's id and the checkpoint, so the guest's cloud-init takes itself for
  new and does once more all that it does once per instance: hostname, network configuration, users and keys.
* **SSH host keys.** Deleted and made anew by cloud-init for the new instance (`ssh_deletekeys`).
* **machine-id.** Made anew, once per instance, by a boot hook in the vendor data, as early as cloud-init can.
* **Randomness.** cloud-init mixes a fresh seed, different for every machine, into the guest's pool. Before that, a
  kernel that knows generation ids (Linux from 5.18 on) reseeds: QEMU shows another one in every life of every machine,
  also in one that goes on from saved memory.

A guest without cloud-init only gets what the hypervisor shows: MACs, UUID and generation id. Nothing of a guest is
changed that is put back to a checkpoint of its own: it is who it was. What else programs in a guest have made up for
themselves, such as identities in a cluster, nobody but them can change.
"""

from collections.abc import Mapping

import msgspec

from nacre.model.guests import CloudInit
from nacre.model.ids import CheckpointId

_BOUNDARY = "nacre-vendor-data"
_HOOK = """#!/bin/sh
# Once per instance: this guest's disk was another machine's.
cloud-init-per instance nacre-machine-id sh -c '
  rm -f /var/lib/dbus/machine-id
  : >/etc/machine-id
  if command -v systemd-machine-id-setup >/dev/null; then rm -f /etc/machine-id; systemd-machine-id-setup; fi
  if [ ! -s /etc/machine-id ]; then tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id; fi
  if [ -d /var/lib/dbus ]; then ln -sf /etc/machine-id /var/lib/dbus/machine-id; fi
'
"""


def renewed(given: CloudInit, checkpoint: CheckpointId, random_seed: str) -> CloudInit:
    """Return what the cloud-init of a machine is given whose disk is of a checkpoint. `random_seed` is base64."""
    return msgspec.structs.replace(given, identity=checkpoint, random_seed=random_seed)


def config(given: CloudInit) -> Mapping[str, object]:
    """Return what the vendor data say besides, for a guest that becomes somebody else; nothing for others."""
    if not given.identity:
        return {}
    seed = {"file": "/dev/urandom", "encoding": "b64", "data": given.random_seed}
    return {"ssh_deletekeys": True, **({"random_seed": seed} if given.random_seed else {})}


def with_hook(vendor_data: str, given: CloudInit) -> str:
    """Return vendor data together with the boot hook, as a MIME message; as they are for others."""
    if not given.identity:
        return vendor_data
    head = f'Content-Type: multipart/mixed; boundary="{_BOUNDARY}"\nMIME-Version: 1.0\n'
    parts = (("cloud-config", vendor_data), ("cloud-boothook", _HOOK))
    body = "".join(
        f'--{_BOUNDARY}\nContent-Type: text/{kind}; charset="utf-8"\nMIME-Version: 1.0\n\n{text}\n'
        for kind, text in parts
    )
    return f"{head}\n{body}--{_BOUNDARY}--\n"
