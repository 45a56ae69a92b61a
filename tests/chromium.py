"""A real Chromium without a screen, for tests of pages: it reaches this machine and nothing else, and says what went wrong.

    def test_a_page_opens(browser: Browser, tmp_path: Path) -> None:
        browser.open(tmp_path / "report.html")            # or the URL of a server on 127.0.0.1
        browser.phone(), browser.dark()                   # 360 x 740; prefers-color-scheme: dark
        assert browser.find("h1").text == "Report"
        browser.screenshot(tmp_path / "report.png")       # the whole page, however long

The fixture `browser` of `conftest.py` is this one. When a test ends it fails for every line that Chromium wrote into its console
as an error, and for every request to anything but this machine; `browser.complaints()` takes those that a test expects. Where
Chromium, its driver or selenium is missing the tests skip and say which.
"""

import base64
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PHONE, DESKTOP = (360, 740), (1280, 900)
SWITCHES = (
    "--headless=new",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--no-default-browser-check",
    "--no-first-run",
    "--proxy-server=http://127.0.0.1:9",  # nobody there: addresses without a name do not get out either; loopback passes it by
)
HERE = {"127.0.0.1", "localhost", "[::1]", "::1", None}
LONGEST = 16_000
"""Pixels of a picture; Chromium paints none that is higher."""


def missing() -> str | None:
    """What a test of a page lacks here, and how to get it; None where all is there."""
    programs = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if programs:
        return f"{' and '.join(programs)} missing: apt-get install chromium chromium-driver"
    return None if importlib.util.find_spec("selenium") else "selenium missing: pip install selenium"


class Browser:
    """One window of one Chromium."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self._complaints: list[str] = []

    # ---- going

    def open(self, place: str | Path) -> None:
        """Load a URL, or a file of this disk, and wait until it has loaded."""
        self.driver.get(place.resolve().as_uri() if isinstance(place, Path) else place)

    def find(self, selector: str) -> Any:
        """The first element that a CSS selector means; selenium's NoSuchElementException where there is none."""
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def link(self, text: str) -> Any:
        """The link that shows this text."""
        return self.driver.find_element("link text", text)

    def press(self, *keys: str) -> None:
        """Keys, one after the other, to whatever has the focus: "\\t", "\\n", or names such as ENTER and ARROW_DOWN."""
        from selenium.webdriver.common.keys import Keys

        for key in keys:
            self.driver.switch_to.active_element.send_keys(getattr(Keys, key, key))

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of JavaScript in the page, which need not allow scripts itself: `return document.title`."""
        return self.driver.execute_script(script, *arguments)

    # ---- how it looks

    def size(self, width: int, height: int, *, mobile: bool = False, scale: float = 1) -> None:
        self.cdp(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )

    def phone(self) -> None:
        self.size(*PHONE, mobile=True, scale=2)

    def desktop(self) -> None:
        self.size(*DESKTOP)

    def dark(self, *, on: bool = True) -> None:
        self.media("prefers-color-scheme", "dark" if on else "light")

    def media(self, name: str, value: str) -> None:
        """Another answer to one media query, such as `prefers-reduced-motion: reduce`."""
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": name, "value": value}])

    def scrolls_sideways(self) -> bool:
        """Whether the page is wider than the window; on a phone that is a fault."""
        return bool(self.run("const e = document.documentElement; return e.scrollWidth > e.clientWidth + 1"))

    def screenshot(self, path: Path, *, whole: bool = True) -> Path:
        """A PNG of the page from top to bottom, or of what the window shows."""
        options: dict[str, Any] = {"format": "png"}
        if whole:
            size = self.cdp("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], LONGEST), "scale": 1}
            options |= {"captureBeyondViewport": True, "clip": clip}
        path.write_bytes(base64.b64decode(self.cdp("Page.captureScreenshot", **options)["data"]))
        return path

    def cdp(self, command: str, **parameters: Any) -> dict[str, Any]:
        """A command of Chromium's own protocol."""
        return dict(self.driver.execute_cdp_cmd(command, parameters) or {})

    # ---- what went wrong

    def console_errors(self) -> list[str]:
        """What the console said as an error since this was last asked, by pages and by Chromium; complaints keep it."""
        said = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        self._complaints += said
        return said

    def outside(self) -> list[str]:
        """URLs of other machines that pages asked for since this was last asked; complaints keep them."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            url = message["params"].get("request", {}).get("url") or message["params"].get("url") or ""
            if message["method"] not in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                continue
            parts = urlsplit(url)
            if parts.scheme in ("http", "https", "ws", "wss", "ftp") and parts.hostname not in HERE:
                found.append(url)
        self._complaints += [f"asked for {url}" for url in found]
        return found

    def complaints(self) -> list[str]:
        """All that went wrong since this was last asked, after which it is forgotten."""
        self.console_errors(), self.outside()
        taken, self._complaints = self._complaints, []
        return taken

    def fresh(self) -> None:
        """An empty page in the light, on a desktop, without cookies, and with nothing to complain of."""
        for handle in self.driver.window_handles[1:]:
            self.driver.switch_to.window(handle)
            self.driver.close()
        self.driver.switch_to.window(self.driver.window_handles[0])
        self.open("about:blank")
        self.cdp("Network.clearBrowserCookies")
        self.desktop(), self.dark(on=False)
        self.complaints()


@contextmanager
def chromium() -> Iterator[Browser]:
    """A Chromium that ends with the `with`. Its profile is a folder of its own, gone afterwards."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        sandbox = () if os.geteuid() else ("--no-sandbox",)  # Chromium has none for root
        for switch in (*SWITCHES, *sandbox, f"--user-data-dir={profile}"):
            options.add_argument(switch)
        driver = webdriver.Chrome(options, webdriver.ChromeService(str(shutil.which("chromedriver"))))
        try:
            driver.set_page_load_timeout(45)
            yield Browser(driver)
        finally:
            driver.quit()
