"""The web page in a headless Chromium, on wide and narrow screens, by mouse and by keyboard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from tests.serving.conftest import png_of
from tests.serving.server import Server, running

from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.models.checkpoint import fingerprint
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.retrieval.index_factory import create_index
from latentbridge.rng import numpy_rng
from latentbridge.serving.api import create_app
from latentbridge.serving.guard.keys import ENVIRONMENT, read_keys
from latentbridge.serving.guard.limits import Limits
from latentbridge.serving.guard.rates import Allowance, Rates
from latentbridge.serving.settings import Settings
from latentbridge.types import Picture

gradio = pytest.importorskip("gradio", reason="the page needs gradio; install latentbridge[ui]")
playwright = pytest.importorskip("playwright.sync_api", reason="these tests drive a browser by playwright; install it")

from tests.serving.browser import choose_picture, launch, open_tab  # noqa: E402

from latentbridge.serving.ui.page import PATH, add_page  # noqa: E402

pytestmark = pytest.mark.browser
TIMEOUT_MS = 60_000
KEY = "k" * 20
WIDE, NARROW = (1200, 900), (390, 844)
PICTURES = 5
BOT = "[data-testid=bot]"
FACTS = "Describe the picture."


@dataclass
class Visit:
    """A page in a browser, with its requests and console errors."""

    page: playwright.Page
    shots: Path
    host: str
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, name: str) -> playwright.Locator:
        """Open a tab and return its panel."""
        return open_tab(self.page, name)

    def shoot(self, name: str) -> None:
        self.page.screenshot(path=str(self.shots / f"{name}.png"), full_page=True)

    def picture(self, image: playwright.Locator) -> Picture:
        """Return the pixels of an image element."""
        image.wait_for()
        address = image.get_attribute("src")
        assert address is not None
        return np.asarray(Image.open(BytesIO(self.page.request.get(address).body())).convert("RGB"))

    def notice(self) -> str:
        """Return the text of the error notice."""
        return self.page.get_by_test_id("toast-body").inner_text()


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return [render(scene) for scene in distinct_scenes("train", numpy_rng(0, "served"), PICTURES)]


@pytest.fixture(scope="module")
def files(pictures: list[Picture], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for number, picture in enumerate(pictures):
        (folder / f"{number}.png").write_bytes(png_of(picture))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def served(served_model: OmniBridge, files: list[Path], pictures: list[Picture], tmp_path_factory) -> Iterator[Server]:
    """The server with its page and one index of five pictures."""
    index_registry = tmp_path_factory.mktemp("indexes")
    index = create_index(index_registry / "scenes", served_model.embedding_size, fingerprint(served_model))
    places = [{"file": str(file)} for file in files]
    index.add([file.name for file in files], served_model.embed(images=pictures), places)
    index.close()
    app = create_app(served_model, Settings(indexes=index_registry))
    add_page(app, Rates())
    with running(app, Limits()) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(served_model: OmniBridge) -> Iterator[Server]:
    """A server with a key that may draw once a minute."""
    keys, rates = read_keys(None, {ENVIRONMENT: f"ada:{KEY}"}), Rates({"draw": Allowance(1)})
    app = create_app(served_model, keys=keys, rates=rates)
    add_page(app, rates)
    with running(app, Limits()) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    playwright.expect.set_options(timeout=TIMEOUT_MS)
    with playwright.sync_playwright() as driver:
        try:
            yield launch(driver)
        except FileNotFoundError as missing:
            pytest.skip(str(missing))


@pytest.fixture
def visit(browser: playwright.Browser, tmp_path: Path) -> Iterator[Callable[..., Visit]]:
    """Open the page of a server; at the end there must be no request to another host and no console error."""
    visits: list[Visit] = []

    def go(server: Server, size: tuple[int, int] = WIDE, **options) -> Visit:
        page = browser.new_page(viewport={"width": size[0], "height": size[1]}, **options)
        page.set_default_timeout(TIMEOUT_MS)
        new = Visit(page, tmp_path, f"127.0.0.1:{server.port}")
        page.on("request", lambda request: new.requests.append(request.url))
        page.on("console", lambda line: line.type == "error" and new.errors.append(_describe(line)))
        page.on("pageerror", lambda error: new.errors.append(str(error)))
        page.goto(f"http://{new.host}/")
        page.get_by_role("tab", name="Chat", exact=True).wait_for()
        visits.append(new)
        return new

    yield go
    for each in visits:
        each.page.close()
        addresses = [urlsplit(url) for url in each.requests]
        assert {address.netloc for address in addresses if address.scheme not in ("data", "blob")} == {each.host}
        assert each.errors == []


def _describe(line: playwright.ConsoleMessage) -> str:
    return f"{line.text} ({line.location['url']})"


def drop_picture(visit: Visit, tab: playwright.Locator, file: Path) -> None:
    """Drag a picture into the page."""
    transfer = visit.page.evaluate_handle(
        """(bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "dragged.png", {type: "image/png"}));
            return transfer;
        }""",
        list(file.read_bytes()),
    )
    element = tab.get_by_role("button", name="Drop").first
    for event in ("dragenter", "dragover", "drop"):
        element.dispatch_event(event, {"dataTransfer": transfer})
    tab.locator("[data-testid=image] img").wait_for()


def draw(tab: playwright.Locator, prompt: str, steps: int = 2) -> None:
    """Draw one picture, with seed 5 and few steps."""
    tab.get_by_label("What to draw").fill(prompt)
    tab.get_by_label("Seed").fill("5")
    tab.get_by_role("spinbutton", name="Pictures").fill("1")
    tab.get_by_role("spinbutton", name="Steps").fill(str(steps))
    tab.get_by_role("button", name="Draw", exact=True).click()


def wait_until_before_has(share: float, after: playwright.Locator) -> None:
    """Wait until the slider hides that share of the later picture, a square in the middle of its element."""
    box = after.bounding_box()
    assert box is not None
    margin = (1 - box["height"] / box["width"]) / 2
    after.page.wait_for_function(
        """([image, hidden]) => {
            const left = getComputedStyle(image).clipPath.split(" ")[3] ?? "0";
            return Math.abs(parseFloat(left) - 100 * hidden) < 0.1;
        }""",
        arg=[after.element_handle(), margin + share * (1 - 2 * margin)],
    )


def test_a_reply_is_streamed(visit, served, served_model, pictures, files):
    at = visit(served)
    tab = at.open("Chat")
    choose_picture(tab, files[0])
    at.page.evaluate(
        """() => {
            window.seen = new Set();
            const note = () => document.querySelectorAll("[data-testid=bot]").forEach((e) => window.seen.add(e.innerText));
            new MutationObserver(note).observe(document.body, {subtree: true, childList: true, characterData: true});
        }"""
    )
    tab.get_by_role("textbox").fill(FACTS)
    tab.get_by_role("textbox").press("Enter")
    whole = served_model.understand(pictures[0], FACTS)
    tab.locator(BOT, has_text=whole).wait_for()
    at.shoot("chat")
    seen = sorted(at.page.evaluate("[...window.seen]"), key=len)
    assert len(seen) > 2 and all(whole.startswith(text.strip()) for text in seen)

    playwright.expect(tab.get_by_role("button", name="Stop")).to_be_disabled()
    tab.get_by_role("textbox").fill("Is there a star?")
    tab.get_by_role("textbox").press("Enter")
    tab.locator(BOT).nth(1).wait_for()
    tab.get_by_role("button", name="New conversation").click()
    tab.get_by_text("begins a new conversation").wait_for()
    assert tab.locator(BOT).count() == 0


def test_a_drawing_is_that_of_the_library_and_stays_in_the_gallery(visit, served, served_model):
    at = visit(served)
    tab = at.open("Draw")
    draw(tab, "a red circle")
    wall = tab.locator(".grid-wrap img")
    assert (at.picture(wall.first) == served_model.generate("a red circle", seed=5, steps=2).picture).all()
    draw(tab, "a blue star")
    wall.nth(1).wait_for()
    at.shoot("draw")
    assert (at.picture(wall.first) == served_model.generate("a blue star", seed=5, steps=2).picture).all()
    assert "seed 5" in tab.locator(".grid-wrap").inner_text()


def test_a_slider_compares_an_edit_with_its_source(visit, served, served_model, pictures, files):
    at = visit(served)
    tab = at.open("Edit")
    choose_picture(tab, files[0])
    tab.get_by_label("What to change").fill("make the background black")
    tab.get_by_role("button", name="More").click()
    tab.get_by_label("Seed").fill("5")
    tab.get_by_role("spinbutton", name="Steps").fill("2")
    tab.get_by_role("button", name="Edit", exact=True).click()
    both = tab.locator(".both img")
    both.nth(1).wait_for()
    edited = served_model.edit(pictures[0], "make the background black", seed=5, steps=2).picture
    shown = [at.picture(both.nth(number)) for number in (0, 1)]
    assert any((each == pictures[0]).all() for each in shown) and any((each == edited).all() for each in shown)
    at.shoot("edit")

    handle = tab.get_by_role("slider", name="Before | after")
    handle.focus()
    for key, share in (("End", 1.0), ("Home", 0.0), ("ArrowRight", 0.01)):
        handle.press(key)
        wait_until_before_has(share, both.nth(1))


def test_search_by_words_by_a_dropped_picture_and_by_both(visit, served, served_model, files):
    at = visit(served)
    tab = at.open("Search")
    hits, words = tab.locator(".grid-wrap img"), tab.get_by_role("textbox", name="Words", exact=True)
    playwright.expect(tab.get_by_label("Index")).to_have_value("scenes")
    words.fill("a picture")
    tab.get_by_role("button", name="Search", exact=True).click()
    playwright.expect(hits).to_have_count(PICTURES)
    words.fill("")
    drop_picture(at, tab, files[3])
    tab.get_by_role("button", name="Search", exact=True).click()
    tab.get_by_text("1.000 3.png").wait_for()
    words.fill("on black")
    tab.get_by_role("button", name="Search", exact=True).click()
    tab.get_by_text("1.000 3.png").wait_for(state="hidden")
    playwright.expect(hits).to_have_count(PICTURES)
    at.shoot("search")

    words.fill("zxqv")
    tab.get_by_role("button", name="Search", exact=True).click()
    at.page.get_by_text('The model does not know "zxqv"; ranked by the rest.').wait_for()
    tab.get_by_text("1.000 3.png").wait_for()

    tab.locator(".grid-wrap button").first.click()
    more = tab.get_by_role("button", name="More like the chosen one")
    playwright.expect(more).to_be_enabled()
    more.click()
    playwright.expect(hits).to_have_count(PICTURES - 1)


def test_a_loopback_has_pictures_and_a_plot(visit, served, files):
    at = visit(served)
    tab = at.open("Loopback")
    choose_picture(tab, files[1])
    tab.get_by_role("spinbutton", name="Rounds").fill("2")
    tab.get_by_role("button", name="Start").click()
    playwright.expect(tab.locator(".grid-wrap img")).to_have_count(3)
    tab.locator(".vega-embed svg, .vega-embed canvas").first.wait_for()
    at.shoot("loopback")


@pytest.mark.parametrize("name", ["Chat", "Draw", "Edit", "Search", "Loopback"])
def test_a_narrow_screen_has_no_horizontal_scrolling(visit, served, name):
    at = visit(served, NARROW)
    tab = at.open(name)
    at.shoot(f"narrow-{name.lower()}")
    assert at.page.evaluate("document.scrollingElement.scrollWidth") <= NARROW[0]
    for control in tab.get_by_role("button").all() + tab.get_by_role("textbox").all():
        if box := control.bounding_box():
            assert box["x"] >= 0 and box["x"] + box["width"] <= NARROW[0]


def test_a_drawing_on_a_narrow_screen(visit, served):
    at = visit(served, NARROW, has_touch=True)
    tab = at.open("Draw")
    draw(tab, "a red circle")
    tab.locator(".grid-wrap img").first.wait_for()
    at.shoot("narrow-drawn")
    assert at.page.evaluate("document.scrollingElement.scrollWidth") <= NARROW[0]


@dataclass
class Keyboard:
    """A visitor without a mouse."""

    page: playwright.Page

    def go_to(self, element: playwright.Locator) -> playwright.Locator:
        """Press Tab until the element has the focus."""
        element.wait_for()
        for _ in range(80):
            if element.evaluate("element => element === document.activeElement"):
                return element
            self.page.keyboard.press("Tab")
        raise AssertionError(f"{element} cannot be reached by the Tab key")

    def press(self, element: playwright.Locator) -> None:
        self.go_to(element)
        self.page.keyboard.press("Enter")

    def fill(self, element: playwright.Locator, text: str) -> None:
        """Replace the text of an input by typing."""
        self.go_to(element)
        self.page.keyboard.press("Control+a")
        self.page.keyboard.type(text)

    def choose(self, element: playwright.Locator, file: Path) -> None:
        """Choose a file in the browser's dialogue."""
        with self.page.expect_file_chooser() as dialogue:
            self.press(element)
        dialogue.value.set_files(str(file))

    def open(self, name: str) -> playwright.Locator:
        """Open a tab; arrows move between tabs."""
        self.press(self.page.get_by_role("tab", name=name, exact=True))
        return self.page.get_by_role("tabpanel")


