"""CONTRACT.md §3, businesses: registration, settings in force, credentials, tokens, statistics, audit, the admin."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from tests.flow.contract_kit import Live, refused
from tests.flow.kit import ADMIN_TOKEN, Answer

pytestmark = pytest.mark.real_time
IN_FORCE_S = 2.0
BREAKER = {
    "enabled": True, "failure_threshold": 5, "failure_rate": None, "window_seconds": 60, "min_calls": 10,
    "open_seconds": 30, "max_open_seconds": 300, "half_open_probes": 1,
}  # fmt: skip


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_registration_shows_its_secrets_once(live: Live) -> None:
    business = live.business(rate_limit=500, max_concurrent_tasks=7, max_active_tasks=70, default_timeout=3)
    made = business.made
    assert made["api_key"] and made["signing_secret"].startswith("whsec_")
    life = moment(made["api_key_expires_at"]) - datetime.now(UTC)
    assert timedelta(days=364) < life < timedelta(days=367)
    for caller in (live.admin, business.api):
        answer = caller.call("GET", f"/businesses/{business.code}")
        assert made["api_key"] not in answer.text and made["signing_secret"] not in answer.text
        seen = answer.json()
        assert (seen["rate_limit"], seen["max_concurrent_tasks"], seen["max_active_tasks"]) == (500, 7, 70)
        assert seen["default_timeout"] == 3 and seen["status"] == "active" and seen["breaker"] == BREAKER
    assert business.task(live, delay=60)["timeout"] == 3
    listed = live.admin.call("GET", "/businesses?limit=200")
    assert business.code in {each["business_code"] for each in listed.json()["items"]}
    assert made["api_key"] not in listed.text
    refused(live.admin.call("POST", "/businesses", {"business_code": business.code, "business_name": "x"}), 409,
            "business_code_conflict")  # fmt: skip
    own = business.api.ok("GET", "/businesses")["items"]
    assert [each["business_code"] for each in own] == [business.code], "a business sees itself only"
    refused(business.api.call("GET", f"/businesses/{live.business().code}"), 404, "not_found")
    refused(live.admin.call("GET", "/businesses/nobody-here"), 404, "not_found")


def test_the_defaults_are_the_contracts(live: Live) -> None:
    seen = live.admin.ok("GET", f"/businesses/{live.business().code}")
    assert (seen["rate_limit"], seen["max_active_tasks"]) == (1000, 10_000)


def test_a_pause_is_in_force_within_two_seconds(live: Live) -> None:
    business = live.business()
    live.admin.ok("PUT", f"/businesses/{business.code}", {"status": "paused"})
    time.sleep(IN_FORCE_S)
    task = business.task(live)
    time.sleep(0.5)
    assert live.receiver.calls(business.path) == []
    assert business.api.ok("GET", f"/tasks/{task['id']}")["status"] == "pending"
    live.admin.ok("PUT", f"/businesses/{business.code}", {"status": "active"})
    live.receiver.wait_for(business.path)
    assert business.api.ended(task)["status"] == "succeeded"


def test_a_disabled_business_is_refused_within_two_seconds(live: Live) -> None:
    business = live.business()
    token = business.api.ok("POST", f"/businesses/{business.code}/tokens", {})["token"]
    live.admin.ok("PUT", f"/businesses/{business.code}", {"status": "disabled"})
    time.sleep(IN_FORCE_S)
    refused(business.api.call("GET", "/tasks"), 403, "forbidden")
    refused(live.client(token).call("GET", "/tasks"), 403, "forbidden")
    live.admin.ok("PUT", f"/businesses/{business.code}", {"status": "active"})
    time.sleep(IN_FORCE_S)
    business.api.ok("GET", "/tasks")


def test_more_concurrency_is_in_force_for_what_waits(live: Live) -> None:
    business = live.business(max_concurrent_tasks=1)
    go = threading.Event()
    live.receiver.on[business.path] = lambda _: Answer(go=go)
    for _ in range(4):
        business.task(live, timeout=30)
    live.receiver.wait_for(business.path)
    live.admin.ok("PUT", f"/businesses/{business.code}", {"max_concurrent_tasks": 10})
    live.receiver.wait_for(business.path, 4, 20)  # none has ended
    go.set()


def test_only_the_admin_sets_limits(live: Live) -> None:
    business = live.business()
    path = f"/businesses/{business.code}"
    refused(business.api.call("PUT", path, {"rate_limit": 5}), 403, "forbidden")
    changed = live.admin.ok("PUT", path, {"business_name": "New", "rate_limit": 5, "breaker": {"open_seconds": 60}})
    assert (changed["business_name"], changed["rate_limit"]) == ("New", 5)
    assert changed["breaker"] == {**BREAKER, "open_seconds": 60}
    refused(live.admin.call("PUT", path, {"status": "gone"}), 422, "invalid_request")


def test_a_rotation_leaves_the_former_key_its_grace(live: Live) -> None:
    business = live.business()
    path = f"/businesses/{business.code}/credentials"
    new = business.api.ok("PUT", path, {"grace_seconds": 8, "rotate_signing_secret": True})
    left = moment(new["previous_key_valid_until"]) - datetime.now(UTC)
    assert timedelta(seconds=1) < left <= timedelta(seconds=8)
    fresh = live.client(new["api_key"])
    business.api.ok("GET", "/tasks")
    time.sleep(IN_FORCE_S - 0.5)
    business.task(live)
    [call] = live.receiver.wait_for(business.path)
    assert len(call.headers["webhook-signature"].split(" ")) == 2, "both sign while the rotation is under way"
    for secret in (business.made["signing_secret"], new["signing_secret"]):
        Webhook(secret).verify(call.body, call.headers)
    time.sleep(left.total_seconds() + 0.2)
    refused(business.api.call("GET", "/tasks"), 401, "unauthenticated")
    fresh.ok("POST", "/tasks", business.body(live))
    call = live.receiver.wait_for(business.path, 2)[1]
    assert len(call.headers["webhook-signature"].split(" ")) == 1
    with pytest.raises(WebhookVerificationError):
        Webhook(business.made["signing_secret"]).verify(call.body, call.headers)


def test_the_next_callback_after_a_rotation_bears_both_signatures(live: Live) -> None:
    business = live.business()
    business.api.ended(business.task(live))  # so the service has just used the former secret
    path = f"/businesses/{business.code}/credentials"
    new = business.api.ok("PUT", path, {"rotate_signing_secret": True})
    business.task(live)
    call = live.receiver.wait_for(business.path, 2)[1]
    assert len(call.headers["webhook-signature"].split(" ")) == 2
    for secret in (business.made["signing_secret"], new["signing_secret"]):
        Webhook(secret).verify(call.body, call.headers)


def test_a_revocation_is_in_force_within_two_seconds(live: Live) -> None:
    business = live.business()
    token = business.api.ok("POST", f"/businesses/{business.code}/tokens", {})["token"]
    new = live.admin.ok("PUT", f"/businesses/{business.code}/credentials", {"revoke_previous": True})
    assert "signing_secret" not in new or new["signing_secret"] is None
    time.sleep(IN_FORCE_S)
    refused(business.api.call("GET", "/tasks"), 401, "unauthenticated")
    refused(live.client(token).call("GET", "/tasks"), 401, "unauthenticated")
    live.client(new["api_key"]).ok("GET", "/tasks")


def test_a_token_stands_for_the_key_within_its_scopes(live: Live) -> None:
    business = live.business()
    path = f"/businesses/{business.code}/tokens"
    reader = live.client(business.api.ok("POST", path, {"scopes": ["tasks:read"]})["token"])
    assert reader.ok("GET", "/tasks")["items"] == []
    refused(reader.call("POST", "/tasks", business.body(live)), 403, "forbidden")
    refused(reader.call("POST", path, {}), 403, "forbidden")


def test_a_token_lives_as_long_as_was_asked_or_an_hour(live: Live) -> None:
    business = live.business()
    path = f"/businesses/{business.code}/tokens"
    before = datetime.now(UTC)
    issued = business.api.ok("POST", path, {"ttl": 1})
    expires_at = moment(issued["expires_at"])
    assert before <= expires_at <= datetime.now(UTC) + timedelta(seconds=1)
    time.sleep(max(0.0, (expires_at - datetime.now(UTC)).total_seconds()) + 0.1)
    refused(live.client(issued["token"]).call("GET", "/tasks"), 401, "unauthenticated")
    before = datetime.now(UTC)
    life = moment(business.api.ok("POST", path, {})["expires_at"]) - before
    assert timedelta(minutes=59) < life <= timedelta(hours=1) + (datetime.now(UTC) - before)


def test_a_key_may_come_in_its_own_header(live: Live) -> None:
    business = live.business()
    keyed = live.client(None, **{"X-API-Key": business.made["api_key"]})
    keyed.ok("GET", "/tasks")
    refused(live.client(None, **{"X-API-Key": ADMIN_TOKEN}).call("GET", "/businesses"), 401, "unauthenticated")


def test_an_admin_acts_on_a_business_by_name_and_is_audited(live: Live) -> None:
    business = live.business()
    refused(live.admin.call("GET", "/tasks"), 403, "forbidden")
    acting = live.client(ADMIN_TOKEN, **{"X-TaskCenter-Business": business.code})
    task = acting.ok("POST", "/tasks", business.body(live, delay=3600))
    assert business.api.ok("GET", f"/tasks/{task['id']}")["business_code"] == business.code
    entries = business.api.ok("GET", f"/businesses/{business.code}/audit")["items"]
    entry = next(each for each in entries if each["action"] == "task.create")
    assert entry["actor"]["kind"] == "admin" and entry["target"] == task["id"]
    refused(live.client(ADMIN_TOKEN, **{"X-TaskCenter-Business": "nobody"}).call("GET", "/tasks"), 404, "not_found")
    other = live.client(business.made["api_key"], **{"X-TaskCenter-Business": live.business().code})
    refused(other.call("GET", "/tasks"), 403, "forbidden")


def test_the_audit_tells_who_did_what_newest_first(live: Live) -> None:
    business = live.business()
    task = business.api.call("POST", "/tasks", business.body(live, delay=99), **{"X-Request-Id": "r-1"}).json()
    business.api.ok("DELETE", f"/tasks/{task['id']}")
    new = business.api.ok("PUT", f"/businesses/{business.code}/credentials", {"revoke_previous": True})
    time.sleep(IN_FORCE_S)
    refused(business.api.call("GET", "/tasks"), 401, "unauthenticated")
    api = live.client(new["api_key"])

    def actions(answer: Any) -> list[str]:
        return [entry["action"] for entry in answer["items"]]

    path = f"/businesses/{business.code}/audit"
    seen = api.until(path, lambda answer: "auth.failure" in actions(answer))
    assert {"task.create", "task.cancel", "credentials.rotate", "business.create"} <= set(actions(seen))
    times = [entry["at"] for entry in seen["items"] if entry["action"] != "credential.use"]
    assert times == sorted(times, reverse=True)
    for entry in seen["items"]:
        assert {"at", "actor", "action", "target", "result", "ip", "request_id"} <= entry.keys()
        assert {"kind", "key_id"} <= entry["actor"].keys()
    created = next(entry for entry in seen["items"] if entry["action"] == "task.create")
    assert (created["request_id"], created["ip"], created["actor"]["kind"]) == ("r-1", "127.0.0.1", "api_key")
    page = api.ok("GET", f"{path}?limit=1")
    following = api.ok("GET", f"{path}?limit=1&cursor={page['next_cursor']}")
    assert page["items"][0]["seq"] > following["items"][0]["seq"]
    refused(live.business().api.call("GET", path), 404, "not_found")
    assert business.made["api_key"] not in str(seen)


def test_the_statistics_have_the_promised_shape(live: Live) -> None:
    business = live.business(rate_limit=50, breaker={"failure_threshold": 3})
    for _ in range(3):
        business.api.ended(business.task(live))
    live.receiver.on[business.path] = lambda _: Answer(500)
    for _ in range(3):
        business.api.ended(business.task(live))
    business.task(live, delay=3600)
    path = f"/businesses/{business.code}/stats"
    seen = business.api.until(path, lambda stats: stats["breaker"]["state"] == "open" and stats["tasks"]["pending"])
    assert (seen["tasks"]["succeeded"], seen["tasks"]["failed"], seen["tasks"]["pending"]) == (3, 3, 1)
    assert seen["success_rate"] == 0.5 and seen["callbacks"]["count"] == 6 and seen["in_flight"] == 0
    for name in ("duration_ms", "lateness_ms"):
        ranks = seen["callbacks"][name]
        assert 0 <= ranks["p50"] <= ranks["p95"] <= ranks["p99"]
    assert seen["breaker"]["since"] and seen["breaker"]["next_probe_at"] > seen["breaker"]["since"]
    assert seen["rate_limit"] == {"limit": 50, "used_last_minute": 6}
    assert (seen["active"], seen["pending"], len(seen["hours"])) == (1, 1, 24)
    assert sum(hour["count"] for hour in seen["hours"]) == 6
    assert live.admin.ok("GET", path)["tasks"] == seen["tasks"]
    refused(live.business().api.call("GET", path), 404, "not_found")


def test_the_systems_totals_are_the_admins(live: Live) -> None:
    totals = live.admin.ok("GET", "/stats")
    assert totals["tasks"].keys() >= {"pending", "running", "succeeded"}
    assert sum(instance["shards"] for instance in totals["instances"] if instance["alive"]) == 256
    assert {"wheel", "leases", "actors"} <= totals["engine"].keys()


def test_health_tells_its_checks_to_anyone(live: Live) -> None:
    nobody = live.client(None).http
    for path in ("/health", "/health/live", "/health/ready", "/api/v1/health"):
        answer = nobody.get(path)
        assert answer.status_code == 200
        assert answer.json()["status"] == "ok" and isinstance(answer.json()["checks"], dict)
