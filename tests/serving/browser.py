"""A headless Chromium on the web page, for its tests and docs/ui.py."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, Playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")


def launch(driver: Playwright) -> Browser:
    """Launch the machine's Chromium or Playwright's own; raises FileNotFoundError if there is neither."""
    path = next(filter(None, map(shutil.which, _NAMES)), driver.chromium.executable_path)
    if not Path(path).exists():
        raise FileNotFoundError(
            "There is no Chromium on the path; install one (`apt-get install chromium`, `playwright install chromium`)."
        )
    return driver.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])


def open_tab(page: Page, name: str) -> Locator:
    """Open a tab, which may be in a menu on a narrow screen, and return its panel."""
    page.get_by_role("tab").first.wait_for()
    tab = page.get_by_role("tab", name=name, exact=True)
    if tab.is_visible():
        tab.click()
    else:
        page.get_by_label("More tabs").click()
        page.get_by_role("button", name=name, exact=True).click()
    return page.get_by_role("tabpanel")


def choose_picture(tab: Locator, file: Path) -> None:
    """Choose a picture by the file input; return once it is shown."""
    tab.locator("input[type=file]").first.set_input_files(str(file))
    tab.locator("img[src*='file=']").first.wait_for()
