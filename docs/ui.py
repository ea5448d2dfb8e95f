"""Uses every tab of the page as a visitor does, and puts what it looks like together as ui.png: `python -m docs.ui [SHOTS]`.

Needs a Chromium and the drawings that `latentbridge data build drawings` fetches. SHOTS is a folder to keep each picture of the page in.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError
from urllib.request import urlopen

from PIL import Image
from playwright.sync_api import Locator, Page, expect, sync_playwright
from tests.serving.browser import choose_picture, launch, open_tab

from latentbridge.data.drawings.catalogue import load_drawings
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import BACKGROUNDS, distinct_scenes
from latentbridge.files import atomic_write
from latentbridge.rng import numpy_rng

WIDE, NARROW = (1280, 860), (390, 1000)
GROUP = "animals & nature"
PATIENCE_S = 180
CLI = (sys.executable, "-m", "latentbridge")


def main() -> None:
    with TemporaryDirectory() as temporary:
        work = Path(temporary)
        shots = Path(sys.argv[1]) if len(sys.argv) > 1 else work / "shots"
        shots.mkdir(parents=True, exist_ok=True)
        scene = write_pictures(work)
        subprocess.run([*CLI, "index", "build", work / "drawings", "--store", work / "indexes/drawings"], check=True)
        with served(work / "indexes") as address, sync_playwright() as driver:
            browser = launch(driver)
            expect.set_options(timeout=PATIENCE_S * 1000)
            for kind, (width, height) in (("wide", WIDE), ("narrow", NARROW)):
                page = browser.new_page(viewport={"width": width, "height": height})
                page.set_default_timeout(PATIENCE_S * 1000)
                page.goto(address)
                for name, use in VISITS.items():
                    use(open_tab(page, name), scene)
                    settle(page)
                    page.screenshot(path=str(shots / f"{kind}-{name.lower()}.png"), full_page=kind == "narrow")
                page.close()
            browser.close()
        put_together(shots)


def write_pictures(work: Path) -> Path:
    """Drawings to search in, and a scene to ask about; returns the scene's file."""
    (work / "drawings").mkdir()
    drawings = load_drawings()
    for drawing in (each for each in drawings.split("test_artist") if each.group == GROUP):
        picture = Image.fromarray(drawings.on_background(drawing.index, BACKGROUNDS["white"]))
        picture.save(work / "drawings" / f"{drawing.label.replace('/', ' ')}.png")
    scene = work / "scene.png"
    Image.fromarray(render(distinct_scenes("test", numpy_rng(1, "page"), 1, num_things=3)[0])).save(scene)
    return scene


@contextmanager
def served(indexes: Path) -> Iterator[str]:
    """The address of a server's page, which answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([*CLI, "serve", "--ui", "--indexes", indexes, "--port", str(port)])
    try:
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/readyz").close()
                break
            except URLError:
                if server.poll() is not None:
                    raise
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait()


def chat(tab: Locator, scene: Path) -> None:
    choose_picture(tab, scene)
    for number, question in enumerate(("Describe the picture.", "Is there a red cross?")):
        tab.get_by_role("textbox").fill(question)
        tab.get_by_role("textbox").press("Enter")
        tab.locator("[data-testid=bot]").nth(number).wait_for()
        expect(tab.get_by_role("button", name="Stop")).to_be_disabled()


def draw(tab: Locator, _: Path) -> None:
    tab.get_by_label("What to draw").fill("a red circle left of a blue star")
    tab.get_by_label("Seed").fill("7")
    tab.get_by_role("button", name="Draw", exact=True).click()
    expect(tab.locator(".grid-wrap img")).to_have_count(4)


def edit(tab: Locator, scene: Path) -> None:
    choose_picture(tab, scene)
    more = tab.get_by_role("button", name="More")
    more.click()
    tab.get_by_label("Seed").fill("7")
    more.click()
    tab.get_by_label("What to change").fill("make the background white")
    tab.get_by_role("button", name="Edit", exact=True).click()
    tab.locator(".both img").nth(1).wait_for()


def search(tab: Locator, _: Path) -> None:
    expect(tab.get_by_label("Index")).to_have_value("drawings")
    tab.get_by_role("textbox", name="Words", exact=True).fill("a sea animal")
    tab.get_by_role("button", name="Search", exact=True).click()
    expect(tab.locator(".grid-wrap img")).to_have_count(12)


def loopback(tab: Locator, scene: Path) -> None:
    choose_picture(tab, scene)
    tab.get_by_label("Seed").fill("7")
    tab.get_by_role("spinbutton", name="Rounds").fill("3")
    tab.get_by_role("button", name="Start").click()
    expect(tab.locator(".grid-wrap img")).to_have_count(4)
    tab.locator(".vega-embed svg").wait_for()


VISITS = {"Chat": chat, "Draw": draw, "Edit": edit, "Search": search, "Loopback": loopback}


def settle(page: Page) -> None:
    """Waits until two pictures of the page, taken one after another, are one."""
    before = b""
    while (now := page.screenshot(animations="disabled")) != before:
        before = now


def put_together(shots: Path) -> None:
    """All tabs on a wide screen, two in a row, and three on a narrow one, at their lower ends, where the answers are."""
    width, gap = 760, 16
    height, narrow = width * WIDE[1] // WIDE[0], (width - 2 * gap) // 3
    sheet = Image.new("RGB", (2 * width + 3 * gap, 3 * height + 4 * gap), (200, 200, 206))

    def scaled(name: str, width: int) -> Image.Image:
        shot = Image.open(shots / f"{name}.png").convert("RGB")
        return shot.resize((width, shot.height * width // shot.width), Image.Resampling.LANCZOS)

    for number, name in enumerate(VISITS):
        left, top = gap + number % 2 * (width + gap), gap + number // 2 * (height + gap)
        sheet.paste(scaled(f"wide-{name.lower()}", width), (left, top))
    for number, name in enumerate(("chat", "draw", "loopback")):
        shot = scaled(f"narrow-{name}", narrow)
        left, top = gap + width + gap + number * (narrow + gap), 3 * gap + 2 * height
        sheet.paste(shot.crop((0, shot.height - height, narrow, shot.height)), (left, top))
    with atomic_write(Path(__file__).with_suffix(".png")) as temporary:
        sheet.quantize(128, dither=Image.Dither.NONE).save(temporary, "PNG", optimize=True)


if __name__ == "__main__":
    main()
