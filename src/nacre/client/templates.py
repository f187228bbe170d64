"""Templates and instance types through the API, and what would be made of them."""

from nacre.client.collection import Collection, in_project
from nacre.client.transport import Transport
from nacre.schema.common import Page
from nacre.schema.instance_types import InstanceTypeCreate, InstanceTypeOut, InstanceTypeUpdate
from nacre.schema.templates import DiffOut, PreviewOut, RevisionOut, TemplateCreate, TemplateOut, TemplateUpdate


class Templates(Collection[TemplateOut]):
    """`/v1/templates`."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/v1/templates", TemplateOut, Page[TemplateOut])

    async def create(self, body: TemplateCreate) -> TemplateOut:
        """Create a template."""
        return await self._transport.change("POST", self._path, TemplateOut, body=body)

    async def update(
        self, ref: str, body: TemplateUpdate, *, project: str | None = None, if_match: str | None = None
    ) -> TemplateOut:
        """Change fields of a template, as a new revision."""
        return await self._transport.change(
            "PATCH", self.at(ref), TemplateOut, body=body, params=in_project(project), if_match=if_match
        )

    async def delete(self, ref: str, *, project: str | None = None) -> None:
        """Delete a template with its revisions."""
        await self._transport.change("DELETE", self.at(ref), type(None), params=in_project(project))

    async def revisions(self, ref: str, *, project: str | None = None) -> list[RevisionOut]:
        """Return what a template has said, the newest first."""
        found: list[RevisionOut] = []
        cursor: str | None = None
        while True:
            params = [*in_project(project), *([("cursor", cursor)] if cursor else [])]
            page = await self._transport.read(self.at(ref, "revisions"), Page[RevisionOut], params=params)
            found += page.items
            if (cursor := page.next) is None:
                return found

    async def preview(self, ref: str, *, instance_type: str | None = None, project: str | None = None) -> PreviewOut:
        """Say what a template would make, by itself or with an instance type. `ref` may name a revision: `web@3`."""
        params = in_project(project)
        if instance_type is not None:
            params.append(("instance_type", instance_type))
        return await self._transport.read(self.at(ref, "preview"), PreviewOut, params=params)

    async def diff(
        self, ref: str, *, other: str | None = None, vm: str | None = None, project: str | None = None
    ) -> DiffOut:
        """Say how a template differs from another, or from a machine."""
        params = in_project(project)
        params += [(name, value) for name, value in (("other", other), ("vm", vm)) if value is not None]
        return await self._transport.read(self.at(ref, "diff"), DiffOut, params=params)


class InstanceTypes(Collection[InstanceTypeOut]):
    """`/v1/instance-types`."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/v1/instance-types", InstanceTypeOut, Page[InstanceTypeOut])

    async def create(self, body: InstanceTypeCreate) -> InstanceTypeOut:
        """Create an instance type, of a project or of the platform."""
        return await self._transport.change("POST", self._path, InstanceTypeOut, body=body)

    async def update(
        self, ref: str, body: InstanceTypeUpdate, *, project: str | None = None, if_match: str | None = None
    ) -> InstanceTypeOut:
        """Change fields of an instance type, as a new revision."""
        return await self._transport.change(
            "PATCH", self.at(ref), InstanceTypeOut, body=body, params=in_project(project), if_match=if_match
        )

    async def delete(self, ref: str, *, project: str | None = None) -> None:
        """Delete an instance type."""
        await self._transport.change("DELETE", self.at(ref), type(None), params=in_project(project))
