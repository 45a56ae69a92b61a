"""The viewer in a real Chromium, as a person uses it: from the overview to a row, its net, its tree and its life; by mouse and by keyboard."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.chromium import Browser
from tests.shown import NAMES, SCRIPT, commit
from tracemill.pipelines.store import Store
from tracemill.pipelines.versions.reports import write_beside

pytestmark = pytest.mark.timeout(240)  # the first page waits for a Chromium and a viewer to start


REPORT = """<!doctype html><title>report</title><style>body { color: rgb(1, 2, 3) }</style><p>said</p><script>
document.title = "it ran"; fetch("table").then(() => { document.title = "it read" }, () => { document.title = "kept out" })
</script>"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, _chromium: Browser) -> Iterator[str]:
    """The address of a viewer of the version of `shown.py`; nothing is started where there is no Chromium."""
    root = tmp_path_factory.mktemp("store")
    write_beside(root, commit(Store(root)), REPORT)
    command = [sys.executable, "-m", "tracemill.pipelines.cli", "view", "shown", "--store", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def seen(browser: Browser) -> str:
    return str(browser.find("main").text)


def test_from_the_overview_to_a_row_its_net_and_its_life(browser: Browser, url: str, tmp_path: Path) -> None:
    browser.open(url)
    assert "What became of the traces" in seen(browser)
    browser.link("rows").click()
    assert "Rows 0 to 49 of 239" in seen(browser)
    browser.link("next").click()
    assert "Rows 50 to 99 of 239" in seen(browser)
    browser.open(url + "row?t=rows&id=p0011/solve-0000")
    assert browser.find("figure svg").is_displayed()
    assert not browser.find("figure pre").is_displayed()
    browser.find("figure summary").click()
    assert "* [1] FH, CM -> LS" in browser.find("figure pre").text
    thought = browser.find(".thought pre")
    assert not thought.is_displayed()
    browser.find(".thought summary").click()
    assert thought.text == "Let me add 11 and 4."
    browser.link("explain").click()
    assert "the life of a trace" in browser.find("h1").text
    assert browser.find("figure svg").is_displayed()
    assert browser.screenshot(tmp_path / "life.png").stat().st_size > 10_000


def test_a_reason_leads_to_what_was_turned_down_and_a_problem_to_its_tree(browser: Browser, url: str) -> None:
    browser.open(url)
    browser.link("too_long").click()
    assert seen(browser).count("filter:length") >= 20
    browser.open(url + "row?t=rows&id=p0003/solve-0000")
    browser.link("tree of the problem").click()
    assert len(browser.all("svg g[data-node]")) == 7
    assert browser.run("return document.querySelector('svg text[font-weight]').textContent") == "question"
    browser.link("explain the problem").click()
    assert "turned down at filter:length: too_long" in seen(browser)


def test_a_search_by_keyboard_alone(browser: Browser, url: str) -> None:
    browser.open(url + "table?t=rows")
    browser.press("TAB")
    assert browser.run("return document.activeElement.textContent") == "Skip to the content"
    browser.press("ENTER", "TAB")
    assert browser.run("return document.activeElement.name") == "q"
    browser.press("IT IS 20", "ENTER")
    found = int(re.search(r"(\d+) found", seen(browser))[1])  # type: ignore[index]
    assert found == len(browser.all("table.rows tbody tr")) > 5
    browser.find(".search summary").click()
    browser.find("select[name=f] option[value=correct]").click()
    browser.find("input[name=v]").send_keys("false")
    browser.press("ENTER")
    assert 0 < len(browser.all("table.rows tbody tr")) < found
    assert browser.find("input[name=q]").get_attribute("value") == "IT IS 20"


def test_an_id_in_the_field_of_the_header_is_explained(browser: Browser, url: str) -> None:
    browser.open(url)
    browser.find("#life-id").send_keys("p0005/solve-0001")
    browser.press("ENTER")
    assert "p0005/solve-0001" in browser.find("h1").text
    assert "too_long" in seen(browser)


def test_a_report_runs_its_scripts_and_reads_no_page_of_the_viewer(browser: Browser, url: str) -> None:
    browser.open(url)
    browser.link("report").click()
    assert browser.run("return getComputedStyle(document.body).color") == "rgb(1, 2, 3)"
    for _ in range(50):
        if browser.driver.title == "kept out":
            break
        browser.run("return new Promise(done => setTimeout(done, 100))")
    assert browser.driver.title == "kept out"
    assert any("table" in line for line in browser.complaints())


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_what_a_row_holds_does_nothing(browser: Browser, url: str, name: str) -> None:
    browser.open(f"{url}row?t=rows&id={quote(name, safe='')}")
    assert "owned" not in browser.driver.title.replace(SCRIPT, "")
    assert (
        browser.run(
            "return document.scripts.length + document.images.length + document.querySelectorAll('main style').length"
        )
        == 0
    )
    assert browser.find("header").is_displayed()
    assert browser.run("return getComputedStyle(document.body).display") == "block"
    assert not browser.scrolls_sideways()


def test_no_script_would_run_even_if_one_got_into_a_page(browser: Browser, url: str) -> None:
    browser.open(url)
    browser.run(
        "const s = document.createElement('script'); s.textContent = 'document.title = \"owned\"'; document.body.append(s)"
    )
    assert browser.driver.title != "owned"
    handler = "<b id=bait onclick='document.title = 1' style='color: red'>x</b>"
    browser.run("document.body.insertAdjacentHTML('beforeend', arguments[0])", handler)
    browser.find("#bait").click()
    assert browser.driver.title not in ("owned", "1")
    refused = browser.complaints()
    assert any("Content Security Policy" in line for line in refused)


@pytest.mark.parametrize(
    "page",
    ["", "table?t=rows", "row?t=rows&id=p0011/solve-0000", "tree?problem=p0003", "life?id=p0003", "row?t=rejected&n=3"],
)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_fit_a_phone_in_the_light_and_in_the_dark(browser: Browser, url: str, page: str, dark: bool) -> None:
    browser.phone(), browser.dark(on=dark)
    browser.open(url + page)
    assert not browser.scrolls_sideways()
    paper, ink = browser.run(
        "const s = getComputedStyle(document.documentElement); return [s.backgroundColor, s.color]"
    )
    assert (light_of(paper) < light_of(ink)) is dark
    if browser.all("svg[role=img]"):
        ground = browser.run("return getComputedStyle(document.querySelector('svg[role=img] > rect')).fill")
        assert ground == paper


def test_a_phone_shows_how_many_rows_had_a_reason_without_scrolling(browser: Browser, url: str) -> None:
    browser.phone()
    browser.open(url)
    for number in browser.all(".beside td.number"):
        assert browser.run("return arguments[0].getBoundingClientRect().right", number) <= 360


def light_of(colour: str) -> int:
    return sum(int(part) for part in re.findall(r"\d+", colour)[:3])
