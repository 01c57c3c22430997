"""The console as a person sees it, in a real headless Chromium.

Set UNDERSTUDY_SCREENSHOTS to a folder to keep pictures of the page.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from simulators.operator import TOKEN, Operator, served

WAIT_S = 20


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Debian's Chromium; `make setup` installs it."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("Chromium is not installed: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = chromium
    quiet = ("background-networking", "component-update", "sync", "gpu", "quic", "dev-shm-usage")
    for argument in ("headless", "no-sandbox", "no-first-run", *(f"disable-{q}" for q in quiet)):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def operator() -> Operator:
    return Operator()


@pytest.fixture
def page(browser: Chrome, operator: Operator) -> Iterator[Chrome]:
    """A fresh console, drawn once; afterwards nothing may have gone wrong in the page."""
    with served(operator.app) as address:
        _look(browser, width=1280, height=1000, scheme="light")
        browser.get(address)
        until(browser, lambda: text(browser, "live") == "live")
        yield browser
        unexpected = [e for e in _log(browser) if "status of 4" not in e["message"]]
        browser.get("about:blank")

    assert unexpected == []


def _log(browser: Chrome) -> list[dict[str, Any]]:
    return list(browser.get_log("browser"))


def _look(browser: Chrome, *, width: int, height: int, scheme: str) -> None:
    """A screen of that size, and what the system prefers."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def _keep(browser: Chrome, name: str) -> None:
    if folder := os.environ.get("UNDERSTUDY_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        size = browser.execute_script("return document.documentElement.scrollHeight")
        width = browser.execute_script("return innerWidth")
        _look(browser, width=width, height=size, scheme=name.rpartition("-")[2])
        browser.save_screenshot(f"{folder}/{name}.png")


def text(browser: Chrome, id_: str) -> str:
    return browser.find_element(By.ID, id_).text


def until(browser: Chrome, condition: Callable[[], bool]) -> None:
    WebDriverWait(browser, WAIT_S, poll_frequency=0.05).until(lambda _: condition())


def click(browser: Chrome, id_: str) -> None:
    element = browser.find_element(By.ID, id_)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def confirm(browser: Chrome, token: str) -> None:
    browser.find_element(By.ID, "token").send_keys(token)
    click(browser, "confirm-yes")


def test_an_operator_sees_contract_savings_nodes_and_nights_at_a_glance(page: Chrome) -> None:
    """The question at three in the morning is: does it still hold?"""
    shown = {
        id_: text(page, id_) for id_ in ("certificate", "promise", "call-rate", "saved", "nodes")
    }

    assert shown["certificate"] == "certified"
    assert "at most 2.0 %" in shown["promise"]
    assert "95 % confidence" in shown["promise"]
    assert shown["call-rate"] == "16.3 %"
    assert "$161.44 saved" in shown["saved"]
    assert "golden vector 3 differs" in shown["nodes"]
    assert "undecided" in text(page, "nights")
    assert "25 %" in text(page, "rollout-words")
    assert text(page, "stages").split("\n") == ["10 %", "25 %", "50 %", "100 %"]
    assert len(page.find_elements(By.CSS_SELECTOR, ".chart canvas")) == 3
    _keep(page, "console-light")


def test_the_page_follows_the_gateway_without_reloading(page: Chrome, operator: Operator) -> None:
    """A page that must be reloaded shows yesterday."""
    page.execute_script("window.loadedOnce = true")

    operator.state["certificate"] |= {"revoked": True, "risk_upper_bound": 0.031}
    operator.state["drift"] |= {"alarm": True, "value": 4000.0, "since_unix_s": 1_799_999_000.0}

    until(page, lambda: text(page, "certificate") == "revoked")
    assert text(page, "drift-state") == "alarm"
    assert "certified=False" in text(page, "advice")
    assert page.execute_script("return window.loadedOnce")
    _keep(page, "alarm-light")


def test_not_certified_names_the_rows_that_are_missing(page: Chrome, operator: Operator) -> None:
    """Not certified is an answer, and it says what to do."""
    missing = {"certified": False, "threshold": None, "rows_missing": 320, "keep_rate": 0.0}
    operator.state["certificate"] |= missing

    until(page, lambda: text(page, "certificate") == "not certified")
    assert "320 more audited rows" in text(page, "advice")
    assert "all escalate" in text(page, "facts")


def test_each_slice_shows_how_its_own_promise_stands(page: Chrome, operator: Operator) -> None:
    """A contract that holds on the whole can be broken for one group of users."""
    assert "kiosks" in text(page, "slices")
    assert "proved live" in text(page, "slices")

    operator.state["certificate"]["slices"][1] |= {"revoked": True, "standing": "revoked"}

    until(page, lambda: text(page, "certificate") == "slices revoked")
    assert "Withdrawn for telephone" in text(page, "advice")
    assert text(page, "slices").count("revoked") == 1
    _keep(page, "slices-light")


def test_a_cloud_of_several_tasks_shows_the_one_that_is_chosen(browser: Chrome) -> None:
    """Nothing of one task may be left on the page of another, and its buttons are its own."""
    operator = Operator(others=["orders"])
    for section in ("certificate", "rollout", "traffic", "drift"):
        del operator.state[section]
    with served(operator.app) as address:
        _look(browser, width=1280, height=1000, scheme="light")
        browser.get(f"{address}/?task=orders")
        until(browser, lambda: text(browser, "certificate") == "certified")
        click(browser, "pause")
        confirm(browser, TOKEN)
        until(browser, lambda: text(browser, "rollout-state") == "paused")
        _keep(browser, "tasks-light")
        assert (["pause"], []) == (operator.rollouts["orders"].asked, operator.rollout.asked)

        Select(browser.find_element(By.ID, "tasks")).select_by_visible_text("support-desk")
        until(browser, lambda: text(browser, "certificate") == "unknown")
        assert "task=support-desk" in browser.current_url
        assert text(browser, "rollout-state") == "none"
        assert "%" not in text(browser, "call-rate")

        browser.get(f"{address}/?task=orderz")
        until(browser, lambda: "there are support-desk, orders" in text(browser, "live"))
        browser.get_log("browser")
        browser.get("about:blank")


def test_one_task_leaves_nothing_to_choose(page: Chrome) -> None:
    assert not page.find_element(By.ID, "tasks").is_displayed()
    assert text(page, "task") == "support-desk"


def test_a_rollout_is_paused_and_resumed_with_the_token(page: Chrome, operator: Operator) -> None:
    """Two clicks and a token; what happened is on the page."""
    click(page, "pause")
    confirm(page, TOKEN)
    until(page, lambda: text(page, "rollout-state") == "paused")

    click(page, "pause")
    assert text(page, "confirm-title") == "Resume the rollout?"
    confirm(page, TOKEN)

    until(page, lambda: text(page, "rollout-state") == "running")
    assert operator.rollout.asked == ["pause", "resume"]


def test_a_wrong_token_rolls_nothing_back_and_says_so(page: Chrome, operator: Operator) -> None:
    """The dialog stays open, the fleet stays as it is."""
    click(page, "rollback")
    confirm(page, "not-the-token-at-all")

    until(page, lambda: text(page, "confirm-error") == "the token is wrong")
    assert operator.rollout.asked == []
    _keep(page, "dialog-light")


def test_a_rollback_is_one_dialog_away(page: Chrome, operator: Operator) -> None:
    """The button that must work on the worst day."""
    click(page, "rollback")
    confirm(page, TOKEN)

    until(page, lambda: operator.rollout.asked == ["rollback"])
    until(page, lambda: text(page, "rollout-state") == "done")


def test_text_of_users_is_never_markup(page: Chrome, operator: Operator) -> None:
    """Escalations are what strangers typed."""
    hostile = (
        "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    )
    operator.state["escalations"] = [{"text": hostile, "kind": "escalation"}]
    operator.state["nodes"][0]["node"] = hostile
    operator.state["nights"][0]["report"] = "javascript:alert(1)"

    until(page, lambda: "onerror" in text(page, "escalations"))
    assert page.title == "Understudy"
    assert "onerror" in text(page, "nodes")
    assert page.find_elements(By.CSS_SELECTOR, "#nights a") == []


def test_nothing_is_fetched_from_another_host(page: Chrome) -> None:
    """The console works on an island."""
    hosts = page.execute_script(
        "return performance.getEntriesByType('resource').map(e => new URL(e.name).host)"
    )

    assert set(hosts) == {page.execute_script("return location.host")}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone(page: Chrome, scheme: str) -> None:
    """Alerts arrive on phones."""
    _look(page, width=390, height=844, scheme=scheme)

    until(page, lambda: page.execute_script("return innerWidth") == 390)
    wider = "return document.documentElement.scrollWidth - innerWidth"
    assert page.execute_script(wider) <= 0
    heights = "return [...document.querySelectorAll('main button')].map(b => b.offsetHeight)"
    assert min(page.execute_script(heights)) >= 40
    _keep(page, f"phone-{scheme}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_card_in_both_schemes(page: Chrome, scheme: str) -> None:
    """WCAG asks for 4.5 to 1; a console that glares or fades is not read."""
    _look(page, width=1280, height=1000, scheme=scheme)

    worst = page.execute_script(_CONTRAST)

    assert worst["ratio"] >= 4.5, worst
    _keep(page, f"console-{scheme}")


def test_the_switch_turns_light_to_dark_and_back(page: Chrome) -> None:
    """For whoever disagrees with their system."""
    background = "return getComputedStyle(document.body).backgroundColor"
    before = page.execute_script(background)

    click(page, "theme")
    turned = page.execute_script(background)
    click(page, "theme")

    assert before != turned
    assert before == page.execute_script(background)


def test_an_empty_cloud_is_shown_as_empty_and_not_as_broken(
    page: Chrome, operator: Operator
) -> None:
    """The first minute of every installation."""
    operator.state.clear()
    page.refresh()

    until(page, lambda: text(page, "live") == "live")
    assert text(page, "certificate") == "unknown"
    assert text(page, "nights") == "no night yet"
    assert not page.find_element(By.ID, "pause").is_displayed()
    _keep(page, "empty-light")


def test_a_gateway_that_stops_answering_is_seen(browser: Chrome) -> None:
    """Old numbers under a green light are worse than none."""
    with served(Operator().app) as address:
        browser.get(address)
        until(browser, lambda: text(browser, "live") == "live")

    until(browser, lambda: text(browser, "live").startswith("no answer"))
    browser.get("about:blank")
    browser.get_log("browser")


_CONTRAST = """
  const rgb = (c) => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const channel = (v) => v <= 10 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
  const behind = (e) => {
    for (let at = e; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (rgb(colour)[3] === 255) return colour;
    }
    return 'white';
  };
  let worst = {ratio: 99};
  for (const e of document.querySelectorAll('main *, header *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.offsetParent) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(rgb(behind(e)))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < worst.ratio) worst = {ratio, text: e.textContent.slice(0, 40), id: e.id};
  }
  return worst;
"""
