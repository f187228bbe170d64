"""Options of machines on the command line, by name, by path and from a file."""

import json

import pytest

from nacre.cli import exits
from nacre.cli.hardware import Hardware, apply, assignments, made, put, shown
from nacre.errors import InvalidInputError
from nacre.model.guests import SeedRef
from nacre.model.hardware import BootOptions, Firmware, TokenBucket, WatchdogAction
from nacre.model.ids import ImageId
from nacre.model.units import GIB, MIB
from nacre.model.vms import VmSpec
from nacre.schema.vms import VmCreate
from support.api_stub import ApiStub
from support.command_line import Run


def created(asked: Hardware) -> VmCreate:
    tree: dict[str, object] = {"name": "web", "image": "tiny", "nics": [{"network": "user"}]}
    apply(tree, asked)
    return made(tree, VmCreate)


def test_common_options_are_fields_of_the_machine() -> None:
    body = created(
        Hardware(
            cpus_max=8,
            pin=("0=0-3,8", "1=4"),
            memory_max="2GiB",
            balloon="0B",
            firmware="uefi",
            secure_boot=True,
            tpm=True,
            watchdog="reset",
            vnc=True,
            disk_limit=("50MiB/s", "500/s"),
            nic_limit=("1MiB/s",),
        )
    )
    assert (body.cpu.max, [pin.host_cpus for pin in body.cpu.pins]) == (8, ["0-3,8", "4"])
    assert body.memory.max_bytes == 2 * GIB
    assert body.memory.balloon is not None
    assert body.boot == BootOptions(firmware=Firmware.UEFI, secure_boot=True)
    assert (body.devices.tpm, body.devices.watchdog) == (True, WatchdogAction.RESET)
    assert body.root_disk.limits.bandwidth == TokenBucket(size=50 * MIB)
    assert body.root_disk.limits.operations == TokenBucket(size=500)
    options = body.nics[0].options
    assert options.send_limits == options.receive_limits
    assert options.send_limits.bandwidth == TokenBucket(size=MIB)


