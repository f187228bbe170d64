"""What may go into a guest."""

import pytest

from nacre.errors import InvalidInputError
from nacre.model.guests import MAX_USER_DATA, CloudInit, check_cloud_init


@pytest.mark.parametrize(
    "user_data",
    [
        "",
        "#cloud-config\n",
        "#cloud-config\npackages: [nginx]\n",
        "#!/bin/sh\necho\n",
        "#include\nhttps://example.org/more\n",
        'Content-Type: multipart/mixed; boundary="x"\nMIME-Version: 1.0\n\n--x--\n',
        "## template: jinja\n#cloud-config\na: {{ v1.region }}\n",
    ],
)
def test_what_cloud_init_knows_is_taken_as_it_is(user_data: str) -> None:
    given = CloudInit(user_data=user_data)
    assert check_cloud_init(given) is given


@pytest.mark.parametrize(
    ("given", "code", "field"),
    [
        (CloudInit(user_data="x" * (MAX_USER_DATA + 1)), "cloud_init_too_large", "cloud_init.user_data"),
        (CloudInit(user_data="#!/bin/sh\n" + "é" * 40_000), "cloud_init_too_large", "cloud_init.user_data"),
        (CloudInit(user_data="#cloud-config\na: 1\n b: 2\n"), "invalid_yaml", "cloud_init.user_data"),
        (CloudInit(user_data="#cloud-config\n!!python/object:os.system {}\n"), "invalid_yaml", "cloud_init.user_data"),
        (CloudInit(meta_data={"a b": "c"}), "invalid_meta_data", "cloud_init.meta_data.a b"),
        (CloudInit(meta_data={f"k{n}": "v" for n in range(33)}), "invalid_meta_data", "cloud_init.meta_data"),
        (CloudInit(ssh_keys=("ssh-rsa AAAA\nssh-rsa BBBB",)), "invalid_ssh_key", "cloud_init.ssh_keys[0]"),
    ],
)
def test_what_it_could_not_read_is_refused_with_its_path(given: CloudInit, code: str, field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        check_cloud_init(given)
    assert (refused.value.code, refused.value.field) == (code, field)
    assert refused.value.hint


def test_an_error_says_where_and_never_what() -> None:
    with pytest.raises(InvalidInputError) as refused:
        check_cloud_init(CloudInit(user_data="#cloud-config\nok: 1\nsecret: [4711"))
    assert "line" in refused.value.message
    assert "4711" not in str(refused.value) + repr(refused.value.__cause__) + repr(refused.value.__context__.__class__)
