"""The live page, as a person sees it: a real browser before a real server under drift that is replayed."""

import asyncio
import re
import shutil
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.pages import ROOT
from tests.server import Running, running
from tests.tta_server.calls import UNGUARDED, infer, stream
from tests.tta_server.pictures import encoded
from tta_server.app import build
from tta_server.keys.new_key import new_key
from tta_server.models import glyphs, load
from tta_server.settings_file import load_settings

ROWS = 16
PATIENCE_MS = 60_000
FOLDER = ROOT / "tta_server/api/page"
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
NOISY = ROOT / "docs/noisy.png"
DROPPED = """bytes => {
  const carried = new DataTransfer();
  carried.items.add(new File([new Uint8Array(bytes)], "noisy.png", { type: "image/png" }));
  return carried;
}"""
"""Makes what a mouse carries that drags an image."""


def drifted(images: np.ndarray) -> np.ndarray:
    return np.clip(images + np.random.default_rng(0).normal(0, 60, images.shape), 0, 255).astype(np.uint8)


def replay(client: httpx.Client) -> None:
    """Show a stream clean and then noisy images, with labels for the noisy ones, and another one clean images alone."""
    images, classes = glyphs.images("test")
    for name, shown in {"calm": images[-128:], "gate-7": images[-128:]}.items():
        for start in range(0, len(shown), ROWS):
            infer(client, name, shown[start : start + ROWS])
    noisy, labels = drifted(images[:320]), []
    for start in range(0, len(noisy), ROWS):
        infer(client, "gate-7", noisy[start : start + ROWS], {"X-Request-Id": f"r{start}"})
        labels += [{"id": f"r{start}", "image": row, "label": int(classes[start + row])} for row in range(ROWS)]
    client.post("/v1/labels", json={"labels": labels}).raise_for_status()


@contextmanager
def browser(**options: object) -> Iterator[Page]:
    found = shutil.which("chromium")
    assert found, "these tests drive Debian's chromium: make test installs it"
    with sync_playwright() as driver:
        program = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = program.new_page(**options)
        page.set_default_timeout(PATIENCE_MS)
        yield page
        program.close()


def serious(page: Page) -> list[str]:
    """Return what axe-core finds that would keep somebody from using the page."""
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in ("serious", "critical")]


def ask_in_process(folder: Path, asked: Callable[[httpx.AsyncClient], object], **sections: dict) -> object:
    async def send() -> object:
        app = build(load_settings(None, {"storage": {"url": str(folder)}} | sections), load("glyphs")).app
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as one:
            return await asked(one)

    return asyncio.run(send())


