"""The configuration of a machine that exists, as a template takes it over. Pure.

What only one machine can have is left out. A new field of `VmSpec` is taken over unless it gets a line here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from nacre.control.services.vm_layers import config_of, given
from nacre.model.vms import NicSpec, VmSpec
from nacre.schema.vms import VmConfig


def _without_mac(nics: tuple[NicSpec, ...]) -> tuple[NicSpec, ...]:
    return tuple(msgspec.structs.replace(nic, mac=None) for nic in nics)


IDENTITY: Mapping[str, Callable[[Any], Any]] = {"nics": _without_mac}
"""How to take what belongs to one machine alone out of a field; to return None leaves the field out."""


def capture(spec: VmSpec, labels: Mapping[str, str]) -> VmConfig:
    """Return the configuration from which a machine like this one is made. Everything is given, also what is default,
    so that machines from it stay alike when defaults change."""
    values = {name: getattr(spec, name) for name in VmSpec.__struct_fields__ if name in VmConfig.__struct_fields__}
    kept = {name: IDENTITY[name](value) if name in IDENTITY else value for name, value in values.items()}
    return config_of(given(config_of({**kept, "labels": dict(labels)})))
