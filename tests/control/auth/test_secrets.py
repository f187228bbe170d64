"""Secrets at rest."""

from nacre.control.auth import secrets


def test_a_secret_matches_its_digest_only() -> None:
    one, other = secrets.new_secret(), secrets.new_secret()
    assert len(one) == 43
    assert secrets.matches(one, secrets.digest(one))
    assert not secrets.matches(other, secrets.digest(one))
    assert one not in secrets.digest(one)
