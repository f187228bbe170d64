"""Machines as callers see them, from creation to the row's end."""

import pytest

from nacre.control.store.db import Database
from nacre.errors import NotFoundError
from nacre.model.operations import OperationState
from nacre.model.vms import Desired, Phase
from support.cloud import cloud

pytestmark = pytest.mark.anyio


async def test_a_machine_is_created_placed_run_and_deleted_without_a_trace(database: Database) -> None:
    platform = await cloud(database)
    accepted = await platform.create("web")
    assert accepted.resource.phase is Phase.PENDING
    assert accepted.operation.state is OperationState.RUNNING
    assert not accepted.resource.conditions.converged

    await platform.converge()
    vm = await platform.vm("web")
    assert (vm.phase, vm.desired, vm.conditions.converged) == (Phase.RUNNING, Desired.RUNNING, True)
    assert vm.node is not None
    assert vm.node.name == "node-1"

    await platform.verb("delete")
    await platform.converge()
    with pytest.raises(NotFoundError):
        await platform.vm("web")
