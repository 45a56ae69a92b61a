"""The harness itself: what a page does wrong fails its test, and what it does right is quiet."""

from pathlib import Path

import pytest

from tests import chromium
from tests.chromium import Browser


def page(folder: Path, body: str, head: str = "") -> Path:
    file = folder / "page.html"
    file.write_text(f"<!doctype html><html><head><title>t</title>{head}</head><body>{body}</body></html>")
    return file


def test_a_quiet_page_is_driven_and_photographed(browser: Browser, tmp_path: Path) -> None:
    browser.open(page(tmp_path, "<details><summary>more</summary><p>inside</p></details><p style='height:3000px'>"))
    assert not browser.find("details p").is_displayed()
    browser.find("summary").click()
    assert browser.find("details p").text == "inside"
    image = browser.screenshot(tmp_path / "page.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    assert int.from_bytes(image[20:24]) > 3000


def test_dark_mode_and_a_phone_are_what_the_page_sees(browser: Browser, tmp_path: Path) -> None:
    dark = "return matchMedia('(prefers-color-scheme: dark)').matches"
    browser.open(page(tmp_path, "<p>x", "<meta name=viewport content='width=device-width'>"))
    assert browser.run(dark) is False
    browser.dark()
    assert browser.run(dark) is True
    browser.phone()
    assert browser.run("return innerWidth") == chromium.PHONE[0]
    assert not browser.scrolls_sideways()
    browser.run("document.body.innerHTML = '<p style=\"width:900px\">wide'")
    assert browser.scrolls_sideways()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<script>throw new Error('broken')</script>", "broken"),
        ("<script>console.error('unhappy')</script>", "unhappy"),
        ("<img src='https://example.org/pixel.png'>", "asked for https://example.org/pixel.png"),
        ("<script>fetch('http://93.184.216.34/x').catch(() => 0)</script>", "asked for http://93.184.216.34/x"),
        ("<link rel=stylesheet href='//fonts.example.org/a.css'>", "file://fonts.example.org"),
    ],
)
def test_what_goes_wrong_is_a_complaint(browser: Browser, tmp_path: Path, body: str, said: str) -> None:
    browser.open(page(tmp_path, body))
    browser.run("return 1")
    assert said in "\n".join(browser.complaints())
    assert browser.complaints() == []


def test_a_machine_without_chromium_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chromium.shutil, "which", lambda name: None)
    assert chromium.missing() == "chromium and chromedriver missing: apt-get install chromium chromium-driver"
