"""What templates and instance types are called."""

import pytest

from nacre.errors import InvalidInputError
from nacre.model.templates import Origin, split_revision


def test_a_revision_is_named_behind_the_template() -> None:
    assert split_revision("web") == ("web", None)
    assert split_revision("web@12") == ("web", 12)


@pytest.mark.parametrize("ref", ["web@", "web@0", "web@-1", "web@x", "web@1@2", "web@٣", "web@9999999999"])
def test_what_is_no_revision_is_refused(ref: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        split_revision(ref)
    assert refused.value.code == "invalid_revision"


def test_an_origin_reads_as_a_sentence_part() -> None:
    assert str(Origin(id="tpl-1", name="web", revision=3)) == "web revision 3"
