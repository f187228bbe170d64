import pytest

from nacre.cli import exits
from support.api_stub import ApiStub
from support.command_line import Run


@pytest.mark.parametrize(
    "words",
    [
        "vm delete web",
        "vm restore web early",
        "vm delete-checkpoint web early",
        "volume delete data",
        "volume restore data early",
        "volume delete-snapshot data early",
        "pool delete fast",
        "image delete tiny",
        "template delete shop",
        "instance-type delete small",
        "node delete rack1",
        "node discard rack1",
        "node allow-teardown rack1",
        "node evacuate rack1 --confirm-dead",
        "failover confirm rack1 --confirm-dead",
        "rebalance",
        "project delete shop",
        "user delete ada",
    ],
)
def test_where_nobody_can_be_asked_only_yes_destroys_something(nacre: Run, stub: ApiStub, words: str) -> None:
    ran = nacre(*words.split())
    assert ran.code == exits.USAGE
    assert "hint: say --yes" in ran.err
    assert stub.requests == []
    assert "nobody is here" not in nacre(*words.split(), "--yes").err
    assert stub.requests != []


def test_a_context_is_forgotten_by_a_script_that_says_so(run: Run, stub: ApiStub) -> None:
    run("login", stub.url, "--token", "nacre_secret", "--name", "one")
    assert run("context", "delete", "one").code == exits.USAGE
    assert run("context", "delete", "one", "--yes").code == exits.OK
