"""The whole API under generated input, from the committed OpenAPI document, on both databases: no 5xx, no surprises."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.fuzzing import narrowed
from support.images import kernel
from support.platform import Platform

SECONDS = 20
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "missing_required_header",
    "ignored_auth",
    "use_after_free",
)


@pytest.mark.timeout(120)
def test_no_generated_request_breaks_the_api_or_its_document(database_url: str, tmp_path: Path) -> None:
    platform = Platform(tmp_path, database=database_url, agents=0)
    try:
        platform.start()
        _furnish(platform, tmp_path)
        document = narrowed(tmp_path / "openapi.json")
        run = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("schemathesis")), "run", str(document), "--url", platform.url),
                *("-H", f"Authorization: Bearer {platform.token}", "--request-timeout", "10"),
                *("--checks", ",".join(CHECKS), "--max-examples", "5", "--max-time", str(SECONDS)),
                *("--warnings", "off", "--report-dir", str(tmp_path)),
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "NO_COLOR": "1"},
            timeout=SECONDS + 60,
            check=False,
        )
        log = platform.control.log.read_text()
        assert run.returncode == 0, run.stdout[-20000:] + run.stderr[-2000:]
        assert "http.defect" not in log
        assert "Traceback" not in log
    finally:
        platform.stop()


def _furnish(platform: Platform, folder: Path) -> None:
    """Make something for requests to meet."""
    platform.post("/v1/projects", {"name": "other"})
    platform.post("/v1/users", {"name": "ann"})
    platform.post("/v1/images", {"name": "empty", "artifacts": [{"role": "kernel"}]})
    content = folder / "kernel"
    content.write_bytes(kernel())
    platform.import_image("tiny", {"kernel": content})
    platform.post("/v1/templates", {"name": "shop", "config": {"image": "tiny"}})
    platform.post("/v1/instance-types", {"name": "small", "config": {"cpus": 1}})
    for name in ("web", "db"):
        platform.post("/v1/vms", {"name": name, "image": "tiny"})
