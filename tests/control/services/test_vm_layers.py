"""Layers of a configuration: who goes before whom, for every field that there is."""

from typing import Any

import msgspec
import pytest
from hypothesis import given as given_by
from hypothesis import strategies as st

from nacre.control.services import vm_layers
from nacre.control.services.template_capture import IDENTITY, capture
from nacre.errors import InvalidInputError
from nacre.model.ids import ImageId
from nacre.model.images import ImageDefaults
from nacre.model.placement import Placement
from nacre.model.templates import Layer
from nacre.model.units import GIB, MIB
from nacre.model.vms import HaPolicy, NicSpec, PublishedPort, VmSpec
from nacre.schema.vms import VmConfig, VmCreate

NOT_CONFIGURATION = {
    "name",
    "project",
    "template",
    "instance_type",
    "count",
    "first_number",
    "cloud_init",
    "checkpoint",
}
"""Fields of a request for a machine that no template and no instance type can give."""
NOT_OF_CONFIG = {"cloud_init"}
"""Fields of a spec that no configuration has: cloud-inits are given secrets, and templates are not sealed."""
ORDER = (Layer.REQUEST, Layer.INSTANCE_TYPE, Layer.TEMPLATE, Layer.IMAGE)

IMAGE = ImageId("img-00000000000000000000000000")


def nothing_given(field: msgspec.structs.FieldInfo) -> bool:
    """Whether the default of a field is a value that nobody would mean."""
    if field.default is None or field.default is msgspec.UNSET:
        return True
    return callable(field.default_factory) and field.default_factory() == {}


def test_every_field_of_a_request_takes_part_or_is_excluded_by_name() -> None:
    """If this fails for a new field: give it the default None in `VmConfig`, or name it in NOT_CONFIGURATION."""
    known = {field.name for field in msgspec.structs.fields(VmConfig)}
    assert set(VmCreate.__struct_fields__) - known == NOT_CONFIGURATION
    assert [field.name for field in msgspec.structs.fields(VmConfig) if not nothing_given(field)] == []


def test_every_field_of_a_spec_can_be_asked_for() -> None:
    """If this fails for a new field: add it to `VmConfig`, or name it in NOT_OF_CONFIG."""
    assert set(VmSpec.__struct_fields__) - set(VmConfig.__struct_fields__) == NOT_OF_CONFIG
    assert set(ImageDefaults.__struct_fields__) <= set(VmConfig.__struct_fields__)


@pytest.mark.parametrize("name", [name for name in VmConfig.__struct_fields__ if name != "labels"])
def test_each_field_comes_from_the_first_who_gives_it(name: str) -> None:
    """With values that stand for themselves: the merging looks into none but maps."""
    for first, layer in enumerate(ORDER):
        layers = [(one, vm_layers.config_of({name: f"of {one}"})) for one in ORDER[first:]]
        merged = vm_layers.merge([(one, VmConfig()) for one in ORDER[:first]] + layers)
        assert getattr(merged.config, name) == f"of {layer}"
        assert merged.layers == {name: layer}
    assert vm_layers.merge([(one, VmConfig()) for one in ORDER]) == vm_layers.Merged(config=VmConfig(), layers={})


@given_by(
    st.lists(st.dictionaries(st.sampled_from(["cpus", "memory_bytes", "ha", "start"]), st.integers(0, 3)), max_size=4)
)
def test_merging_is_what_looking_from_the_top_down_finds(layers: list[dict[str, int]]) -> None:
    merged = vm_layers.merge(list(zip(ORDER, map(vm_layers.config_of, layers), strict=False)))
    for name in VmConfig.__struct_fields__:
        found = [(layer, values[name]) for layer, values in zip(ORDER, layers, strict=False) if name in values]
        assert vm_layers.given(merged.config).get(name) == (found[0][1] if found else None)
        assert merged.layers.get(name) == (found[0][0] if found else None)


def test_labels_are_merged_by_key() -> None:
    merged = vm_layers.merge(
        [
            (Layer.REQUEST, VmConfig(labels={"tier": "front"})),
            (Layer.TEMPLATE, VmConfig(labels={"tier": "back", "app": "shop"})),
        ]
    )
    assert merged.config.labels == {"tier": "front", "app": "shop"}
    assert merged.layers == {"labels.tier": Layer.REQUEST, "labels.app": Layer.TEMPLATE}


def test_a_nested_value_is_taken_whole() -> None:
    merged = vm_layers.merge(
        [
            (Layer.REQUEST, VmConfig(placement=Placement(zones=("a",)))),
            (Layer.TEMPLATE, VmConfig(placement=Placement(regions=("north",), node_labels={"ssd": "yes"}))),
        ]
    )
    assert merged.config.placement == Placement(zones=("a",))


def test_nothing_is_something_that_can_be_given() -> None:
    port = PublishedPort(guest_port=80, host_port=8080)
    layers = [(Layer.REQUEST, VmConfig(publish=(), start=False)), (Layer.TEMPLATE, VmConfig(publish=(port,)))]
    merged = vm_layers.merge(layers)
    assert (merged.config.publish, merged.config.start) == ((), False)


