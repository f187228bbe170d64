import json

import pytest
import yaml

from nacre.cli import exits
from nacre.model.convergence import Conditions, Failure, FailureClass
from nacre.model.guests import GuestAddress, GuestInfo
from nacre.model.hardware import DiskOptions
from nacre.model.ids import ImageId, VolumeId
from nacre.model.operations import OperationState
from nacre.model.vms import NicSpec, Phase, VmSpec
from nacre.schema.common import VmRef
from nacre.schema.volumes import AttachmentOut, VolumeRef
from support.api_stub import NOW, ApiStub
from support.command_line import Run


def test_a_list_is_a_table_for_people(nacre: Run, stub: ApiStub) -> None:
    stub.add_vm("web")
    stub.add_vm("db", phase=Phase.STOPPED)
    lines = nacre("vm", "list").out.splitlines()
    assert lines[0].split()[:3] == ["NAME", "PHASE", "NODE"]
    assert [line.split()[:2] for line in lines[1:]] == [["web", "running"], ["db", "stopped"]]
    assert all(line == line.rstrip() for line in lines)


def test_an_empty_list_says_so_beside_the_output(nacre: Run) -> None:
    ran = nacre("vm", "list")
    assert (ran.code, ran.out, ran.err) == (0, "", "no machines here\n")
    assert json.loads(nacre("vm", "list", "-o", "json").out) == []


def test_json_and_yaml_are_what_the_api_answers(nacre: Run, stub: ApiStub) -> None:
    vm = stub.add_vm("web", labels={"tier": "front"})
    shown = json.loads(nacre("vm", "show", "web", "-o", "json").out)
    assert (shown["id"], shown["labels"], shown["spec"]["cpus"]) == (vm.id, {"tier": "front"}, 1)
    assert yaml.safe_load(nacre("vm", "show", "web", "-o", "yaml").out) == shown


def test_several_objects_are_a_list_in_json(nacre: Run, stub: ApiStub) -> None:
    stub.add_vm("a")
    stub.add_vm("b")
    assert [vm["name"] for vm in json.loads(nacre("vm", "show", "a", "b", "-o", "json").out)] == ["a", "b"]


def test_a_machine_shows_why_it_is_not_what_it_should_be(nacre: Run, stub: ApiStub) -> None:
    failure = Failure(
        failure_class=FailureClass.TRANSIENT,
        code="disk_full",
        message="no space is left",
        hint="free some",
        generation=2,
        at=NOW,
    )
    conditions = Conditions(converged=False, phase="starting", generation=2, observed_generation=1, degraded=failure)
    stub.add_vm("web", phase=Phase.STARTING, conditions=conditions)
    shown = nacre("vm", "show", "web").out
    assert "no space is left (disk_full, transient)" in shown
    assert "free some" in shown
    assert "disk_full" in nacre("vm", "list").out


def test_a_machine_shows_its_volumes_and_nics(nacre: Run, stub: ApiStub) -> None:
    nics = (NicSpec(mac="52:54:00:00:00:01"), NicSpec())
    addresses = (
        GuestAddress(address="10.0.2.15", prefix=24, interface="eth0", mac="52:54:00:00:00:01", nic="nic0"),
        GuestAddress(address="fd00::2", prefix=64, interface="eth1", mac="52:54:00:00:00:02", nic="nic1"),
    )
    spec = VmSpec(image=ImageId("img-" + "0" * 26), nics=nics)
    vm = stub.add_vm("web", spec=spec, guest=GuestInfo(addresses=addresses, seen_at=NOW))
    stub.attachments = [
        AttachmentOut(
            volume=VolumeRef(id=VolumeId("vol-" + "0" * 26), name="data"),
            vm=VmRef(id=vm.id, name="web"),
            serial="abc",
            options=DiskOptions(),
            read_only=True,
            delete_with_vm=False,
            open=True,
            leaving=False,
        )
    ]
    shown = [line.split() for line in nacre("vm", "show", "web").out.splitlines()]
    assert ["volumes", "data", "(serial", "abc),", "read-only"] in shown
    assert ["nics", "nic0:", "user,", "mac", "52:54:00:00:00:01,", "10.0.2.15/24"] in shown
    assert ["nic1:", "user,", "mac", "52:54:00:00:00:02,", "fd00::2/64"] in shown


@pytest.mark.parametrize("words", [("vm", "list"), ("image", "list"), ("operation", "list")])
def test_an_empty_list_says_whether_a_filter_made_it_so(nacre: Run, words: tuple[str, str]) -> None:
    assert "filter" not in nacre(*words).err
    ran = nacre(*words, "--filter", "phase=lost")
    assert (ran.code, ran.out, ran.err) == (0, "", "nothing here matches the filter\n")