def test_any_field_is_set_by_its_path() -> None:
    body = created(Hardware(set_=("memory.thp=false", "nics[1].options.mtu=1400", "memory.max_bytes=1GiB")))
    assert (body.memory.thp, body.memory.max_bytes) == (False, GIB)
    assert [nic.options.mtu for nic in body.nics] == [None, 1400]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("memory", "set"),
        ("=1", "set"),
        ("a..b=1", "set"),
        ("nics[99]=1", "set"),
        ("name.x.y=1", "set"),
        ("cpu.max=many", "cpu.max"),
        ("cpu.colour=1", "cpu"),
        ("memory.max_bytes=much", "memory.max_bytes"),
    ],
)
def test_what_cannot_be_set_is_said(text: str, field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        created(Hardware(set_=(text,)))
    assert refused.value.field == field
    assert refused.value.hint


@pytest.mark.parametrize("asked", [Hardware(pin=("x",)), Hardware(disk_limit=("fast",)), Hardware(memory_max="2")])
def test_what_cannot_be_read_is_refused_with_a_hint(asked: Hardware) -> None:
    with pytest.raises(InvalidInputError) as refused:
        assignments(asked)
    assert refused.value.hint


def test_a_tree_is_shown_as_it_is_set() -> None:
    tree: dict[str, object] = {}
    lines = ["cpu.max=8", "nics[0].options.mtu=1400", "devices.tpm=true"]
    apply(tree, Hardware(set_=tuple(lines)))
    assert shown(tree) == lines
    put(tree, "cpu.max", 4)
    assert shown(tree)[0] == "cpu.max=4"


def test_a_file_is_the_basis_and_options_win(nacre: Run, stub: ApiStub, tmp_path) -> None:
    spec = tmp_path / "web.yaml"
    spec.write_text("image: tiny\ncpus: 2\nmemory_bytes: 256MiB\ncpu: {max: 4}\nlabels: {tier: front}\n")
    ran = nacre("vm", "create", "web", "-f", str(spec), "--cpus", "3", "--cpus-max", "6")
    assert ran.code == 0, ran.err
    shown_ = json.loads(nacre("vm", "show", "web", "-o", "json").out)
    assert (shown_["spec"]["cpus"], shown_["spec"]["cpu"]["max"]) == (3, 6)
    assert shown_["labels"] == {"tier": "front"}
    assert "cpu.max=6" in nacre("vm", "show", "web").out


def test_without_an_image_or_with_a_file_that_is_not_there_nothing_is_created(nacre: Run, stub: ApiStub) -> None:
    ran = nacre("vm", "create", "web")
    assert ran.code != exits.OK
    assert "no image is named" in ran.err
    assert "nowhere.yaml" in nacre("vm", "create", "web", "-f", "nowhere.yaml").err
    assert nacre("vm", "list", "-o", "json").out.strip() == "[]"


def test_an_update_changes_what_is_named_and_leaves_the_rest_of_the_object(nacre: Run, stub: ApiStub) -> None:
    assert nacre("vm", "create", "web", "--image", "tiny", "--cpus-max", "8", "--cpu-model", "EPYC").code == 0
    ran = nacre("vm", "update", "web", "--set", "cpu.max=4", "--disk", "10GiB")
    assert ran.code == 0, ran.err
    spec = json.loads(nacre("vm", "show", "web", "-o", "json").out)["spec"]
    assert (spec["cpu"], spec["disk_bytes"]) == ({"max": 4, "model": "EPYC"}, 10 * GIB)


def test_what_cloud_init_is_given_is_set_anew_because_nobody_is_shown_what_it_was(nacre: Run, stub: ApiStub) -> None:
    seeded = VmSpec(image=ImageId("img-" + "0" * 26), cloud_init=SeedRef(digest="00ff", parts=("user_data",)))
    stub.add_vm("web", spec=seeded)
    ran = nacre("vm", "update", "web", "--set", "cloud_init.hostname=web-2")
    assert ran.code == 0, ran.err
    given = json.loads(nacre("vm", "show", "web", "-o", "json").out)["spec"]["cloud_init"]
    assert (given["parts"], given["hostname"]) == (["hostname"], "web-2")


def test_only_the_next_item_of_a_list_can_be_added() -> None:
    with pytest.raises(InvalidInputError) as refused:
        created(Hardware(set_=("nics[5].network=user",)))
    assert refused.value.message == "'nics[5].network': there are 1 of them, so the next one is [1]"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cpus", "3", "--set", "cpus=2"), "--cpus and --set cpus=2 are about the same thing"),
        (("--memory", "1GiB", "--set", "memory_bytes=2GiB"), "--memory and --set memory_bytes=2147483648"),
        (("--cpus-max", "8", "--set", "cpu.max=4"), "--cpus-max and --set cpu.max=4"),
        (("--tpm", "--set", "devices={tpm: false}"), "--tpm and --set devices="),
        (("--publish", "18090:80", "--no-publish"), "--publish and --no-publish do not go together"),
    ],
)
def test_what_is_said_twice_is_refused(nacre: Run, stub: ApiStub, words: tuple[str, ...], said: str) -> None:
    stub.add_vm("old")
    for verb in (("create", "web", "--image", "tiny"), ("update", "old")):
        ran = nacre("vm", *verb, *words)
        assert (ran.code, said in ran.err) == (exits.USAGE, True), ran.err
    assert not any(method in {"POST", "PATCH"} for method, *_ in stub.requests)


def test_no_cloud_init_goes_with_none_of_its_options(nacre: Run, stub: ApiStub) -> None:
    stub.add_vm("web")
    assert "--no-cloud-init" in nacre("vm", "update", "web", "--no-cloud-init", "--hostname", "web").err


def test_parts_of_what_an_option_gives_may_be_set_beside_it(nacre: Run) -> None:
    words = ("--nic", "--set", "nics[0].options.mtu=1400", "--label", "a=1", "--set", "labels.b=two", "--no-start")
    assert nacre("vm", "create", "web", "--image", "tiny", *words).code == exits.OK
    assert nacre("vm", "update", "web", "--set", "nics[0].options.mtu=1500").code == exits.OK
    spec = json.loads(nacre("vm", "show", "web", "-o", "json").out)["spec"]
    assert [nic["options"]["mtu"] for nic in spec["nics"]] == [1500]
