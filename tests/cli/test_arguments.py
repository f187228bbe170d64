import pytest

from nacre.cli import arguments
from nacre.errors import InvalidInputError
from nacre.model.vms import PublishedPort, TransportProtocol


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:80", PublishedPort(host_port=8080, guest_port=80)),
        ("0.0.0.0:8080:80", PublishedPort(host_address="0.0.0.0", host_port=8080, guest_port=80)),
        ("[::1]:8080:80", PublishedPort(host_address="::1", host_port=8080, guest_port=80)),
        ("5353:53/udp", PublishedPort(host_port=5353, guest_port=53, protocol=TransportProtocol.UDP)),
        ("127.0.0.1:1:65535/tcp", PublishedPort(host_port=1, guest_port=65535)),
    ],
)
def test_a_published_port_is_read(text: str, expected: PublishedPort) -> None:
    assert arguments.publish([text]) == (expected,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80",
        ":80",
        "80:",
        "a:b",
        "0:80",
        "80:0",
        "65536:80",
        "80:80/icmp",
        "80:80/",
        "::1:80:80",
        "[::1:80:80",
        "localhost:80:80",
        "1.2.3:80:80",
        "127.0.0.1:80:80:80",
        "-1:80",
        "٣:80",
        "[]:80:80",
    ],
)
def test_what_is_no_published_port_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        arguments.publish([text])
    assert "127.0.0.1:8080:80" in caught.value.hint


@pytest.mark.parametrize(("text", "size"), [("512MiB", 512 << 20), ("1GiB", 1 << 30), ("1.5GiB", 3 << 29)])
def test_memory_is_read(text: str, size: int) -> None:
    assert arguments.memory(text) == size


@pytest.mark.parametrize("text", ["512", "512MB", "-1GiB", "1MiB", "17TiB", "lots", "512 mib", ""])
def test_memory_that_cannot_be_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        arguments.memory(text)
    assert caught.value.hint
    assert caught.value.field == "memory"


def test_a_decimal_size_is_met_with_the_nearest_that_would_do() -> None:
    with pytest.raises(InvalidInputError) as caught:
        arguments.memory("512MB")
    assert caught.value.hint == "488MiB or 489MiB would do"


@pytest.mark.parametrize("text", ["10GiB", "10GB", "1MiB"])
def test_a_disk_may_have_decimal_units(text: str) -> None:
    assert arguments.disk(text)


@pytest.mark.parametrize("name", ["a/b", "..", "Web", "a b", "-a", "", "x" * 64, "é"])
def test_a_name_that_cannot_be_is_refused_before_anything_is_sent(name: str) -> None:
    with pytest.raises(InvalidInputError):
        arguments.ref(name, "vm")


def test_an_id_is_as_good_as_a_name() -> None:
    assert arguments.refs(["web", "vm-" + "0" * 26, "web"], "vm") == ["web", "vm-" + "0" * 26]


def test_nothing_named_is_an_error() -> None:
    with pytest.raises(InvalidInputError):
        arguments.refs([], "vm")


def test_labels_are_set_and_removed() -> None:
    assert arguments.changed_labels({"a": "1", "b": "2"}, ["a=3", "b-", "c="]) == {"a": "3", "c": ""}


@pytest.mark.parametrize("text", ["a", "=b", "a b=c", "a=b c"])
def test_what_is_no_label_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        arguments.labels([text])


@pytest.mark.parametrize("number", [0, -3, 257])
def test_a_number_of_cpus_that_cannot_be_is_refused(number: int) -> None:
    with pytest.raises(InvalidInputError):
        arguments.cpus(number)


@pytest.mark.parametrize("text", ["-1s", "5", "forever"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        arguments.duration(text, "timeout")


@pytest.mark.parametrize(
    ("size", "said"), [("100TiB", "100TiB is not a possible size"), ("1B", "1B is not a possible size")]
)
def test_a_size_of_a_volume_that_cannot_be_is_called_one(size: str, said: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        arguments.volume_size(size)
    assert caught.value.message == said


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused(number: float) -> None:
    with pytest.raises(InvalidInputError):
        arguments.finite(number, "cpu-overcommit")
