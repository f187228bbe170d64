"""The OpenAPI document made narrower for fuzzing: names that exist, waits that end, no endless streams."""

from pathlib import Path
from typing import Any

import msgspec
import yaml

ROOT = Path(__file__).parents[2]
ENDLESS = ("/v1/events/stream",)
KNOWN: dict[str, list[str]] = {
    "project": ["default", "other", "*", "nowhere"],
    "vm": ["web", "db", "gone"],
    "image": ["tiny", "empty", "gone"],
    "template": ["shop", "shop@1", "gone"],
    "instance_type": ["small", "gone"],
    "other": ["shop", "gone"],
    "from_vm": ["web", "gone"],
    "user": ["ann", "gone"],
    "node": ["gone"],
    "noun": ["vm", "image", "nothing"],
}


def narrowed(target: Path) -> Path:
    """Write the document for fuzzing to `target`."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "openapi.yaml").read_text())
    for path in ENDLESS:
        del document["paths"][path]
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", []):
                _narrow(parameter["name"], parameter["schema"])
    for name in ("VmCreate", "ImageCreate", "TemplateCreate", "InstanceTypeCreate"):
        for field, schema in document["components"]["schemas"][name]["properties"].items():
            _narrow(field, schema)
    target.write_bytes(msgspec.json.encode(document))
    return target


def _narrow(name: str, schema: dict[str, Any]) -> None:
    if name == "wait":
        schema["maximum"] = 0.05
    elif name == "count":
        schema["maximum"] = 3
    elif name in KNOWN and {"type": "null"} in schema.get("anyOf", []):
        schema["anyOf"] = [{"enum": KNOWN[name]}, {"type": "null"}]
    elif name in KNOWN and schema.get("type") == "string":
        schema.pop("default", None)
        schema["anyOf"] = [{"enum": KNOWN[name]}, {"type": "string", "minLength": 1, "pattern": "^[^/]*$"}]
        del schema["type"]
