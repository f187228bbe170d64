"""Column types that mean the same on SQLite and PostgreSQL."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import JSON, BigInteger, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Labels = JSON().with_variant(JSONB(), "postgresql")
"""A flat object of strings that can be filtered with `column["key"].as_string() == value`."""


class Timestamp(TypeDecorator[datetime]):
    """An aware UTC time, stored as microseconds since 1970: exact, sortable, the same everywhere."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Store."""
        return None if value is None else (value - EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """Load."""
        return None if value is None else EPOCH + timedelta(microseconds=int(value))


class Model(TypeDecorator[T], Generic[T]):
    """A model value as JSON text: `Column("spec", Model(VmSpec))`. None is NULL."""

    impl = Text
    cache_ok = True

    def __init__(self, model: type[T]) -> None:
        super().__init__()
        self.model = model
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(model)

    def process_bind_param(self, value: T | None, dialect: Dialect) -> str | None:
        """Store."""
        return None if value is None else msgspec.json.encode(value).decode()

    def process_result_value(self, value: Any | None, dialect: Dialect) -> T | None:
        """Load."""
        return None if value is None else self._decoder.decode(value)


class Choice(TypeDecorator[E], Generic[E]):
    """A member of a StrEnum, stored as its value: `Column("state", Choice(OperationState))`."""

    impl = Text
    cache_ok = True

    def __init__(self, kind: type[E]) -> None:
        super().__init__()
        self.kind = kind
        self.values: tuple[str, ...] = tuple(member.value for member in kind)

    def process_bind_param(self, value: E | None, dialect: Dialect) -> str | None:
        """Store."""
        return None if value is None else self.kind(value).value

    def process_result_value(self, value: Any | None, dialect: Dialect) -> E | None:
        """Load."""
        return None if value is None else self.kind(value)
