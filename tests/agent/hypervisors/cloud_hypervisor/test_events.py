"""What Cloud Hypervisor tells: decoding however it is cut, and what it means for a machine."""

import asyncio
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacre.agent.hypervisors.abilities import MigrationState
from nacre.agent.hypervisors.base import GuestState
from nacre.agent.hypervisors.cloud_hypervisor import events
from nacre.agent.hypervisors.cloud_hypervisor.events import Decoder, Event, Story
from support.patience import within


def written(source: str, name: str, **properties: str) -> bytes:
    found = {"timestamp": {"secs": 1, "nanos": 2}, "source": source, "event": name, "properties": properties or None}
    return json.dumps(found, indent=2).encode() + b"\n\n"


TEXT = written("vmm", "starting") + written("vm", "device-removed", id="d1", bdf="0000:00:05.0") + written("vm", "x")
EVENTS = [
    Event("vmm", "starting"),
    Event("vm", "device-removed", {"id": "d1", "bdf": "0000:00:05.0"}),
    Event("vm", "x"),
]


@given(st.lists(st.integers(0, len(TEXT)), max_size=20))
def test_events_are_found_however_the_text_is_cut(places):
    cuts = [0, *sorted(places), len(TEXT)]
    decoder = Decoder()
    found = [event for a, b in itertools.pairwise(cuts) for event in decoder.feed(TEXT[a:b])]
    assert found == EVENTS


def test_what_is_no_event_is_passed_over():
    assert Decoder().feed(b"{half\n\n[1]\n\n" + TEXT) == EVENTS


def test_a_file_that_is_not_there_has_no_events(tmp_path):
    assert events.read(tmp_path / "none") == []
    (tmp_path / "file").write_bytes(TEXT + b'{"half')
    assert events.read(tmp_path / "file") == EVENTS


@pytest.mark.anyio
async def test_a_growing_file_is_followed_from_its_beginning(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(TEXT)
    found: list[Event] = []

    async def follow() -> None:
        async for event in events.follow(path):
            found.append(event)
            if len(found) == 4:
                return

    async with within(10):
        following = asyncio.create_task(follow())
        while len(found) < 3:
            await asyncio.sleep(0)
        with path.open("ab") as file:
            file.write(written("vm", "shutdown"))
        await following
    assert found == [*EVENTS, Event("vm", "shutdown")]


def story(*names: str) -> Story:
    told = Story()
    for name in names:
        source, _, event = name.partition("/")
        told.hear(Event(source if event else "vm", event or source))
    return told


@pytest.mark.parametrize(
    ("told", "said", "state"),
    [
        ((), "Created", GuestState.STARTING),
        (("booting",), "Created", GuestState.STARTING),
        (("booted",), "Running", GuestState.RUNNING),
        (("booted", "paused"), "Paused", GuestState.PAUSED),
        (("booted",), "BreakPoint", GuestState.PAUSED),
        (("booted", "shutdown"), "Created", GuestState.SHUT_DOWN),
        (("booted", "shutdown"), "Shutdown", GuestState.SHUT_DOWN),
        (("booted", "rebooting"), "Created", GuestState.HALTED),
        (("booted", "rebooting", "rebooted"), "Running", GuestState.RUNNING),
        (("booted", "guest/panic"), "Running", GuestState.HALTED),
        (("booted", "guest/panic", "rebooted"), "Running", GuestState.RUNNING),
        (("booted", "guest/panic", "paused"), "Paused", GuestState.PAUSED),
        (("booted", "guest/panic", "paused", "resumed"), "Running", GuestState.RUNNING),
        (("restored", "shutdown"), "Created", GuestState.SHUT_DOWN),
        (("booted",), "Unheard", GuestState.HALTED),
    ],
)
def test_what_a_machine_does_follows_from_what_is_said_and_what_was_told(told, said, state):
    assert story(*told).state(said) is state


def test_what_is_only_about_to_be_done_counts_for_nothing():
    told = story("booting", "pausing", "resuming", "snapshotting", "deleted", "vmm/shutdown")
    assert told == Story()


def test_devices_that_the_guest_let_go_of_are_counted():
    told = Story()
    for name in ("a", "b", "a"):
        told.hear(Event("vm", "device-removed", {"id": name}))
    assert told.removed == {"a": 2, "b": 1}


def test_migrations():
    assert story("migration-started").migration.state is MigrationState.COPYING
    assert story("migration-started", "migration-failed").migration.state is MigrationState.FAILED
    assert story("migration-started", "migration-finished").migration.state is MigrationState.MOVED
    waiting = story("migration-receive-ready")
    assert waiting.awaits_guest
    assert not waiting.booted
    arrived = story("migration-receive-ready", "migration-receive-finished")
    assert arrived.booted
    assert not arrived.awaits_guest
