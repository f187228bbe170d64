import pytest

from nacre.client.api import Nacre
from nacre.errors import ConflictError, NacreError, TimeoutExpiredError
from nacre.model.operations import OperationState
from nacre.schema.common import OperationOut
from nacre.schema.vms import VmCreate
from support.api_stub import ApiStub

pytestmark = pytest.mark.anyio


async def started(nacre: Nacre) -> OperationOut:
    return (await nacre.vms.create(VmCreate(name="web", image="tiny"))).operation


async def test_waiting_returns_the_operation_that_succeeded(nacre: Nacre) -> None:
    seen: list[OperationState] = []
    done = await nacre.operations.wait(await started(nacre), timeout_s=5, seen=lambda o: seen.append(o.state))
    assert done.state is OperationState.SUCCEEDED
    assert seen == [OperationState.RUNNING, OperationState.SUCCEEDED]


async def test_a_failed_operation_is_raised_with_its_code_and_hint(stub: ApiStub, nacre: Nacre) -> None:
    stub.ends_as = {
        "state": OperationState.FAILED,
        "error_code": "no_room",
        "message": "no node has 64 GiB free",
        "hint": "ask for less memory",
    }
    with pytest.raises(NacreError, match="no node has 64 GiB free") as caught:
        await nacre.operations.wait(await started(nacre), timeout_s=5)
    assert (caught.value.code, caught.value.hint) == ("no_room", "ask for less memory")


async def test_an_operation_that_takes_too_long_is_a_timeout(stub: ApiStub, nacre: Nacre) -> None:
    stub.ends_as = {"state": OperationState.RUNNING}
    with pytest.raises(TimeoutExpiredError, match=r"vm\.create of web has not finished after 0\.2 s"):
        await nacre.operations.wait(await started(nacre), timeout_s=0.2)


@pytest.mark.parametrize("state", [OperationState.SUPERSEDED, OperationState.CANCELLED])
async def test_an_operation_that_was_overtaken_is_a_conflict(
    stub: ApiStub, nacre: Nacre, state: OperationState
) -> None:
    stub.ends_as = {"state": state}
    with pytest.raises(ConflictError):
        await nacre.operations.wait(await started(nacre), timeout_s=5)
