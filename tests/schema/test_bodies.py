"""What the API takes is strict, what it gives can grow, and its limits are those of the model."""

import inspect
from collections.abc import Iterator
from types import ModuleType

import msgspec
import pytest

from nacre.model.vms import VmSpec
from nacre.schema import access, common, images, nodes, vms
from nacre.schema.common import Body, Out

MODULES: tuple[ModuleType, ...] = (access, common, images, nodes, vms)


def of_kind(kind: type) -> Iterator[type[msgspec.Struct]]:
    for module in MODULES:
        for _, member in inspect.getmembers(module, inspect.isclass):
            if issubclass(member, kind) and member is not kind and member.__module__ == module.__name__:
                yield member


@pytest.mark.parametrize("body", list(of_kind(Body)), ids=lambda body: body.__name__)
def test_an_unknown_field_of_a_body_is_an_error(body: type[msgspec.Struct]) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"unknown field|missing required field"):
        msgspec.convert({"surprise": 1}, body)
    assert body.__struct_config__.forbid_unknown_fields


@pytest.mark.parametrize("answer", list(of_kind(Out)), ids=lambda answer: answer.__name__)
def test_a_client_ignores_fields_of_an_answer_that_it_does_not_know(answer: type[msgspec.Struct]) -> None:
    assert not answer.__struct_config__.forbid_unknown_fields


@pytest.mark.parametrize("struct", [*of_kind(Body), *of_kind(Out)], ids=lambda struct: struct.__name__)
def test_every_body_says_what_it_is(struct: type[msgspec.Struct]) -> None:
    assert (struct.__doc__ or "").strip()
    assert struct.__struct_config__.frozen


@pytest.mark.parametrize("field", ["cpus", "memory_bytes", "disk_bytes"])
@pytest.mark.parametrize("value", [-1, 0, 1, 257, 1 << 60, "1", 1.5, True])
def test_a_size_that_the_model_refuses_is_refused_at_the_edge(field: str, value: object) -> None:
    def accepts(kind: type[msgspec.Struct], **required: object) -> bool:
        try:
            msgspec.convert({field: value, **required}, kind)
        except msgspec.ValidationError:
            return False
        return True

    model = accepts(VmSpec, image="img-00000000000000000000000000")
    assert accepts(vms.VmCreate, name="a", image="b") is model
    assert accepts(vms.VmUpdate) is model or field == "disk_bytes"
