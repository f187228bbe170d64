"""If-Match."""

import pytest

from nacre.control.services.preconditions import etag_of, require_match
from nacre.errors import PreconditionError


@pytest.mark.parametrize("if_match", [None, "*", '"3"', '"1", "3"'])
def test_what_names_the_current_state_passes(if_match: str | None) -> None:
    require_match(if_match, etag_of(3))


@pytest.mark.parametrize("if_match", ['"2"', "3", 'W/"3"', ""])
def test_what_does_not_is_refused(if_match: str) -> None:
    with pytest.raises(PreconditionError):
        require_match(if_match, etag_of(3))
