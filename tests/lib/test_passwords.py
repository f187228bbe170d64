"""SHA-512 crypt against the vectors of its specification."""

import pytest

from nacre.lib.passwords import ROUNDS, new_salt, sha512_crypt

MANY_ROUNDS = (
    "$6$rounds=10000$saltstringsaltst$"
    "OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v."
)
LONG = "we have a short salt string but not a short password"


@pytest.mark.parametrize(
    ("password", "salt", "rounds", "expected"),
    [
        (
            "Hello world!",
            "saltstring",
            5000,
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
        ),
        (
            "Hello world!",
            "saltstringsaltstring",
            10000,
            MANY_ROUNDS,
        ),
    ],
)
def test_the_vectors_of_the_specification(password: str, salt: str, rounds: int, expected: str) -> None:
    assert sha512_crypt(password, salt, rounds) == expected


def test_the_number_of_rounds_is_in_the_hash_and_salts_differ() -> None:
    assert sha512_crypt(LONG, "short", ROUNDS).startswith(f"$6$rounds={ROUNDS}$short$")
    assert len({new_salt() for _ in range(20)}) == 20
