"""The devices of a trial: which they are, and whether they are well before it and after a failure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from autotune.platforms import Device
from autotune.results import Evidence, FailureClass
from autotune.trial import failures
from autotune.trial.request import Grant

DEVICES_MAY_CAUSE = {
    FailureClass.HANG,
    FailureClass.COMMUNICATION,
    FailureClass.OPERATOR,
    FailureClass.HARDWARE,
    FailureClass.UNKNOWN,
}


@dataclass(slots=True)
class Health:
    """What a trial has found out about its devices."""

    told: dict[str, str] = field(default_factory=dict)  # device that is not OK -> what its tool says
    unwell: tuple[str, ...] = ()  # devices that are to leave the pool
    node_unwell: bool = False  # all devices of the node are

    def look_at(self, devices: Sequence[Device]) -> list[Device]:
        """Those that are not well; what only warns is told."""
        self.told |= {device.id: device.health_text for device in devices if device.health != "OK"}
        unwell = [device for device in devices if not device.usable]
        self.unwell = tuple(device.id for device in unwell)
        return unwell

    def blame(self, evidence: Evidence, own: tuple[str, ...], discover: Callable[[], Sequence[Device]]) -> Evidence:
        """An engine that hangs or fails in an operator may do so for a device of its own whose alarm came meanwhile."""
        if evidence.failure not in DEVICES_MAY_CAUSE:
            return evidence
        unwell = self.look_at([device for device in discover() if device.id in own])
        if unwell:
            return failures.devices_failed(unwell, evidence)
        if evidence.failure is FailureClass.HARDWARE:
            self.unwell = own  # the log does not say which
        return evidence


def granted(grant: Grant, found: Sequence[Device]) -> list[Device]:
    """The granted devices as the platform sees them; all of them where the cluster only counts.

    One that its tool does not show is not well: it has fallen off its bus, or Ray counts otherwise than the tool.
    """
    if not grant.devices:
        return list(found)
    known = {device.id: device for device in found}
    shown = ", ".join(known) or "none"
    complaint = f"its tool shows {shown}; if it is one of these, start Ray with this numbering (in a container: from 0)"
    return [known.get(own) or Device(own, "", "UNKNOWN", complaint=complaint) for own in grant.devices]
