"""Whether a column is one of many values, as one parameter. Used by store modules whose queries name hundreds of ids.

An `IN` of hundreds of parameters is another statement for every count of them: PostgreSQL prepares and plans it anew,
which takes longer than to execute it.
"""

from collections.abc import Iterable

from sqlalchemy import ColumnElement, Text, any_, bindparam
from sqlalchemy.dialects.postgresql import ARRAY

from nacre.control.store.db import Read


def is_one_of(rd: Read, column: ColumnElement[str], values: Iterable[str]) -> ColumnElement[bool]:
    """Return the condition that a column of text is one of `values`."""
    wanted = sorted(values)
    if rd.connection.dialect.name == "postgresql":
        return column == any_(bindparam(None, wanted, type_=ARRAY(Text)))
    return column.in_(wanted)