def test_what_nobody_gives_is_the_default_of_the_model() -> None:
    assert vm_layers.into_spec(VmConfig(labels={"a": "b"}, start=False), image=IMAGE) == VmSpec(image=IMAGE)
    whole = vm_layers.into_spec(VmConfig(image="debian", cpus=3, ha=HaPolicy.RESTART), image=IMAGE)
    assert whole == VmSpec(image=IMAGE, cpus=3, ha=HaPolicy.RESTART)


def test_an_image_gives_what_is_left_open() -> None:
    asked = vm_layers.merge([(Layer.INSTANCE_TYPE, VmConfig(cpus=2))])
    merged = vm_layers.with_image(asked, ImageDefaults(cpus=8, memory_bytes=GIB))
    assert (merged.config.cpus, merged.config.memory_bytes) == (2, GIB)
    assert merged.layers == {"cpus": Layer.INSTANCE_TYPE, "memory_bytes": Layer.IMAGE}


def test_a_change_gives_anew_and_clears() -> None:
    before = VmConfig(cpus=2, memory_bytes=GIB, labels={"a": "b"})
    assert vm_layers.changed(before, VmConfig(cpus=4), ("labels",)) == VmConfig(cpus=4, memory_bytes=GIB)
    assert vm_layers.changed(before, None, ()) == before
    for clear, code in ((("size",), "unknown_field"), (("cpus",), "cleared_and_given")):
        with pytest.raises(InvalidInputError) as refused:
            vm_layers.changed(before, VmConfig(cpus=4), clear)
        assert (refused.value.code, refused.value.field) == (code, "clear[0]")


def test_differences_are_told_by_path() -> None:
    left = {"cpus": 2, "placement": Placement(zones=("a", "b")), "ha": None, "labels": {"tier": "x"}}
    right = {"cpus": 2, "placement": Placement(zones=("a", "c")), "memory_bytes": GIB, "labels": {"tier": "y"}}
    found = vm_layers.differences(left, right, frozenset())
    assert [(one.path, one.left, one.right) for one in found] == [
        ("placement.zones[1]", "b", "c"),
        ("labels.tier", "x", "y"),
        ("memory_bytes", None, GIB),
    ]


def test_to_give_none_of_something_differs_from_saying_nothing() -> None:
    (found,) = vm_layers.differences({"publish": (), "labels": {}}, {"ha": None}, frozenset())
    assert (found.path, found.left, found.right) == ("publish", (), None)


def test_of_hidden_fields_only_is_told_that_they_differ() -> None:
    found = vm_layers.differences({"kernel_args": "secret"}, {"kernel_args": "other"}, frozenset({"kernel_args"}))
    assert [(one.path, one.left, one.right, one.hidden) for one in found] == [("kernel_args", None, None, True)]
    assert vm_layers.differences({"kernel_args": "a"}, {"kernel_args": "a"}, frozenset({"kernel_args"})) == ()


@pytest.mark.parametrize(
    ("pattern", "count", "first", "names"),
    [
        ("web", 1, 1, ["web"]),
        ("web", 2, 1, ["web-1", "web-2"]),
        ("web-{n}", 2, 9, ["web-9", "web-10"]),
        ("{n}-web", 1, 0, ["0-web"]),
    ],
)
def test_names_are_counted_up(pattern: str, count: int, first: int, names: list[str]) -> None:
    assert vm_layers.names_of(pattern, count, first) == names


@pytest.mark.parametrize(
    ("pattern", "count"), [("web-{n}-{n}", 2), ("web-{x}", 1), ("web-{x}", 2), ("Web-{n}", 1), ("w" * 62 + "{n}", 10)]
)
def test_a_pattern_that_makes_no_names_is_refused(pattern: str, count: int) -> None:
    with pytest.raises(InvalidInputError) as refused:
        vm_layers.names_of(pattern, count)
    assert refused.value.field == "name"


def test_a_machine_is_taken_over_but_for_what_only_one_can_have() -> None:
    nic = NicSpec(mac="52:54:00:00:00:01")
    spec = VmSpec(image=IMAGE, cpus=3, memory_bytes=256 * MIB, nics=(nic,), ha=HaPolicy.RESTART)
    taken = capture(spec, {"app": "shop"})
    assert taken.nics == (NicSpec(),)
    assert (taken.image, taken.labels, taken.start) == (IMAGE, {"app": "shop"}, None)
    again = vm_layers.into_spec(taken, image=IMAGE)
    assert again == msgspec.structs.replace(spec, nics=(NicSpec(),))


def test_what_has_an_identity_is_a_field_that_there_is() -> None:
    assert set(IDENTITY) <= set(VmSpec.__struct_fields__)


def test_a_secret_is_taken_out_and_named() -> None:
    shown, hidden = vm_layers.without(VmConfig(cpus=1, kernel_args="secret"), frozenset({"kernel_args", "nics"}))
    assert (shown, hidden) == (VmConfig(cpus=1), ("kernel_args",))


def test_values_are_taken_apart_to_their_leaves() -> None:
    value: Any = {"a": [{"b": 1}, {}], "c": None, "d": False}
    assert list(vm_layers.leaves("x", value)) == [("x.a[0].b", 1), ("x.d", False)]
