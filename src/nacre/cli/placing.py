"""Options that say where a machine may and should go, and what they mean. Shared by `vm create` and `vm update`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from nacre.errors import InvalidInputError
from nacre.model.metadata import check_labels
from nacre.model.placement import (
    MAX_PRIORITY,
    AffinityTerm,
    NodePreference,
    Placement,
    SpreadConstraint,
    Strategy,
    TaintEffect,
    Toleration,
    Topology,
)

Strategies = Literal["least-loaded", "best-fit", "round-robin", "random", "weighted"]
_WORDS = frozenset({"topology", "weight", "max-skew"})
"""What may stand beside labels in a rule; labels of these names cannot be given on the command line."""
_FLAGS = frozenset({"preferred", "required"})


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Placing:
    """Where a machine may and should go, and how important it is."""

    ha: Annotated[
        Literal["restart", "none"] | None,
        Parameter(help="When its node is lost, restart it on another; or none, the default: it waits for its node."),
    ] = None
    priority: Annotated[
        int | None, Parameter(help="0 to 1000, 100 by default; higher goes first when room is short.")
    ] = None
    preemptible: Annotated[
        bool | None, Parameter(help="May be stopped to make room for a machine of higher priority.")
    ] = None
    zone: Annotated[
        tuple[str, ...], Parameter(negative=(), help="Only nodes in this zone, the first preferred. Repeatable.")
    ] = ()
    region: Annotated[
        tuple[str, ...], Parameter(negative=(), help="Only nodes in this region, the first preferred. Repeatable.")
    ] = ()
    node_label: Annotated[
        tuple[str, ...], Parameter(negative=(), help="Only nodes with this label, key=value. Repeatable.")
    ] = ()
    tolerate: Annotated[
        tuple[str, ...], Parameter(negative=(), help="Accept a taint: key[=value][:effect]. Repeatable.")
    ] = ()
    prefer: Annotated[
        tuple[str, ...],
        Parameter(negative=(), help="Rather nodes with these labels: key=value[,weight=1..100]. Repeatable."),
    ] = ()
    near: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(),
            help="Where machines with these labels are: key=value[,topology=node|zone|region][,preferred]. Repeatable.",
        ),
    ] = ()
    apart: Annotated[
        tuple[str, ...],
        Parameter(negative=(), help="Where machines with these labels are not; written like --near. Repeatable."),
    ] = ()
    spread: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(),
            help="Even out machines with these labels: key=value[,topology=zone][,max-skew=1][,required]. Repeatable.",
        ),
    ] = ()
    strategy: Annotated[
        Strategies | None, Parameter(help="How to choose among nodes that fit; otherwise the platform's.")
    ] = None

    @property
    def checked_priority(self) -> int | None:
        """The priority, if it is one. Raises InvalidInputError."""
        if self.priority is not None and not 0 <= self.priority <= MAX_PRIORITY:
            raise InvalidInputError(
                "invalid_priority",
                f"{self.priority} is no priority",
                hint=f"use 0 to {MAX_PRIORITY}",
                field="priority",
            )
        return self.priority


ANYWHERE = Placing()


def placement(asked: Placing, before: Placement | None = None) -> Placement:
    """Return what the options ask for; what they leave out is as it was `before`. Raises InvalidInputError."""
    given: dict[str, object] = {
        "zones": asked.zone,
        "regions": asked.region,
        "node_labels": _labels(asked.node_label, "node-label"),
        "tolerations": tuple(_toleration(text) for text in asked.tolerate),
        "prefer": tuple(_preference(text) for text in asked.prefer),
        "affinity": tuple(_term(text, "near") for text in asked.near),
        "anti_affinity": tuple(_term(text, "apart") for text in asked.apart),
        "spread": tuple(_spread(text) for text in asked.spread),
        "strategy": None if asked.strategy is None else Strategy(asked.strategy),
    }
    return msgspec.structs.replace(before or Placement(), **{name: value for name, value in given.items() if value})


def _labels(texts: Sequence[str], option: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for text, (key, equals, _) in zip(texts, pairs, strict=True):
        if not key or not equals:
            raise _wrong(option, text, "it is not key=value")
    return check_labels({key: value for key, _, value in pairs}, field=option)


def _toleration(text: str) -> Toleration:
    rest, _, effect = text.partition(":")
    key, equals, value = rest.partition("=")
    if not key:
        raise _wrong("tolerate", text, "it has no key")
    if effect and effect not in set(TaintEffect):
        raise _wrong("tolerate", text, f"the effect is one of {', '.join(TaintEffect)}")
    return Toleration(key=key, value=value if equals else None, effect=TaintEffect(effect) if effect else None)


def _preference(text: str) -> NodePreference:
    labels, words, flags = _rule(text, "prefer", {"weight"})
    if flags:
        raise _wrong("prefer", text, f"{min(flags)} means nothing here")
    return NodePreference(labels=labels, weight=_number(words.get("weight", "50"), 100, "prefer", text))


def _term(text: str, option: str) -> AffinityTerm:
    labels, words, flags = _rule(text, option, {"topology", "weight"})
    return AffinityTerm(
        labels=labels,
        topology=_topology(words.get("topology", Topology.NODE.value), option, text),
        required="preferred" not in flags,
        weight=_number(words.get("weight", "50"), 100, option, text),
    )


def _spread(text: str) -> SpreadConstraint:
    labels, words, flags = _rule(text, "spread", {"topology", "max-skew"})
    return SpreadConstraint(
        labels=labels,
        topology=_topology(words.get("topology", Topology.ZONE.value), "spread", text),
        max_skew=_number(words.get("max-skew", "1"), 1000, "spread", text),
        required="required" in flags,
    )


def _rule(text: str, option: str, known: set[str]) -> tuple[dict[str, str], dict[str, str], set[str]]:
    """Take a rule apart: its labels, words with a value, and words without one."""
    labels: list[str] = []
    words: dict[str, str] = {}
    flags: set[str] = set()
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals and key in _FLAGS:
            flags.add(key)
        elif equals and key in _WORDS:
            if key not in known:
                raise _wrong(option, text, f"{key} means nothing here")
            words[key] = value
        else:
            labels.append(part)
    if not labels:
        raise _wrong(option, text, "it names no label")
    if flags >= _FLAGS:
        raise _wrong(option, text, "it is either preferred or required")
    return _labels(labels, option), words, flags


def _topology(text: str, option: str, whole: str) -> Topology:
    if text not in set(Topology):
        raise _wrong(option, whole, f"the topology is one of {', '.join(Topology)}")
    return Topology(text)


def _number(text: str, most: int, option: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise _wrong(option, whole, f"{text!r} is not a number from 1 to {most}")
    return int(text)


def _wrong(option: str, text: str, why: str) -> InvalidInputError:
    return InvalidInputError(
        f"invalid_{option.replace('-', '_')}",
        f"--{option} {text}: {why}",
        hint=f"see --{option} in nacre vm create --help",
        field=option,
    )
