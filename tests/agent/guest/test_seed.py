"""The seed: the same bytes for the same content, readable by others' tools, and for its owner's eyes only."""

import email
import io
import time
from pathlib import Path

import pycdlib
import pytest
import yaml

from nacre.agent.guest import seed
from nacre.model import identity
from nacre.model.guests import CloudInit
from nacre.model.ids import CheckpointId, VmId

VM = VmId("vm-00000000000000000000000001")
FULL = CloudInit(
    user_data="#!/bin/sh\necho hello\n",
    meta_data={"role": "web"},
    network_config="version: 2\n",
    hostname="web-1",
    user="ann",
    ssh_keys=("ssh-ed25519 AAAA ann",),
    password_hash="$6$salt$hash",
)


def read(content: bytes) -> dict[str, str]:
    """What is on the medium, as another reader of ISO 9660 sees it."""
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(content))
    found: dict[str, str] = {}
    for child in iso.list_children(joliet_path="/"):
        name = child.file_identifier().decode("utf-16-be") if child.is_file() else ""
        if name:
            out = io.BytesIO()
            iso.get_file_from_iso_fp(out, joliet_path=f"/{name}")
            found[name.partition(";")[0]] = out.getvalue().decode()
    assert iso.pvd.volume_identifier.decode().strip() == "CIDATA"
    iso.close()
    return found


def test_it_holds_what_cloud_init_looks_for() -> None:
    found = read(seed.image(VM, FULL))
    assert set(found) == {"meta-data", "user-data", "vendor-data", "network-config"}
    assert found["user-data"] == FULL.user_data
    assert yaml.safe_load(found["meta-data"]) == {
        "instance-id": VM,
        "local-hostname": "web-1",
        "public-keys": ["ssh-ed25519 AAAA ann"],
        "role": "web",
    }
    vendor = yaml.safe_load(found["vendor-data"])
    assert vendor["user"] == {"name": "ann", "passwd": "$6$salt$hash", "lock_passwd": False}
    assert vendor["ssh_authorized_keys"] == ["ssh-ed25519 AAAA ann"]


def test_a_guest_that_is_given_little_has_no_more_than_that() -> None:
    found = read(seed.image(VM, CloudInit(hostname="web-1")))
    assert set(found) == {"meta-data", "user-data", "vendor-data"}
    assert yaml.safe_load(found["vendor-data"]) == {"hostname": "web-1", "preserve_hostname": False}


def test_the_same_content_gives_the_same_bytes_at_another_time_and_place(monkeypatch: pytest.MonkeyPatch) -> None:
    first = seed.image(VM, FULL)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        assert seed.image(VM, FULL) == first
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_clone_is_another_instance() -> None:
    clone = CloudInit(hostname="web-1", identity="2")
    assert seed.instance_id(VM, clone) == f"{VM}-2"
    assert seed.instance_id(VM, FULL) == VM
    assert seed.image(VM, clone) != seed.image(VM, CloudInit(hostname="web-1"))


def test_it_is_readable_by_its_owner_alone_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    seed.write(path, VM, FULL)
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.stat().st_ino
    seed.write(path, VM, FULL)
    assert path.stat().st_ino == before
    seed.write(path, VM, CloudInit(hostname="web-2"))
    assert path.stat().st_ino != before
    assert [entry.name for entry in tmp_path.iterdir()] == ["seed.iso"]


def test_a_machine_from_a_checkpoint_is_another_instance_and_makes_up_its_identity_anew() -> None:
    given = identity.renewed(CloudInit(hostname="web-2"), CheckpointId("ckpt-1"), "c2VlZA==")
    found = seed.files(VM, given)
    assert yaml.safe_load(found["meta-data"])["instance-id"] == f"{VM}-ckpt-1"
    config, hook = email.message_from_string(found["vendor-data"]).get_payload()
    vendor = yaml.safe_load(config.get_payload())
    assert (vendor["hostname"], vendor["ssh_deletekeys"], vendor["random_seed"]["data"]) == ("web-2", True, "c2VlZA==")
    assert "machine-id" in hook.get_payload()
    assert seed.image(VM, given) == seed.image(VM, given)
