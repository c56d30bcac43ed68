"""A headless Chromium that opens one page from disk and says all that it did: errors, requests, what is on the screen.

Debian's packages ``chromium`` and ``chromium-driver``; the clean checkout's test run installs them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser with one window; the test skips where there is no Chromium with its driver."""
    if DRIVER is None or BROWSER is None:
        pytest.skip("no chromium with chromedriver on this machine")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    options.add_argument("--force-device-scale-factor=1")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    try:
        window(browser)
        yield browser
    finally:
        browser.quit()


def window(browser: Any, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
    """Sets the size of the window in CSS pixels, and whether its owner likes dark pages."""
    sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})


def visit(browser: Any, page: Path) -> None:
    """Opens a page; what the browser said before is forgotten."""
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.resolve().as_uri())


def complaints(browser: Any) -> list[str]:
    """What the console said since the page was opened: script errors, refusals of the content security policy."""
    return [entry["message"] for entry in browser.get_log("browser")]


def requests(browser: Any) -> list[str]:
    """Addresses that were asked for since the page was opened: neither data: nor what the page's policy stopped."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    failed = [m["params"] for m in messages if m["method"] == "Network.loadingFailed"]
    stopped = {p["requestId"] for p in failed if p.get("blockedReason") == "csp"}
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    urls = [p["request"]["url"] for p in sent if p["requestId"] not in stopped]
    return [url for url in urls if not url.startswith("data:")]


def screenshot(browser: Any, path: Path, *, whole: bool = True, clip: Sequence[int] | None = None) -> None:
    """A PNG of the page from top to bottom, of the window, or of (x, y, width, height) of the page."""
    import base64

    more: dict[str, Any] = {"captureBeyondViewport": whole}
    if clip is not None:
        more["clip"] = dict(zip(("x", "y", "width", "height"), clip, strict=True)) | {"scale": 1}
    elif whole:
        size = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        more["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16000), "scale": 1}
    found = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", **more})
    path.write_bytes(base64.b64decode(found["data"]))
