"""What every list of the API has in common: reading one by name or id, paging, filters. Base of the noun files."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import quote

from nacre.client.transport import Params, Transport
from nacre.schema.common import MAX_PAGE, Page

OutT = TypeVar("OutT")

ALL_PROJECTS = "*"


@dataclass(frozen=True, kw_only=True)
class Query:
    """Which part of a list is wanted. `labels` and `filters` must all hold; `limit` is the most that is returned."""

    project: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    filters: Mapping[str, str] = field(default_factory=dict[str, str])
    sort: str | None = None
    limit: int | None = None

    @property
    def narrowed(self) -> bool:
        """Whether only some of what is there is wanted."""
        return bool(self.labels or self.filters)

    def params(self) -> Params:
        """As a query string, without the paging."""
        params: Params = []
        if self.project:
            params.append(("project", self.project))
        params += [("label", f"{key}={value}") for key, value in self.labels.items()]
        params += list(self.filters.items())
        if self.sort:
            params.append(("sort", self.sort))
        return params


EVERYTHING = Query()


def segment(ref: str) -> str:
    """Return a name or id as one segment of a path."""
    return quote(ref, safe="")


def in_project(project: str | None) -> Params:
    """Return the query that says in which project a name is looked for."""
    return [("project", project)] if project else []


class Collection(Generic[OutT]):
    """One list of the API. `path` is its address, `out` what one of its objects looks like."""

    def __init__(self, transport: Transport, path: str, out: type[OutT], page: type[Page[OutT]]) -> None:
        self._transport = transport
        self._path = path
        self._out = out
        self._page = page

    def at(self, ref: str, *more: str) -> str:
        """The address of one object, or of something below it."""
        return "/".join((self._path, segment(ref), *more))

    async def show(self, ref: str, *, project: str | None = None) -> OutT:
        """Return one object by name or id. Raises NotFoundError."""
        return await self._transport.read(self.at(ref), self._out, params=in_project(project))

    async def page(self, query: Query = EVERYTHING, *, cursor: str | None = None) -> Page[OutT]:
        """Return one part of the list, from `cursor` on."""
        params = query.params()
        params.append(("limit", str(min(query.limit or MAX_PAGE, MAX_PAGE))))
        if cursor:
            params.append(("cursor", cursor))
        return await self._transport.read(self._path, self._page, params=params)

    async def each(self, query: Query = EVERYTHING) -> AsyncIterator[OutT]:
        """Go through the list, page by page."""
        left = query.limit
        cursor: str | None = None
        while True:
            page = await self.page(query, cursor=cursor)
            for item in page.items:
                if left is not None and left <= 0:
                    return
                yield item
                left = left - 1 if left is not None else None
            cursor = page.next
            if cursor is None or left == 0:
                return

    async def all(self, query: Query = EVERYTHING) -> list[OutT]:
        """Return the list."""
        return [item async for item in self.each(query)]
