"""The console's routes: what is served, what is refused, and what a page may do."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from simulators.operator import TOKEN, Operator
from understudy.cloud.console.routes import STATIC, console_routes
from understudy.types.errors import InvalidValueError

RIGHT = {"Authorization": f"Bearer {TOKEN}"}


def test_the_page_is_served_and_may_load_nothing_from_elsewhere() -> None:
    """A console that needs another host is no console on the day that host is away."""
    answer = TestClient(Operator().app).get("/")

    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"https?://", answer.text)


def test_no_file_of_ours_names_another_host() -> None:
    """The content policy would block it; better that nobody writes it."""
    for file in STATIC.glob("*.*"):
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")

        assert not re.search(r"https?://", text), file.name


def test_the_vendored_library_is_the_one_that_was_written_down() -> None:
    """A library that changed under us is a library nobody has looked at."""
    vendor = STATIC / "vendor"
    written = dict(
        re.findall(r"`([\w.]+)` \|.*`([0-9a-f]{64})`", (vendor / "README.md").read_text())
    )
    found = {name: hashlib.sha256((vendor / name).read_bytes()).hexdigest() for name in written}

    assert len(written) == 2
    assert written == found
    assert "MIT" in (vendor / "uPlot.LICENSE").read_text()


def test_the_state_says_whether_there_are_buttons() -> None:
    """The page hides what would be refused."""
    with_token = TestClient(Operator().app).get("/api/state").json()
    without = TestClient(Operator(token="").app).get("/api/state").json()

    assert with_token["writable"] is True
    assert without["writable"] is False


def test_what_is_not_finite_is_sent_as_null() -> None:
    """An uncertified threshold is infinite, and JSON has no word for that."""
    operator = Operator()
    operator.state["certificate"] |= {"threshold": math.inf, "keep_rate": math.nan}
    operator.state["history"][0]["drift"] = -math.inf

    shown = TestClient(operator.app).get("/api/state").json()

    assert (None, None) == (shown["certificate"]["threshold"], shown["certificate"]["keep_rate"])
    assert shown["history"][0]["drift"] is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({}, 401, id="no token"),
        pytest.param({"Authorization": "Bearer wrong-wrong-wrong-wrong"}, 401, id="wrong token"),
        pytest.param({"Authorization": f"Basic {TOKEN}"}, 401, id="wrong scheme"),
        pytest.param({"Authorization": "Bearer \xe9"}, 401, id="not ascii"),
        pytest.param(RIGHT, 200, id="right token"),
    ],
)
def test_a_write_needs_the_token(headers: dict[str, str], status: int) -> None:
    """Whoever can reach the port can look; only the operator may act."""
    operator = Operator()
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]

    answer = TestClient(operator.app).post("/api/rollout/pause", headers=encoded)

    assert status == answer.status_code
    assert (["pause"] if status == 200 else []) == operator.rollout.asked


def test_each_task_has_a_state_and_buttons_of_its_own() -> None:
    """Pausing one task's release must not pause another's."""
    operator = Operator(others=["orders"])
    client = TestClient(operator.app)

    first, second = (client.get(f"/api/state{q}").json() for q in ("", "?task=orders"))
    paused = client.post("/api/rollout/pause?task=orders", headers=RIGHT)

    assert ("support-desk", "orders") == (first["task"], second["task"])
    assert paused.status_code == 200
    assert (["pause"], []) == (operator.rollouts["orders"].asked, operator.rollout.asked)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_task_that_is_not_there_is_said_with_those_that_are(method: str) -> None:
    operator = Operator(others=["orders"])
    path = {"GET": "/api/state", "POST": "/api/rollout/pause"}[method]

    answer = TestClient(operator.app).request(method, f"{path}?task=orderz", headers=RIGHT)

    assert 404 == answer.status_code
    assert "there are support-desk, orders" in answer.json()["error"]
    assert [] == operator.rollout.asked


def test_without_a_configured_token_nobody_can_write() -> None:
    """No token must not mean any token."""
    operator = Operator(token="")

    answer = TestClient(operator.app).post(
        "/api/rollout/rollback", headers={"Authorization": "Bearer "}
    )

    assert answer.status_code == 403
    assert operator.rollout.asked == []


def test_a_token_too_short_to_guard_anything_is_refused() -> None:
    """Better at start than in the incident report."""
    with pytest.raises(InvalidValueError, match="16 characters"):
        console_routes(state=lambda _: {}, tasks=["t"], token="short")  # noqa: S106 - that is the point


def test_a_rollback_that_cannot_be_done_says_why() -> None:
    """The operator reads the sentence in the dialog and knows what to do."""
    operator = Operator()
    del operator.state["releases"][1:]

    answer = TestClient(operator.app).post("/api/rollout/rollback", headers=RIGHT)

    assert (409, {"error": "there is no release before this one"}) == (
        answer.status_code,
        answer.json(),
    )


@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_a_write_is_a_post_and_nothing_else(method: str) -> None:
    """A link or a prefetch must never roll anything back."""
    answer = getattr(TestClient(Operator().app), method)("/api/rollout/rollback", headers=RIGHT)

    assert answer.status_code == 405


def test_an_unknown_action_names_the_known_ones() -> None:
    """One clear sentence for whoever scripts it."""
    answer = TestClient(Operator().app).post("/api/rollout/explode", headers=RIGHT)

    assert answer.status_code == 404
    assert "pause, resume, rollback" in answer.json()["error"]


def test_a_report_is_served_in_a_sandbox_and_nothing_beside_it(tmp_path: Path) -> None:
    """Reports hold users' text; they must not run anything, and the folder is the border."""
    reports = tmp_path / "reports"
    (reports / "2027-01-14").mkdir(parents=True)
    (reports / "2027-01-14" / "report.html").write_text("<h1>night</h1>")
    (tmp_path / "secret.txt").write_text("key")
    client = TestClient(Operator(reports=reports).app)

    served = client.get("/reports/2027-01-14/report.html")
    beside = client.get("/reports/%2e%2e/secret.txt")

    assert served.status_code == 200
    assert "sandbox" in served.headers["content-security-policy"]
    assert beside.status_code == 404
