"""Projects, users, grants, tokens and the first claim through the API."""

from nacre.client.collection import Collection
from nacre.client.transport import Transport
from nacre.schema.access import (
    ClaimBody,
    GrantCreate,
    GrantOut,
    MeOut,
    ProjectCreate,
    ProjectOut,
    ProjectUpdate,
    TokenCreate,
    TokenCreated,
    TokenOut,
    UserCreate,
    UserOut,
)
from nacre.schema.common import Page


class Projects(Collection[ProjectOut]):
    """`/v1/projects`."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/v1/projects", ProjectOut, Page[ProjectOut])

    async def create(self, body: ProjectCreate) -> ProjectOut:
        """Create a project and become its admin."""
        return await self._transport.change("POST", self._path, ProjectOut, body=body)

    async def update(self, ref: str, body: ProjectUpdate, *, if_match: str | None = None) -> ProjectOut:
        """Change fields of a project."""
        return await self._transport.change("PATCH", self.at(ref), ProjectOut, body=body, if_match=if_match)

    async def delete(self, ref: str) -> None:
        """Delete an empty project."""
        await self._transport.change("DELETE", self.at(ref), type(None))


class Users(Collection[UserOut]):
    """`/v1/users`."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/v1/users", UserOut, Page[UserOut])

    async def create(self, body: UserCreate) -> UserOut:
        """Create a user, who can do nothing before a grant and a token."""
        return await self._transport.change("POST", self._path, UserOut, body=body)

    async def delete(self, ref: str) -> None:
        """Delete a user with all tokens and grants."""
        await self._transport.change("DELETE", self.at(ref), type(None))


class Grants(Collection[GrantOut]):
    """`/v1/grants`."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/v1/grants", GrantOut, Page[GrantOut])

    async def create(self, body: GrantCreate) -> GrantOut:
        """Give a user a role."""
        return await self._transport.change("POST", self._path, GrantOut, body=body)

    async def delete(self, ref: str) -> None:
        """Take a role away."""
        await self._transport.change("DELETE", self.at(ref), type(None))


class Tokens(Collection[TokenOut]):
    """`/v1/tokens`."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/v1/tokens", TokenOut, Page[TokenOut])

    async def create(self, body: TokenCreate) -> TokenCreated:
        """Make an API token. Its secret is in the answer and nowhere else."""
        return await self._transport.change("POST", self._path, TokenCreated, body=body)

    async def revoke(self, ref: str) -> None:
        """Make a token useless."""
        await self._transport.change("DELETE", self.at(ref), type(None))


class Access:
    """`/v1/me` and `/v1/claim`: who the caller is, and how the first one comes to be."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def me(self) -> MeOut:
        """Return who the caller is and what the caller holds."""
        return await self._transport.read("/v1/me", MeOut)

    async def claim(self, body: ClaimBody) -> TokenCreated:
        """Turn the one-time claim into the first administrator's token."""
        return await self._transport.change("POST", "/v1/claim", TokenCreated, body=body)
