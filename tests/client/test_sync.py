import pytest

from nacre.client.sync import SyncNacre
from nacre.errors import NotFoundError
from support.api_stub import TOKEN, ApiStub, event


def test_a_program_without_an_event_loop_uses_the_same_calls(stub: ApiStub) -> None:
    stub.add_vm("web")
    with SyncNacre(stub.url, TOKEN) as nacre:
        assert nacre.run(nacre.api.vms.show("web")).name == "web"
        with pytest.raises(NotFoundError):
            nacre.run(nacre.api.vms.show("nobody"))


def test_a_stream_is_an_ordinary_iterator(stub: ApiStub) -> None:
    stub.events = [event(1), event(2)]
    with SyncNacre(stub.url, TOKEN) as nacre:
        stream = nacre.iterate(nacre.api.events.follow(after=0))
        assert [next(stream).cursor, next(stream).cursor] == [1, 2]


def test_a_list_ends(stub: ApiStub) -> None:
    stub.add_vm("web")
    with SyncNacre(stub.url, TOKEN) as nacre:
        assert [vm.name for vm in nacre.iterate(nacre.api.vms.each())] == ["web"]
