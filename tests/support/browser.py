"""Headless Chromium, driven through Debian's ChromeDriver."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
)
"""No sandbox since it refuses root; the others keep it from talking to anyone but the tests."""


def missing() -> str | None:
    """Return why no browser can be driven here, or None."""
    for name in ("chromium", "chromedriver"):
        if shutil.which(name) is None:
            return f"there is no {name} here (Debian's packages chromium and chromium-driver)"
    return None


@contextmanager
def open_browser(page: str) -> Iterator[WebDriver]:
    """Open ``page`` in a browser with an empty profile, and end it with the context."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = Options()
        options.binary_location = chromium
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=Service(driver))
        try:
            browser.set_script_timeout(60)
            browser.get(page)
            yield browser
        finally:
            browser.quit()
