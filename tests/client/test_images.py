import hashlib
from pathlib import Path

import pytest

from nacre.client import images
from nacre.client.api import Nacre
from nacre.errors import UnavailableError
from nacre.model.images import Role
from nacre.schema.images import ArtifactSource, ImageCreate
from support.api_stub import ApiStub

pytestmark = pytest.mark.anyio

CONTENT = bytes(range(256)) * 16384


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(CONTENT)
    return path


async def waiting_image(nacre: Nacre) -> str:
    source = ArtifactSource(role=Role.DISK, sha256=hashlib.sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT))
    return (await nacre.images.create(ImageCreate(name="disk", artifacts=(source,)))).resource.id


async def test_a_file_arrives_whole(stub: ApiStub, nacre: Nacre, file: Path) -> None:
    image = await waiting_image(nacre)
    seen: list[int] = []
    done = await nacre.images.upload(image, Role.DISK, file, sent=seen.append)
    assert done.complete
    assert bytes(stub.uploads[image, "disk"].data) == CONTENT
    assert seen == sorted(seen)
    assert seen[-1] == len(CONTENT)


async def test_a_broken_upload_goes_on_where_it_broke(stub: ApiStub, nacre: Nacre, file: Path) -> None:
    image = await waiting_image(nacre)
    stub.break_uploads_after = [1 << 20, 3 << 20]
    done = await nacre.images.upload(image, Role.DISK, file)
    assert done.complete
    assert bytes(stub.uploads[image, "disk"].data) == CONTENT
    offsets = [headers["Upload-Offset"] for method, _, _, headers in stub.requests if method == "PATCH"]
    assert offsets == ["0", str(1 << 20), str(3 << 20)]


async def test_an_upload_without_any_progress_is_given_up(
    stub: ApiStub, nacre: Nacre, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "TRIES_WITHOUT_PROGRESS", 2)
    image = await waiting_image(nacre)
    stub.break_uploads_after = [0] * 10
    with pytest.raises(UnavailableError):
        await nacre.images.upload(image, Role.DISK, file)
    assert len(stub.break_uploads_after) == 7


async def test_what_has_arrived_already_is_not_sent_again(stub: ApiStub, nacre: Nacre, file: Path) -> None:
    image = await waiting_image(nacre)
    stub.uploads[image, "disk"].data += CONTENT
    assert (await nacre.images.upload(image, Role.DISK, file)).complete
    assert "PATCH" not in {method for method, _, _, _ in stub.requests}
