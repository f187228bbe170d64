"""A bench with the QEMU driver, without an accelerator: what is tested here is the same under each."""

import pytest

from support.qemu_bench import qemu_bench


@pytest.fixture
async def lab():
    async with qemu_bench() as made:
        yield made