def test_a_person_sees_the_drift_acts_on_it_and_stops_the_server_with_the_page_open(tmp_path):
    file = tmp_path / "keys.yaml"
    key, _ = new_key(file, {"name": "operator", "scopes": ["admin"], "streams": ["*"]})
    config = {
        "domains": {},
        "model": {"device": "cpu"},
        "auth": {"keys_file": str(file)},
        "storage": {"url": str(tmp_path / "kept")},
        "drift": {"keep_images": 3},
    }
    with running(tmp_path, config) as server, browser(viewport={"width": 1200, "height": 900}) as page:
        server.client.headers["Authorization"] = f"Bearer {key}"
        replay(server.client)
        elsewhere, wrong = [], []
        page.on("request", lambda request: elsewhere.append(request.url))
        page.goto(f"{server.url}/")
        page.locator("#trouble", has_text="with a key only").wait_for()

        page.on("console", lambda told: wrong.append(told.text) if told.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.fill("#secret", key)
        page.click("#key button")
        page.click("#streams a:text-is('gate-7')")
        page.wait_for_selector("#chart svg path.line")
        assert page.locator("#streams tbody tr").count() == 2
        assert page.locator("#streams svg.spark path").count() >= 1
        assert page.inner_text("#streams tr[data-name='gate-7'] .badge") == "drift"
        assert page.inner_text("#drifting").startswith("Yes, since ")
        assert "images with true labels" in page.inner_text("#better")
        assert page.inner_text("#why").startswith("At ")
        assert page.locator("#chart .mark.domain").count() >= 1
        assert "gate-7@1" in page.inner_text("#domains")
        for place in ("classes", "layers", "accuracy"):
            assert page.locator(f"#{place} tbody tr").count() >= 2, place
        check_looks(page)

        image = page.evaluate_handle(DROPPED, list(NOISY.read_bytes()))
        page.dispatch_event("#drop", "drop", {"dataTransfer": image})
        page.wait_for_selector("#compared .said")
        dropped = page.inner_text("#compared")
        page.evaluate("document.getElementById('compared').replaceChildren()")
        page.set_input_files("#image", NOISY)
        page.wait_for_selector("#compared .said")
        assert page.inner_text("#compared") == dropped
        answers = page.locator("#compared .said .label").all_inner_texts()
        assert len(answers) == 2
        assert set(answers) <= set(load("glyphs").labels)

        page.click("#strange summary")
        page.wait_for_selector("#strange-images img")
        assert page.locator("#strange-images figure").count() == 3
        check_actions(page, server)
        assert serious(page) == []
        assert wrong == []
        page.goto(f"{server.url}/docs")
        page.wait_for_selector("details:has-text('/v1/streams/{name}/drift')")
        assert serious(page) == []
        assert wrong == []
        assert [url for url in elsewhere if not url.startswith((server.url, "data:"))] == []

        page.goto(f"{server.url}/#gate-7")
        page.wait_for_selector("#streams a")
        server.process.terminate()
        assert server.process.wait(PATIENCE_MS / 1000) == 0
        page.locator("#trouble", has_text="does not answer").wait_for()
    assert "exceeded" not in (tmp_path / "server.log").read_text(), "nothing had to be broken off for the stop"


def check_looks(page: Page) -> None:
    """See that the page can be used by light, in the dark, and on a phone, whose width only tables exceed."""
    assert serious(page) == []
    page.emulate_media(color_scheme="dark")
    assert serious(page) == []
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.set_viewport_size({"width": 1200, "height": 900})


def check_actions(page: Page, server: Running) -> None:
    """Take a snapshot of a domain, freeze the stream, and reset it, each with a reason."""
    before = stream(server.client, "gate-7")["state_version"]
    page.select_option("#whose", "gate-7@1")
    page.wait_for_selector("[data-does=snapshot]:enabled")
    for does, done in (("snapshot", "It is called snapshot-"), ("mode", "done")):
        confirm(page, does, "before the lens is cleaned", done)
    page.select_option("#whose", "gate-7")
    confirm(page, "freeze", "the lens is being cleaned", "done")
    page.wait_for_selector("#streams tr[data-name='gate-7'] td:text-is('off')")
    page.click("[data-does=reset]")
    page.press("#reason", "Escape")
    assert stream(server.client, "gate-7")["state_version"] == before, "nothing is done without a confirmation"
    confirm(page, "reset", "a new lens", "done")
    page.wait_for_selector("#events td:text-is('a new lens')")
    after = stream(server.client, "gate-7")
    assert after["state_version"] > before
    assert (after["mode"], after["domains"], after["last_verdict"]["who"]) == ("off", [], "operator")
    assert page.inner_text("#streams tr[data-name='gate-7'] td:nth-child(8)") == str(after["state_version"])


def confirm(page: Page, does: str, reason: str, done: str) -> None:
    page.click(f"[data-does={does}]")
    page.fill("#reason", reason)
    page.press("#reason", "Enter")
    page.locator("#done", has_text=done).wait_for()


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_need_no_key_load_nothing_from_elsewhere_and_browsers_are_told_so(tmp_path, path):
    file = tmp_path / "keys.yaml"
    new_key(file, {"name": "a", "scopes": ["infer"], "streams": ["*"]})

    async def visit(client: httpx.AsyncClient) -> list[httpx.Response]:
        page = await client.get(path, headers=BROWSER)
        parts = re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)
        assert len(parts) == 2
        more = [await client.get(f"/{part}", headers={"accept": "*/*"}) for part in parts]
        return [page, *more, await client.get("/")]

    *open_ones, refused = ask_in_process(tmp_path, visit, auth={"keys_file": str(file)})

    for response in open_ones:
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    assert refused.status_code == 401, "a program that asks what this is needs a key as before"


def test_no_file_of_the_pages_names_an_address_or_holds_a_script_or_style_of_its_own():
    for path in FOLDER.iterdir():
        text = path.read_text() if path.is_file() else ""
        assert set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text)) <= {"http://www.w3.org"}, path.name
        assert "innerHTML" not in text, path.name
        if path.suffix == ".html":
            assert not re.search(r"<script[^>]*>[^<]|<style|\son\w+=|\sstyle=", text), path.name


def test_to_compare_says_what_a_request_would_and_changes_nothing(tmp_path):
    images = drifted(glyphs.images("test")[0][:52]).transpose(0, 2, 3, 1)
    files = [("image", encoded(Image.fromarray(image))) for image in images]

    async def asked(client: httpx.AsyncClient) -> tuple[list[dict], list[dict], dict, dict]:
        def predict(name: str, start: int, end: int) -> Coroutine[None, None, httpx.Response]:
            return client.post("/predict", files=files[start:end], headers={"X-Stream-Id": name})

        for start in range(0, 48, ROWS):
            await predict("noisy", start, start + ROWS)
        about: list[dict] = []
        while len(about) < 2 or about[-1] != about[-2]:  # until it is begun with all that it has seen
            await asyncio.sleep(0.5)
            about.append((await client.get("/v1/streams/noisy")).json())
        about = about[-1:]
        names = ("noisy", "noisy@1")
        compared = [(await client.post(f"/v1/streams/{name}/compare", files=files[48:])).json() for name in names]
        about.append((await client.get("/v1/streams/noisy")).json())
        return compared, about, (await predict("noisy", 48, 52)).json(), (await predict("frozen", 48, 52)).json()

    off = {"named": {"frozen": {"mode": "off"}}}
    compared, about, said, frozen = ask_in_process(tmp_path, asked, streams=off, guard=UNGUARDED)

    assert about[0] == about[1]
    assert said["adapted"] is True
    for each in compared:
        assert each["images"] == compared[0]["images"]
        for one, answer, source in zip(each["images"], said["predictions"], frozen["predictions"], strict=True):
            assert (one["domain"], one["adapted"]) == (answer["domain"], True) == ("noisy@1", True)
            for shown, true in ((one["learnt"], answer), (one["source"], source)):
                assert shown["label"] == true["label"]
                assert shown["top"][0]["probability"] == pytest.approx(true["top"][0]["probability"], abs=1e-4)
