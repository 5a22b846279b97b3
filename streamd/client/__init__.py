"""Subscribing to what streamd publishes, sync or async, alone or in a group.

    from streamd.client import Subscriber

    for event in Subscriber("redis://localhost:6379/0", labels={"person"}):
        print(event.camera, event.ts, [item.label for item in event.data.objects])

    async for event in AsyncSubscriber("redis://localhost:6379/0", group="alerts"):
        ...

Without a `group` a subscriber sees all events from `start` on, and `position` is what to keep in
order to go on there another time. With one, the consumers of that group share the events, and Redis
remembers what each has taken: an event is acknowledged when the next one is asked for, so what was
being worked on in a crash comes again: to another consumer after `claim_after_s`, or at once to the
same one, if it was given a name of its own (`consumer`). What is no event is skipped. A Redis that
is away is waited for. docs/events.md has all options.
"""

from streamd.client.reading import Gap
from streamd.client.subscriber import AsyncSubscriber, Subscriber
from streamd.events import Event

__all__ = ["AsyncSubscriber", "Event", "Gap", "Subscriber"]
