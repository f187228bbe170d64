"""/v1/templates, and /v1/preview: what would be made."""

from litestar import Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from nacre.control.api.calls import TheCall
from nacre.control.api.queries import DEFAULT_PROJECT, InProject, LabelledInProject, Paged, ProjectName, list_query
from nacre.control.services import previews, templates
from nacre.model.images import Visibility
from nacre.schema.common import Page
from nacre.schema.templates import DiffOut, PreviewOut, RevisionOut, TemplateCreate, TemplateOut, TemplateUpdate
from nacre.schema.vms import VmCreate


class TemplateFilters(LabelledInProject, frozen=True, kw_only=True):
    """How a list of templates may be narrowed."""

    name: str | None = None
    """Exactly this name."""
    visibility: Visibility | None = None
    """Only private, or only public ones."""


class RevisionsOf(Paged, frozen=True, kw_only=True):
    """Which revisions of a template."""

    project: ProjectName = DEFAULT_PROJECT
    """Name or id of the project that a name is looked for in. Not needed with an id."""


class PreviewOf(InProject, frozen=True, kw_only=True):
    """What is to be previewed."""

    instance_type: str | None = None
    """Name or id of an instance type that goes before the template."""


class DiffWith(InProject, frozen=True, kw_only=True):
    """What a template is compared with: one of these."""

    other: str | None = None
    """Name or id of another template, or a revision of any, such as `web@3`."""
    vm: str | None = None
    """Name or id of a machine. It is compared with what the template would make now."""


@post("/v1/templates", opt={"action": "template:create"})
async def create_template(call: TheCall, data: JSONBody[TemplateCreate]) -> Response[TemplateOut]:
    """Create a template, from a configuration or from that of a machine."""
    return await call.create(
        lambda tx, caller: templates.create(tx, caller, data), TemplateOut, at=lambda made: f"/v1/templates/{made.id}"
    )


@get("/v1/templates", opt={"action": "template:list"})
async def list_templates(call: TheCall, params: NamedDependency[TemplateFilters]) -> Response[Page[TemplateOut]]:
    """List the templates of a project, and public ones."""
    return await call.read(lambda rd, caller: templates.list_(rd, caller, list_query(params)))


@get("/v1/templates/{template:str}", opt={"action": "template:view"})
async def show_template(
    call: TheCall, template: FromPath[str], params: NamedDependency[InProject]
) -> Response[TemplateOut]:
    """Show a template, by name or id."""
    return await call.show(lambda rd, caller: templates.show(rd, caller, template, project=params.project))


@get("/v1/templates/{template:str}/revisions", opt={"action": "template:view"})
async def list_template_revisions(
    call: TheCall, template: FromPath[str], params: NamedDependency[RevisionsOf]
) -> Response[Page[RevisionOut]]:
    """List what a template has said, the newest first."""
    return await call.read(
        lambda rd, caller: templates.revisions(rd, caller, template, list_query(params), project=params.project)
    )


@get("/v1/templates/{template:str}/preview", opt={"action": "template:view"})
async def preview_template(
    call: TheCall, template: FromPath[str], params: NamedDependency[PreviewOf]
) -> Response[PreviewOut]:
    """Say what a template, or a revision of it, would make, and for every field where its value comes from."""
    return await call.read(
        lambda rd, caller: previews.of_template(
            rd, caller, template, project=params.project, instance_type=params.instance_type
        )
    )


@get("/v1/templates/{template:str}/diff", opt={"action": "template:view"})
async def diff_template(call: TheCall, template: FromPath[str], params: NamedDependency[DiffWith]) -> Response[DiffOut]:
    """Say how a template, or a revision of it, differs from another or from a machine, by field."""
    return await call.read(
        lambda rd, caller: previews.difference(
            rd, caller, template, other=params.other, vm=params.vm, project=params.project
        )
    )


@patch("/v1/templates/{template:str}", opt={"action": "template:update", "if_match": True})
async def update_template(
    call: TheCall, template: FromPath[str], data: JSONBody[TemplateUpdate], params: NamedDependency[InProject]
) -> Response[TemplateOut]:
    """Change fields of a template, as a new revision. Machines that exist stay as they are."""
    return await call.change(
        lambda tx, caller: templates.update(tx, caller, template, data, project=params.project, if_match=call.if_match),
        TemplateOut,
    )


@delete("/v1/templates/{template:str}", opt={"action": "template:delete", "if_match": True})
async def delete_template(call: TheCall, template: FromPath[str], params: NamedDependency[InProject]) -> None:
    """Delete a template with all its revisions. Machines that were made from it stay."""
    await call.remove(
        lambda tx, caller: templates.delete(tx, caller, template, project=params.project, if_match=call.if_match)
    )


@post("/v1/preview", opt={"action": "vm:plan"}, status_code=200)
async def preview_vms(call: TheCall, data: JSONBody[VmCreate]) -> Response[PreviewOut]:
    """Say what creating machines would make, and for every field where its value comes from. Changes nothing.

    What creating them would be refused for is refused here as well: names and ports that are taken, and what no node
    can do. Whether there is room is not asked: machines wait for that.
    """
    sealer = call.parts.sealer
    return Response(
        await call.context.rehearse(lambda tx, caller: previews.of_request(tx, caller, data, sealer=sealer))
    )


ROUTES = (
    create_template,
    list_templates,
    show_template,
    list_template_revisions,
    preview_template,
    diff_template,
    update_template,
    delete_template,
    preview_vms,
)
