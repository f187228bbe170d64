"""What is said on a stream of the kind `export`, byte by byte: agents and control planes of different ages say it."""

import msgspec

from nacre.model.exports import DiskStatus, DiskWanted
from nacre.model.ids import CheckpointId


def test_what_is_asked_for_is_written_as_it_always_was():
    wanted = DiskWanted(checkpoint=CheckpointId("ckpt-1"))
    assert msgspec.json.encode(wanted) == b'{"checkpoint":"ckpt-1"}'
    assert msgspec.json.decode(b'{"checkpoint":"ckpt-1","later":true}', type=DiskWanted) == wanted


def test_a_status_is_written_as_it_always_was_and_new_words_are_passed_over():
    said = DiskStatus(gathered_bytes=1, size_bytes=2, code="c", message="m", hint="h", retryable=True)
    written = b'{"gathered_bytes":1,"size_bytes":2,"code":"c","message":"m","hint":"h","retryable":true}'
    assert msgspec.json.encode(said) == written
    assert msgspec.json.decode(written[:-1] + b',"later":1}', type=DiskStatus) == said
    assert msgspec.json.decode(b"{}", type=DiskStatus) == DiskStatus()
