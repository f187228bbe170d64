"""Bodies of /v1/events: the model's event is what is shown."""

from nacre.model.events import Actor, ActorKind, Event

EventOut = Event

__all__ = ["Actor", "ActorKind", "EventOut"]
