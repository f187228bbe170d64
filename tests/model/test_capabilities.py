"""What hypervisors offer."""

from nacre.model.capabilities import NATIVE, Capability, Level, Support, offers


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
