"""SPIFFE ids of nodes (https://spiffe.io/docs/latest/spiffe-about/spiffe-concepts/#spiffe-id). Pure."""

from nacre.errors import UnauthenticatedError
from nacre.model.ids import NodeId

DEFAULT_DOMAIN = "nacre.local"


def node_uri(domain: str, node: NodeId) -> str:
    """Return `spiffe://<domain>/node/<id>`."""
    return f"spiffe://{domain}/node/{node}"


def node_of_uri(domain: str, uris: list[str]) -> NodeId:
    """Return the node that a certificate with these URI names speaks for. Raises UnauthenticatedError."""
    prefix = node_uri(domain, NodeId(""))
    nodes = [uri.removeprefix(prefix) for uri in uris if uri.startswith(prefix)]
    if len(uris) != 1 or len(nodes) != 1 or not nodes[0] or "/" in nodes[0]:
        raise UnauthenticatedError(
            "not_a_node_certificate",
            "the certificate does not name exactly one node of this platform",
            hint="enrol the node here and use the certificate that it got",
        )
    return NodeId(nodes[0])
