"""Replacing the node's certificate in time, over the link and without dropping it. Used by `session.py`.

Every request is for a new key. The old pair stays valid and on disk until the new one is written, so a crash at any
moment leaves one that works.
"""

import asyncio
from datetime import datetime, timedelta

import structlog

from nacre.agent.dialer import Dialer
from nacre.agent.identity import IdentityFiles, SigningKey
from nacre.errors import NacreError
from nacre.lib.clock import Clock
from nacre.protocol.messages import Refused, Rotate, Rotated

RETRY = timedelta(minutes=10)

log = structlog.get_logger()


class Rotation:
    """The certificate of a node over time."""

    def __init__(self, files: IdentityFiles, dialer: Dialer, clock: Clock) -> None:
        self._files = files
        self._dialer = dialer
        self._clock = clock
        self._asked_with: SigningKey | None = None
        self._not_before: datetime | None = None
        self._content = False
        """Whether a new certificate would be for no more than this one."""

    def reconnected(self) -> None:
        """Forget a request whose answer can no longer come."""
        self._asked_with = None

    def request(self) -> Rotate | None:
        """Return what to ask now; None if the certificate is young enough, or was asked for a moment ago."""
        now = self._clock.now()
        waits = self._asked_with is not None or (self._not_before is not None and now < self._not_before)
        identity = self._dialer.identity
        lacking = not identity.serves and not self._content
        if waits or not (lacking or identity.rotation_due(now)):
            return None
        self._asked_with = SigningKey.generate()
        return Rotate(csr_pem=self._asked_with.request_pem())

    async def granted(self, answer: Rotated) -> None:
        """Store the new certificate and connect with it from now on. Raises NacreError if it is not usable."""
        key = self._asked_with
        if key is None:
            return
        identity = await asyncio.to_thread(
            self._files.save_rotated, key, answer.certificate_pem, answer.roots_pem, self._dialer.identity
        )
        self._dialer.use(identity)
        self._asked_with = None  # not before the new one is in use, or it would be asked for once more
        self._content = not identity.serves  # an older control plane: a third one would be like the second
        log.info("certificate.rotated", node=identity.node, expires_at=identity.expires_at.isoformat())

    def refused(self, answer: Refused) -> bool:
        """Whether a refusal was about a request of ours; if so, it is tried again later."""
        if self._asked_with is None:
            return False
        self.put_off(answer.code, answer.message, answer.hint)
        return True

    def failed(self, error: NacreError) -> None:
        """Note that the certificate could not be used."""
        self.put_off(error.code, error.message, error.hint)

    def put_off(self, code: str, message: str, hint: str) -> None:
        """Ask again after a while."""
        self._asked_with = None
        self._not_before = self._clock.now() + RETRY
        log.warning("certificate.not_rotated", code=code, message=message, hint=hint, retry_s=RETRY.total_seconds())
