"""What hypervisors offer."""

import msgspec

from nacre.model.capabilities import (
    BASELINE,
    NATIVE,
    Capability,
    Level,
    Offered,
    Support,
    mask_of,
    mask_offered,
    named,
    offers,
    told,
    understood,
)

OFFER = {
    Capability.PAUSE: NATIVE,
    Capability.TPM: Support(level=Level.UNSUPPORTED, note="install swtpm"),
    Capability.RESET: NATIVE,
    Capability.CPU_ADD: Support(level=Level.NEEDS_GUEST, note="the guest must bring them online"),
}


def test_what_is_not_named_is_not_offered():
    offer = {
        Capability.PAUSE: NATIVE,
        Capability.RESET: Support(level=Level.UNSUPPORTED, note="there is no such call"),
        Capability.CPU_ADD: Support(level=Level.NEEDS_GUEST),
    }
    assert offers(offer, Capability.PAUSE)
    assert offers(offer, Capability.CPU_ADD)
    assert not offers(offer, Capability.RESET)
    assert not offers(offer, Capability.TPM)


def test_names_are_words_of_the_field_with_dots():
    for capability in Capability:
        assert capability.value == capability.value.lower()
        assert " " not in capability.value


def test_an_offer_is_told_in_groups_and_understood_again() -> None:
    groups = told(OFFER)
    assert [group.capabilities for group in groups] == [("reset", "pause"), ("cpu.add",), ("tpm",)]
    assert understood(groups) == OFFER
    assert told(dict(reversed(OFFER.items()))) == groups


def test_an_offer_of_everything_is_small() -> None:
    assert len(msgspec.msgpack.encode(told(dict.fromkeys(Capability, NATIVE)))) < 1400


def test_capabilities_of_newer_agents_are_left_out() -> None:
    groups = (Offered(level=Level.NATIVE, capabilities=("pause", "time.travel")),)
    assert understood(groups) == {Capability.PAUSE: NATIVE}
    assert named(mask_offered(groups)) == (Capability.PAUSE,)


def test_a_mask_holds_what_is_offered_at_any_level() -> None:
    assert set(named(mask_offered(told(OFFER)))) == {Capability.PAUSE, Capability.RESET, Capability.CPU_ADD}
    assert mask_of([Capability.TPM]) & ~mask_offered(told(OFFER))
    assert frozenset(named(mask_offered(None))) == BASELINE