def test_by_keyboard_a_picture_is_asked_about_and_the_conversation_reset(visit, served, served_model, pictures, files):
    keys = Keyboard(visit(served).page)
    tab = keys.open("Chat")
    keys.choose(tab.get_by_role("button", name="Upload"), files[0])
    tab.locator("img[src*='file=']").first.wait_for()
    keys.fill(tab.get_by_role("textbox"), FACTS)
    keys.page.keyboard.press("Enter")
    tab.locator(BOT, has_text=served_model.understand(pictures[0], FACTS)).wait_for()
    keys.press(tab.get_by_role("button", name="New conversation"))
    tab.get_by_text("begins a new conversation").wait_for()


def test_by_keyboard_pictures_are_drawn(visit, served):
    keys = Keyboard(visit(served).page)
    tab = keys.open("Draw")
    keys.fill(tab.get_by_label("What to draw"), "a red circle")
    keys.fill(tab.get_by_role("spinbutton", name="Pictures"), "2")
    keys.press(tab.get_by_role("button", name="Draw", exact=True))
    playwright.expect(tab.locator(".grid-wrap img")).to_have_count(2)


def test_by_keyboard_a_picture_is_edited_and_compared(visit, served, files):
    keys = Keyboard(visit(served).page)
    tab = keys.open("Edit")
    keys.choose(tab.get_by_role("button", name="Drop").first, files[0])
    tab.locator("[data-testid=image] img").wait_for()
    keys.fill(tab.get_by_label("What to change"), "make the background white")
    keys.page.keyboard.press("Enter")
    after = tab.locator(".both img").nth(1)
    after.wait_for()
    keys.go_to(tab.get_by_role("slider", name="Before | after"))
    keys.page.keyboard.press("Home")
    wait_until_before_has(0.0, after)


