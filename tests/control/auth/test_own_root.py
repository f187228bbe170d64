"""The files of an operator's own certificate authority."""

from pathlib import Path

import pytest

from nacre.control.auth.own_root import read_own_root
from nacre.errors import InvalidInputError


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = tmp_path / "ca.pem", tmp_path / "ca.key"
    certificate.write_text("a certificate")
    key.write_text("a key")
    key.chmod(0o600)
    return certificate, key


def test_without_files_there_is_none() -> None:
    assert read_own_root("", "") is None


def test_both_files_are_read_and_the_key_may_be_gone_later(files: tuple[Path, Path]) -> None:
    certificate, key = files
    own = read_own_root(str(certificate), str(key))
    assert own is not None
    assert (own.certificate_pem, own.key_pem) == ("a certificate", "a key")
    assert "a key" not in repr(own)
    without = read_own_root(str(certificate), "")
    assert without is not None
    assert without.key_pem == ""


def test_a_key_that_others_can_read_is_refused(files: tuple[Path, Path]) -> None:
    certificate, key = files
    key.chmod(0o640)
    with pytest.raises(InvalidInputError) as refused:
        read_own_root(str(certificate), str(key))
    assert (refused.value.code, refused.value.field) == ("ca_key_exposed", "ca_key_file")


def test_files_that_cannot_be_read_are_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = files
    with pytest.raises(InvalidInputError, match="No such file"):
        read_own_root(str(tmp_path / "missing.pem"), "")
    key.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInputError, match="not PEM") as refused:
        read_own_root(str(certificate), str(key))
    assert refused.value.field == "ca_key_file"
