"""Secrets that people and machines carry: made here, stored only as SHA-256, compared in constant time.

For API tokens, the first claim and enrolment. 256 random bits need no slow hash.
"""

import hashlib
import hmac
import secrets


def new_secret() -> str:
    """Return 43 characters (base64url) that carry 256 random bits."""
    return secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """Return what may be stored of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def matches(secret: str, stored: str) -> bool:
    """Whether `stored` is the digest of `secret`."""
    return hmac.compare_digest(digest(secret), stored)
