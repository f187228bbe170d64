"""What is said while a command waits."""

import pytest

from nacre.cli import exits, progress, waiting
from nacre.cli.progress import of_operation
from nacre.model.convergence import Conditions, Failure, FailureClass
from nacre.model.images import ImageState
from nacre.model.operations import OperationState
from support.api_stub import NOW, ApiStub, operation
from support.command_line import Run


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOOK_S", 0.05)


@pytest.fixture
def endless(stub: ApiStub) -> ApiStub:
    stub.ends_as = {"state": OperationState.RUNNING}
    return stub


def degraded(generation: int) -> Conditions:
    failure = Failure(
        failure_class=FailureClass.TRANSIENT,
        code="disk_full",
        message="no space is left",
        hint="free some",
        generation=generation,
        at=NOW,
    )
    return Conditions(converged=False, phase="starting", generation=1, observed_generation=1, degraded=failure)


def test_what_keeps_a_machine_is_told_once_while_it_is_waited_for(nacre: Run, endless: ApiStub) -> None:
    endless.add_vm("web", conditions=degraded(1))
    ran = nacre("vm", "start", "web", "--wait", "--timeout", "1s")
    assert ran.code == exits.TIMEOUT
    lines = ran.err.splitlines()
    assert lines[0] == "vm.start web: waits: no space is left"
    assert lines[1].endswith("has not finished after 1 s: no space is left")
    assert lines[2:] == ["hint: free some"]


def test_what_kept_it_from_an_older_intent_is_not_told(nacre: Run, endless: ApiStub) -> None:
    endless.add_vm("web", conditions=degraded(0))
    ran = nacre("vm", "start", "web", "--wait", "--timeout", "500ms")
    assert (ran.code, "no space" in ran.err) == (exits.TIMEOUT, False)


@pytest.mark.parametrize(
    "words", ["image import debian http://127.0.0.1:1/d.raw --timeout 1s", "operation wait {id} --timeout 1s"]
)
def test_what_keeps_an_image_is_told_while_it_is_waited_for(
    nacre: Run, endless: ApiStub, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    image = endless.add_image(
        "old", state=ImageState.UPLOADING, error_code="fetch_failed", error="nobody answers", hint="start it"
    )
    begun = operation("image.import", image.id, "old")
    endless.operations[begun.id] = begun
    monkeypatch.setattr(ApiStub, "add_image", lambda self, name, **_: image)
    ran = nacre(*words.format(id=begun.id).split())
    assert ran.code == exits.TIMEOUT
    assert ran.err.splitlines()[0] == "image.import old: waits: nobody answers"
    assert "hint: start it" in ran.err


def test_a_reason_that_comes_again_with_another_time_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.spinner("import") as say:
        say("image.import old 10%: waits: nobody answers; tried again at 12:00:01 UTC")
        say("image.import old 12%: waits: nobody answers; tried again at 12:00:31 UTC")
        say("image.import old 12%: waits: the disk is full; tried again at 12:00:31 UTC")
        say("image.import old 13%: disk: 3MiB")
    assert [line.split(": ")[2].split(";")[0] for line in capsys.readouterr().err.splitlines()] == [
        "nobody answers",
        "the disk is full",
    ]


def test_an_operation_and_what_keeps_it_are_one_sentence() -> None:
    begun = operation("vm.start", "vm-x", "web", message="waits: no node has room", progress=0.5)
    assert of_operation(begun, "no node has room") == "vm.start web 50%: waits: no node has room"
    assert of_operation(operation("vm.start", "vm-x", "web"), "no space") == "vm.start web: waits: no space"
    assert of_operation(operation("vm.start", "vm-x", "web", message="disk: 3MiB")) == "vm.start web: disk: 3MiB"
