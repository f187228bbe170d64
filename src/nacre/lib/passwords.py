"""Hash a password as Linux guests store them: SHA-512 crypt, the `$6$` of crypt(5).

Every distribution's login understands it. The scheme: https://www.akkadia.org/drepper/SHA-crypt.txt. Takes some
hundredths of a second on purpose, so not for an event loop.
"""

import hashlib
import secrets

ROUNDS = 20_000
_SALT_LENGTH = 16
_LETTERS = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_STANDARD_ROUNDS = 5000


def new_salt() -> str:
    """Return a random salt."""
    return "".join(secrets.choice(_LETTERS) for _ in range(_SALT_LENGTH))


def sha512_crypt(password: str, salt: str, rounds: int = ROUNDS) -> str:
    """Return `$6$...` for a password. Pure."""
    key, grain = password.encode(), salt.encode()[:_SALT_LENGTH]
    second = hashlib.sha512(key + grain + key).digest()
    first = hashlib.sha512(key + grain + _stretched(second, len(key)))
    length = len(key)
    while length:
        first.update(second if length & 1 else key)
        length >>= 1
    digest = first.digest()
    p = _stretched(hashlib.sha512(key * len(key)).digest(), len(key))
    s = _stretched(hashlib.sha512(grain * (16 + digest[0])).digest(), len(grain))
    for number in range(rounds):
        step = hashlib.sha512(p if number & 1 else digest)
        if number % 3:
            step.update(s)
        if number % 7:
            step.update(p)
        step.update(digest if number & 1 else p)
        digest = step.digest()
    named = "" if rounds == _STANDARD_ROUNDS else f"rounds={rounds}$"
    return f"$6${named}{grain.decode()}${_written(digest)}"


def _stretched(digest: bytes, length: int) -> bytes:
    return (digest * (length // len(digest) + 1))[:length]


def _written(digest: bytes) -> str:
    """The 64 bytes in groups of three, in the scheme's own order and letters."""
    letters: list[str] = []
    for index in range(21):
        a, b, c = index, index + 21, index + 42
        order = ((a, b, c), (b, c, a), (c, a, b))[index % 3]
        letters.append(_letters(digest[order[0]] << 16 | digest[order[1]] << 8 | digest[order[2]], 4))
    letters.append(_letters(digest[63], 2))
    return "".join(letters)


def _letters(value: int, count: int) -> str:
    return "".join(_LETTERS[value >> 6 * place & 63] for place in range(count))
