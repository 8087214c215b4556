"""A business's live state in words and numbers, read off its actor."""

from __future__ import annotations

from taskcenter.actors.business import BusinessActor
from taskcenter.service.engine_port import BusinessView, WaitView, host_breaker


def business_view(actor: BusinessActor, now_ms: int) -> BusinessView:
    return BusinessView(
        in_flight=len(actor.in_flight),
        ready=len(actor.ready),
        mailbox_depth=len(actor.mailbox),
        restarts=actor.restarts,
        degraded=actor.degraded,
        unwell=tuple(host_breaker(host, breaker) for host, breaker in actor.admission.breakers.unwell),
        closed_since=actor.admission.breakers.closed_since,
        rate_limit_used=actor.admission.limiter.used(now_ms),
    )


def wait_view(actor: BusinessActor, task_id: str, now_ms: int) -> WaitView | None:
    """None: this actor does not hold the task."""
    attempt = actor.in_flight.get(task_id)
    if attempt is not None:
        detail = "an attempt is on its way" if attempt.sent else "its attempt is being claimed"
        return WaitView("in_flight", None, attempt.start_at, detail)
    ref = actor.ready.get(task_id)
    if ref is None:
        return None
    hold, position = actor.admission.hold_for(ref, now_ms), actor.ready.position(task_id)
    if hold is None:
        return WaitView("time", position, ref.due_at, "starts at its due time")
    expected = hold.until
    if hold.reason == "rate_limit" and position is not None:  # those before it take their places first
        expected = actor.admission.limiter.expected_at(position, max(ref.due_at, now_ms))
    return WaitView(hold.reason, position, expected, hold.detail)
