"""Disks whose writes go elsewhere while the guest runs. Real guests; every change is made twice."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nacre.agent.hypervisors.abilities import CanSnapshotDisks
from nacre.agent.hypervisors.launch import DiskFile
from nacre.agent.hypervisors.qemu.layering import layer_of, path_of
from nacre.model.hardware import DiskOptions, RateLimits, TokenBucket
from nacre.model.units import MIB

pytestmark = [pytest.mark.anyio, pytest.mark.host]

SLOW = RateLimits(bandwidth=TokenBucket(size=64 * MIB))
VOLUME = "vol-01m7ysnyghpha2pa88yjx222cp"


def test_names_are_read_as_qemu_writes_them():
    assert path_of("/a/b.qcow2") == Path("/a/b.qcow2")
    assert path_of('json:{"driver":"qcow2","file":{"driver":"file","filename":"/a/b"}}') == Path("/a/b")
    assert path_of("") == Path()


def test_names_of_layers_fit_into_qemu():
    assert len(layer_of(VOLUME, Path("/a" * 100))) <= 31


def image(*words):
    subprocess.run(["qemu-img", *words], check=True, capture_output=True)


def first(launch, name="first.qcow2", **options):
    path = launch.directory / name
    image("create", "-q", "-f", "qcow2", str(path), str(16 * MIB))
    return DiskFile(id=VOLUME, path=path, format="qcow2", options=DiskOptions(**options))


def overlay(disk, name):
    path = disk.path.with_name(name)
    image("create", "-q", "-f", "qcow2", "-u", "-b", disk.path.name, "-F", "qcow2", str(path), str(16 * MIB))
    return replace(disk, path=path)


def backing(disk):
    done = subprocess.run(["qemu-img", "info", "-U", "--output=json", str(disk.path)], capture_output=True, check=True)
    return json.loads(done.stdout).get("backing-filename")


def content(disk, offset=0):
    words = ["qemu-io", "-U", "-f", "qcow2", "-r", "-c", f"read -v {offset} 5", str(disk.path)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def opened(guest):
    """The files that a guest's process has open."""
    return {str(link.readlink()) for link in Path(f"/proc/{guest.handle.pid}/fd").iterdir()}


async def write(shell, text, at=0):
    done = await shell.run(f"echo {text} | dd of=/dev/vda bs=512 seek={at} conv=fsync,notrunc 2>&1")
    assert "records out" in done


@pytest.mark.parametrize("plugged", [False, True])
@pytest.mark.parametrize("limits", [{}, {"limits": SLOW}], ids=["free", "limited"])
async def test_a_guest_goes_on_in_another_layer_and_what_was_there_stays(lab, plugged, limits):
    launch = lab.tiny()
    one = first(launch, **limits)
    guest, shell = await lab.booted(launch if plugged else replace(launch, disks=(one,)))
    if plugged:
        await guest.attach_disk(one)
    assert isinstance(guest, CanSnapshotDisks)
    await shell.until("test -b /dev/vda && echo a disk", "a disk")
    await write(shell, "alpha")
    two, three = overlay(one, "second.qcow2"), None
    for _ in range(2):
        await guest.switch_disk(VOLUME, two)
    await write(shell, "bravo")
    three = overlay(two, "third.qcow2")
    for _ in range(2):
        await guest.switch_disk(VOLUME, three)
    await write(shell, "delta")
    assert "alpha" in content(one)
    assert "bravo" in content(two)
    assert "delta" in content(three)
    for _ in range(2):
        await guest.merge_disk(VOLUME, two.path)
    assert backing(three) == one.path.name
    assert str(two.path) not in opened(guest), "it still holds the layer that was merged"
    two.path.unlink()
    assert "delta" in await shell.run("dd if=/dev/vda bs=5 count=1 2>/dev/null")
    await guest.resize_disk(VOLUME, 32 * MIB)
    await shell.until("cat /sys/block/vda/size", str(32 * MIB // 512))
    await guest.detach_disk(VOLUME, 30)
    assert not [name for name in await guest._talk.nodes() if name.startswith(("layer-", VOLUME))]
    again = replace(three, options=DiskOptions())
    await guest.attach_disk(again)
    await shell.until("head -c 5 /dev/vd?", "delta")


async def test_a_lower_layer_is_merged_while_the_guest_writes_to_an_upper_one(lab):
    launch = lab.tiny()
    one = first(launch)
    guest, shell = await lab.booted(replace(launch, disks=(one,)))
    await shell.until("test -b /dev/vda && echo a disk", "a disk")
    layers = [one]
    for index in range(1, 4):
        await write(shell, f"word{index}", at=index)
        layers.append(overlay(layers[-1], f"layer{index}.qcow2"))
        await guest.switch_disk(VOLUME, layers[-1])
    await guest.merge_disk(VOLUME, layers[1].path)  # into layers[2], which stays
    assert backing(layers[2]) == one.path.name
    assert str(layers[1].path) not in opened(guest)
    layers[1].path.unlink()
    for index in range(1, 4):
        assert f"word{index}" in await shell.run(f"dd if=/dev/vda bs=512 skip={index} count=1 2>/dev/null | head -c 5")
    assert "word2" in content(layers[2], 1024)
