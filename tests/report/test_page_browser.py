"""The HTML page in a real browser: it fits, sorts and filters, asks for nothing, and runs nothing of the data."""

import re
import shutil

import numpy as np
import pytest
from page_results import EVIL, KINDS, made, result_of

from hybrid_rs_jax.data import demo
from hybrid_rs_jax.report.page import page as page_of
from hybrid_rs_jax.report.previews import demo_preview

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt-get install chromium")

COUNTS = np.random.default_rng(3).binomial(1000, np.random.default_rng(4).beta(4, 0.6, 60)).tolist()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as runner:
        instance = runner.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"], timeout=600_000)
        yield instance
        instance.close()


@pytest.fixture
def show(browser, tmp_path):
    """Open a result as a file; at the end nothing must have been requested but it, and nothing complained about."""
    contexts, asked, complaints = [], [], []

    def open_page(result, preview=None, **options):
        path = tmp_path / f"page-{len(contexts)}.html"
        path.write_text(page_of(result, preview), encoding="utf-8")
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options))
        contexts[-1].set_default_timeout(600_000)
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints
    assert {re.sub(r"page-\d+", "page", url.split("#")[0]) for url in asked if not url.startswith("data:")} == {
        (tmp_path / "page.html").as_uri()
    }


def names(page):
    shown = "rows => rows.filter(row => row.checkVisibility()).map(row => row.querySelector('th').innerText)"
    return page.eval_on_selector_all("#rows tbody tr", shown)


@pytest.fixture(scope="module")
def many():
    return result_of(counts=COUNTS)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("width", [390, 1400])
def test_every_kind_of_result_opens_and_fits(show, name, width):
    page = show(made(name), viewport={"width": width, "height": 700})
    assert names(page) == list(made(name).ids)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_column_head_sorts_down_and_up(show, many):
    page = show(many)
    radius = many.radius[:, 1]
    head = page.get_by_role("button", name="r_1")
    head.click()
    order = [many.ids.index(name) for name in names(page)]
    shown = np.floor(np.maximum(radius[order], -1) * 1000)
    assert (np.diff(shown) <= 0).all()
    head.press("Enter")
    assert np.floor(radius[many.ids.index(names(page)[0])] * 1000) == np.floor(radius.min() * 1000)


def test_names_sort_by_the_numbers_in_them(show):
    page = show(result_of(ids=["b10", "b9", "a", "b100", "c"]))
    page.get_by_role("button", name="id", exact=True).click()
    assert names(page) == ["a", "b9", "b10", "b100", "c"]


def test_filters_keep_the_inputs_that_are_certified_there(show, many):
    page = show(many)
    page.locator("#filter-budget").select_option("r_2")
    page.locator("#filter-radius").fill("0.8")
    wanted = [name for name, radius in zip(many.ids, many.radius[:, 2], strict=True) if radius >= 0.8]
    assert 0 < len(wanted) < len(many)
    assert names(page) == wanted
    assert page.locator("#count").inner_text() == f"{len(wanted)} of 60 inputs match."
    page.get_by_role("button", name="Clear").click()
    page.wait_for_selector("text=60 inputs.")
    page.locator("#filter-text").fill("put-59")
    assert names(page) == ["input-59"]


def test_an_input_opens_to_its_text_and_picture(show):
    held_out = demo.load_demo("held_out")
    page = show(result_of(ids=held_out.ids[:5]), demo_preview())
    page.locator("summary").first.click()
    assert page.locator("#rows details p").first.inner_text() == held_out.prompts[0]
    assert page.locator("#rows img").first.bounding_box()["width"] > 100


def test_markup_in_names_and_texts_does_not_run(show):
    page = show(result_of(ids=[EVIL, "b", "c", "d", "e"]), lambda name: (EVIL, None))
    assert page.evaluate("window.ran") is None
    assert EVIL in page.locator("#rows summary").first.inner_text()


def test_without_scripts_the_whole_table_stays(show, many):
    page = show(many, java_script_enabled=False)
    assert page.locator("#rows tbody tr").count() == 60
    assert not page.locator("#filters").is_visible()
    assert page.locator(".charts svg").count() == 2


@pytest.mark.slow
def test_ten_thousand_inputs_open_sort_and_filter(show):
    counts = np.random.default_rng(0).integers(0, 1001, 10_000)
    page = show(result_of(counts=counts, budgets=range(3)))
    page.locator("#rows thead button").get_by_text("r_0").click()  # roles of ten thousand rows take long to find
    page.locator("#filter-text").fill("input-9999")
    assert names(page) == ["input-9999"]
