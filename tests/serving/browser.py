"""A headless Chromium on the page for people: what its tests and docs/ui.py do alike."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, Playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")


def launch(driver: Playwright) -> Browser:
    """The machine's Chromium, or the one that Playwright fetched; raises FileNotFoundError where there is neither."""
    path = next(filter(None, map(shutil.which, _NAMES)), driver.chromium.executable_path)
    if not Path(path).exists():
        raise FileNotFoundError(
            "There is no Chromium on the path; install one (`apt-get install chromium`, `playwright install chromium`)."
        )
    return driver.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])


def open_tab(page: Page, name: str) -> Locator:
    """The panel of the tab of that name, chosen; on a narrow screen it may be in a menu."""
    page.get_by_role("tab").first.wait_for()
    tab = page.get_by_role("tab", name=name, exact=True)
    if tab.is_visible():
        tab.click()
    else:
        page.get_by_label("More tabs").click()
        page.get_by_role("button", name=name, exact=True).click()
    return page.get_by_role("tabpanel")


def choose_picture(tab: Locator, file: Path) -> None:
    """A picture by the file chooser; returns once it is shown."""
    tab.locator("input[type=file]").first.set_input_files(str(file))
    tab.locator("img[src*='file=']").first.wait_for()
