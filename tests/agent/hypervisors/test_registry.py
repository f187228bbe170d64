"""Drivers by name."""

from importlib.metadata import EntryPoint

import pytest

from nacre.agent.hypervisors import guarding, registry
from nacre.agent.hypervisors.base import Hypervisor
from nacre.errors import UnsupportedError
from nacre.model.vms import HYPERVISORS


def test_who_asks_for_a_hypervisor_can_name_every_driver() -> None:
    assert set(HYPERVISORS) == set(registry.DRIVERS)


@pytest.mark.parametrize("name", registry.DRIVERS)
def test_every_driver_is_found_under_its_own_name(name: str, tmp_path) -> None:
    driver: Hypervisor = registry.load(name, tmp_path)
    assert driver.name == name


def test_an_unknown_driver_is_refused_with_the_known_ones(tmp_path) -> None:
    with pytest.raises(UnsupportedError) as caught:
        registry.load("vapour", tmp_path)
    assert "qemu" in caught.value.hint


def test_a_third_party_adds_a_driver_but_does_not_replace_ours(tmp_path, monkeypatch) -> None:
    fake = registry.DRIVERS["fake"]
    points = [EntryPoint("other", fake, registry.ENTRY_POINTS), EntryPoint("qemu", fake, registry.ENTRY_POINTS)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    assert registry.load("other", tmp_path).name == "fake"
    assert registry.load("qemu", tmp_path).name == "qemu"


def test_abilities_follow_from_what_a_driver_can(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(guarding, "obstacle", lambda: "")
    assert registry.abilities(registry.load("qemu", tmp_path)) == ("guard", "prove-acceleration", "live-moves")
    assert registry.abilities(registry.load("fake", tmp_path)) == ("guard",)


@pytest.mark.anyio
async def test_where_guests_cannot_be_guarded_that_is_said_with_the_reason(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(guarding, "obstacle", lambda: "not here")
    driver = registry.load("fake", tmp_path)
    assert registry.abilities(driver) == ()
    info = await driver.probe()
    assert info.available
    assert info.reason == "not here"
