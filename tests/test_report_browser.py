"""The report as a person meets it: in a real Chromium, by keyboard, on a phone, in the dark."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import Browser
from tests.conftest import solve
from tests.test_laws import run, table_of
from tracemill.pipelines.build import build
from tracemill.pipelines.report.blocks import Section, Steps
from tracemill.pipelines.report.funnel import Drop, Funnel, Level
from tracemill.pipelines.report.page import page_of
from tracemill.pipelines.report.report import report, report_two
from tracemill.pipelines.store import Store
from tracemill.schemas.recipe import Recipe

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a build by `step_tree`, which has a tree, a funnel and charts."""
    folder = tmp_path_factory.mktemp("step_tree")
    dataset = run("step_tree", table_of("step_tree", folder), folder / "store").dataset
    file = folder / "report.html"
    file.write_text(report(dataset), encoding="utf-8")
    return file


def test_a_reason_is_opened_by_keyboard_and_shows_an_example(browser: Browser, page: Path):
    browser.open(page)
    browser.press("\t")
    assert browser.run("return document.activeElement.textContent") == "Skip to the report"
    browser.press("ENTER", "\t")
    seen = []
    while not browser.find(".example").is_displayed():
        tag = browser.run("return document.activeElement.tagName")
        assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") != "none", (
            "nobody sees where one is"
        )
        if tag == "SUMMARY":
            browser.press("ENTER")
        browser.press("\t")
        seen.append(tag)
        assert len(seen) < 20, seen
    assert "tracemill explain law@" in browser.find(".example code").text
    assert browser.console_errors() == []


def test_the_order_of_the_keyboard_is_that_of_the_page(browser: Browser, page: Path):
    browser.open(page)
    tops = []
    for _ in range(25):
        browser.press("\t")
        tops.append(browser.run("const r = document.activeElement.getBoundingClientRect(); return r.top + scrollY"))
    assert all(later >= earlier - 60 for earlier, later in pairwise(tops[1:]))


def test_every_link_leads_to_its_section(browser: Browser, page: Path):
    browser.open(page)
    for link in browser.all("nav a"):
        target = str(link.get_attribute("href")).partition("#")[2]
        assert browser.find(f"#{target} h2").text == link.text


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_it_without_scrolling_sideways_and_texts_stand_out(browser: Browser, page: Path, dark: bool):
    browser.phone()
    browser.dark(on=dark)
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert not browser.scrolls_sideways()
    assert browser.run(CONTRAST) == []
    sizes = browser.run("return [...document.querySelectorAll('svg.chart')].map(s => s.getBoundingClientRect().width)")
    assert all(250 < width <= 360 for width in sizes)


CONTRAST = """
const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
const rgb = text => text.match(/[\\d.]+/g).map(Number);
const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > .99) return c.slice(0, 3) } return [255, 255, 255] };
const faint = [];
for (const e of document.querySelectorAll('h1, h2, h3, p, td, th, a, summary, code, pre, figcaption, dt, dd div, svg.chart text')) {
  if (!e.textContent.trim() || !e.getClientRects().length) continue;
  const style = getComputedStyle(e), colour = rgb(e.namespaceURI.endsWith('svg') ? style.fill : style.color).slice(0, 3);
  const [a, b] = [light(colour), light(ground(e))].sort((x, y) => y - x);
  if ((a + .05) / (b + .05) < 4.5) faint.push(e.textContent.slice(0, 40) + ' ' + colour + ' on ' + ground(e));
}
return faint;
"""
"""Texts with less than 4.5 : 1 between them and their ground, which WCAG 2.2 asks for (success criterion 1.4.3)."""


@pytest.mark.parametrize("phone", [False, True])
def test_bars_of_the_funnel_are_all_of_one_scale(browser: Browser, tmp_path: Path, phone: bool):
    drops = (Drop("filter:correct", 600, ()), Drop("select:keep", 390, ()))
    levels = (Level("traces", "trace", 1000, drops), Level("chosen traces", "trace", 10))
    page = tmp_path / "funnel.html"
    page.write_text(page_of([Section("funnel", "Funnel", [Steps(Funnel(levels), "x")])], "x", ""), encoding="utf-8")
    if phone:
        browser.phone()
    browser.open(page)
    script = """return [...document.querySelectorAll('.funnel .bar')].map(bar => {
        const number = bar.parentElement.querySelector('.number').textContent.replace(/[^0-9]/g, '')
        return [Number(number), bar.getBoundingClientRect().width, bar.getBoundingClientRect().right]})"""
    bars = browser.run(script)
    count, width, _ = max(bars)
    assert len(bars) == 4
    for number, wide, right in bars:
        assert wide == pytest.approx(max(2, width * number / count), abs=1)
        assert right <= browser.run("return document.querySelector('.funnel').getBoundingClientRect().right") + 1


def test_a_dark_page_is_dark_and_its_pictures_too(browser: Browser, page: Path):
    browser.dark()
    browser.open(page)
    assert browser.run("return getComputedStyle(document.documentElement).backgroundColor") == "rgb(22, 24, 27)"
    inks = browser.run("return [...document.querySelectorAll('svg.chart text')].map(t => getComputedStyle(t).fill)")
    assert set(inks) == {"rgb(232, 232, 232)"}


def test_markup_of_a_model_never_runs(browser: Browser, recipe: Callable[..., Recipe], store: Store, tmp_path: Path):
    script = (
        "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\"><svg onload=alert(1)>"
    )
    dataset = build(recipe(), store, reply=lambda request: script + solve(request)).dataset
    file = tmp_path / "report.html"
    file.write_text(report(dataset), encoding="utf-8")
    browser.open(file)
    browser.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert browser.run("return document.title") == str(dataset)
    assert "<script>" in browser.find(".example").text
    assert browser.complaints() == []


def test_two_versions_stand_beside_each_other_and_below_each_other_on_a_phone(
    browser: Browser, recipe: Callable[..., Recipe], store: Store, tmp_path: Path
):
    a, b = (build(recipe(select=[{"use": "keep", "k": k}]), store, reply=solve).dataset for k in (1, 2))
    file = tmp_path / "two.html"
    file.write_text(report_two(a, b), encoding="utf-8")
    browser.open(file)
    assert sides(browser)["y"][0] == pytest.approx(sides(browser)["y"][1], abs=2)
    browser.phone()
    browser.open(file)
    assert not browser.scrolls_sideways()
    assert sides(browser)["x"][0] == sides(browser)["x"][1]


def sides(browser: Browser) -> dict[str, Any]:
    """Where the two halves of the first pair are."""
    found: dict[str, Any] = browser.run(
        "const r = [...document.querySelector('.pair').children].map(e => e.getBoundingClientRect());"
        "return {x: r.map(a => a.left), y: r.map(a => a.top)}"
    )
    return found