def test_by_keyboard_pictures_are_found_and_more_like_one(visit, served):
    keys = Keyboard(visit(served).page)
    tab = keys.open("Search")
    playwright.expect(tab.get_by_label("Index")).to_have_value("scenes")
    keys.fill(tab.get_by_role("textbox", name="Words", exact=True), "a picture")
    keys.page.keyboard.press("Enter")
    hits = tab.locator(".grid-wrap img")
    playwright.expect(hits).to_have_count(PICTURES)
    keys.press(tab.locator(".grid-wrap button").nth(1))
    keys.press(tab.get_by_role("button", name="More like the chosen one"))
    playwright.expect(hits).to_have_count(PICTURES - 1)


def test_by_keyboard_a_loopback_is_started(visit, served, files):
    keys = Keyboard(visit(served).page)
    tab = keys.open("Loopback")
    keys.choose(tab.get_by_role("button", name="Drop").first, files[1])
    tab.locator("[data-testid=image] img").wait_for()
    keys.go_to(tab.get_by_role("slider", name="Rounds"))
    for _ in range(3):
        keys.page.keyboard.press("ArrowLeft")
    keys.press(tab.get_by_role("button", name="Start"))
    playwright.expect(tab.locator(".grid-wrap img")).to_have_count(2)


@pytest.mark.parametrize("path", ["/", PATH])
def test_the_root_redirects_to_the_page(served, path):
    assert b"location: /ui/\r\n" in served.ask("GET", path).raw.lower()