def test_filters_and_labels_reach_the_server(nacre: Run, stub: ApiStub) -> None:
    stub.add_vm("web", labels={"tier": "front"})
    stub.add_vm("db", phase=Phase.STOPPED)
    assert "web" in nacre("vm", "list", "--label", "tier=front").out
    assert "db" not in nacre("vm", "list", "--filter", "phase=running").out


def test_create_returns_when_accepted_and_wait_when_it_is_true(nacre: Run, stub: ApiStub) -> None:
    ran = nacre("vm", "create", "web", "--image", "tiny", "--memory", "128MiB", "--publish", "8080:80")
    assert ran.code == 0
    assert ran.out.startswith("web: vm.create accepted (operation op-")
    assert nacre("vm", "create", "db", "--image", "tiny", "--wait").out == "db: running\n"


def test_create_in_json_has_the_resource_and_its_operation(nacre: Run) -> None:
    made = json.loads(nacre("vm", "create", "web", "--image", "tiny", "--wait", "-o", "json").out)
    assert (made["resource"]["name"], made["operation"]["state"]) == ("web", "succeeded")


def test_a_name_that_is_taken_is_a_conflict(nacre: Run, stub: ApiStub) -> None:
    stub.add_vm("web")
    assert nacre("vm", "create", "web", "--image", "tiny").code == exits.CONFLICT


def test_a_failed_wait_tells_the_reason(nacre: Run, stub: ApiStub) -> None:
    stub.ends_as = {
        "state": OperationState.FAILED,
        "error_code": "no_placement",
        "message": "no node fits",
        "hint": "ask for less",
    }
    ran = nacre("vm", "create", "web", "--image", "tiny", "--wait")
    assert (ran.code, ran.out) == (exits.ERROR, "")
    assert ran.err == "nacre: vm.create of web failed: no node fits\nhint: ask for less\n"


def test_a_wait_that_expires_has_its_own_code(nacre: Run, stub: ApiStub) -> None:
    stub.ends_as = {"state": OperationState.RUNNING}
    ran = nacre("vm", "create", "web", "--image", "tiny", "--wait", "--timeout", "200ms")
    assert ran.code == exits.TIMEOUT
    assert "0.2 s" in ran.err


@pytest.mark.parametrize("verb", ["start", "stop", "reboot", "reset", "pause", "resume", "delete"])
def test_a_verb_takes_several_machines(nacre: Run, stub: ApiStub, verb: str) -> None:
    stub.add_vm("a")
    stub.add_vm("b")
    ran = nacre("vm", verb, "a", "b", "--wait", *(["--yes"] if verb == "delete" else []))
    assert ran.code == 0
    assert [line.split(":")[0] for line in ran.out.splitlines()] == ["a", "b"]


def test_nothing_is_deleted_where_nobody_can_be_asked(nacre: Run, stub: ApiStub) -> None:
    stub.add_vm("web")
    ran = nacre("vm", "delete", "web")
    assert (ran.code, ran.out) == (exits.USAGE, "")
    assert ran.err == (
        "nacre: nobody is here to be asked: delete web with disks, for good?\nhint: say --yes if that is meant\n"
    )
    assert stub.requests == []


def test_a_failure_among_several_does_not_keep_the_others(nacre: Run, stub: ApiStub) -> None:
    stub.add_vm("a")
    stub.add_vm("c")
    ran = nacre("vm", "delete", "a", "nobody", "c", "--yes", "--wait")
    assert ran.code == exits.NOT_FOUND
    assert ran.err.startswith("nacre: nobody: there is no such machine\nhint: ")
    assert ran.out.splitlines() == ["a: deleted", "c: deleted"]
    assert stub.vms == {}


def test_labels_are_changed_on_what_was_read(nacre: Run, stub: ApiStub) -> None:
    stub.add_vm("web", labels={"old": "1", "keep": "2"})
    assert nacre("vm", "update", "web", "--label", "old-", "--label", "new=3").code == 0
    found = stub.vm("web")
    assert found is not None
    assert found.labels == {"keep": "2", "new": "3"}


def test_an_update_of_nothing_is_refused(nacre: Run, stub: ApiStub) -> None:
    stub.add_vm("web")
    assert nacre("vm", "update", "web").code == exits.USAGE


def test_the_log_is_printed_as_it_is(nacre: Run, stub: ApiStub) -> None:
    stub.add_vm("web")
    assert nacre("vm", "log", "web").out == "booted\r\nlogin: "
    assert nacre("vm", "log", "web", "--tail", "7B").out == "login: "