def test_the_page_shows_the_errors_of_the_api(visit, served, tmp_path):
    at = visit(served)
    tab = at.open("Edit")
    tab.get_by_role("button", name="Edit", exact=True).click()
    assert "drop one on the page" in at.notice()
    at.shoot("notice")
    at.page.get_by_test_id("toast-close").click()
    (tmp_path / "no.png").write_bytes(b"no picture at all")
    tab.locator("input[type=file]").first.set_input_files(str(tmp_path / "no.png"))
    tab.locator("[data-testid=image] img").wait_for(state="attached")
    tab.get_by_label("What to change").fill("make the circle green")
    tab.get_by_role("button", name="Edit", exact=True).click()
    assert "picture" in at.notice()


def test_a_url_in_an_event_is_not_fetched(served_model):
    app = create_app(served_model)
    add_page(app, Rates())
    page = next(route.app for route in app.routes if getattr(route, "path", "") == PATH).get_blocks()
    asks = next(event for event in page.fns.values() if event.inputs and isinstance(event.inputs[0], gradio.Image))
    file = {"path": "http://127.0.0.1:9/a.png", "meta": {"_type": "gradio.FileData"}}
    with ThreadPoolExecutor() as aside, pytest.raises(gradio.Error, match="Pictures come as files"):
        preprocessing = page.preprocess_data(asks, [file, *[None] * (len(asks.inputs) - 1)], None)
        aside.submit(asyncio.run, preprocessing).result()  # this thread has Playwright's loop


def test_a_key_opens_the_page_with_its_rate_limits(visit, guarded):
    at = visit(guarded, http_credentials={"username": "ada", "password": KEY})
    tab = at.open("Draw")
    draw(tab, "a red circle", steps=1)
    tab.locator(".grid-wrap img").first.wait_for()
    draw(tab, "a red circle", steps=1)
    assert "requests a minute on draw" in at.notice()


@pytest.mark.parametrize("path", ["/", "/ui/", "/ui/config", "/ui/gradio_api/info", "/ui/gradio_api/queue/data"])
def test_the_page_needs_a_key(guarded, path):
    assert guarded.ask("GET", path).status == 401
