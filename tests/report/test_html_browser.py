"""The HTML page in a real browser: what it shows, what the keyboard does, and that it asks for nothing."""

import re
import shutil

import numpy as np
import pytest
from test_html import EVIL, HYBRID, KERNEL, KINDS, RUN, made, record_of

import hybrid_rs_jax as hrs
from hybrid_rs_jax._text import floor_text, percent_text
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.report.html import html_report
from hybrid_rs_jax.report.html_previews import recorded_preview

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt-get install chromium")

COUNTS = np.random.default_rng(3).binomial(1000, np.random.default_rng(4).beta(4, 0.6, 60)).tolist()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as runner:
        instance = runner.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield instance
        instance.close()


@pytest.fixture
def show(browser, tmp_path):
    """Open a record as a file; at the end nothing must have been requested but it, and nothing complained about."""
    contexts, asked, complaints = [], [], []

    def open_page(record, preview=None, **options):
        path = tmp_path / f"page-{len(contexts)}.html"
        path.write_text(html_report(record, preview), encoding="utf-8")
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options))
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


@pytest.fixture(scope="module")
def many():
    return record_of(counts=COUNTS)


@pytest.fixture
def page(show, many):
    return show(many)


def names(page):
    return page.locator("#rows tbody th").all_inner_texts()


def radii(record):
    return np.array([row["radius"] for row in record["certificates"]])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("width", [360, 1280])
def test_every_kind_of_record_opens_and_fits(show, name, width):
    record = made(name)
    page = show(record, viewport={"width": width, "height": 700})
    assert names(page) == [row["id"] for row in record["certificates"]]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("#rows tbody button").first.click()
    assert page.locator("dialog h2").inner_text() == record["certificates"][0]["id"]
    assert page.locator("dialog td").count() >= len(record["statement"]["budgets"])


def test_numbers_are_floored_as_everywhere_else(page):
    rng = np.random.default_rng(0)
    values = [0.0, 0.3, 0.9996, 1.0, 1.001, 2.675, 1e-9, 123456.789, 1e20, np.nextafter(1.5, 0)]
    values += rng.uniform(0, 5, 300).tolist() + (rng.integers(0, 5000, 300) / 1000).tolist()
    shown = page.evaluate("values => values.map((value) => floorText(value))", [float(value) for value in values])
    assert shown == [floor_text(float(value)) for value in values]
    pairs = [(part, whole) for whole in (1, 3, 7, 1000, 99_999) for part in range(0, whole + 1, max(1, whole // 50))]
    shown = page.evaluate("pairs => pairs.map(([part, whole]) => percentText(part, whole))", [list(p) for p in pairs])
    assert shown == [percent_text(part, whole) for part, whole in pairs]


def test_the_reading_counts_what_is_certified_there(page, many):
    radius = radii(many)
    for k in (0, 1, 2):
        page.locator(f"#budgets input[value='{k}']").check()
        for epsilon in (0.0, 0.5, 1.7):
            page.locator("#epsilon").fill(str(epsilon))
            count = int((radius[:, k] >= epsilon).sum())
            expected = f"At d = {k} and ε = {epsilon:.3f}: {count} of 60 inputs certified ({percent_text(count, 60)})."
            assert page.locator("#read").inner_text() == expected


def test_columns_and_medians_are_quantiles_of_the_radii(page, many):
    radius = radii(many)
    medians = page.evaluate("[0, 1, 2, 3, 4, 5].map((k) => medianRadius(readData(), k))")
    assert medians == np.sort(radius, axis=0)[29].tolist()
    for share in (0, 0.25, 0.5, 0.9, 1):
        reached = page.evaluate("share => [0, 1, 2].map((k) => radiusOfShare(readData(), k, share))", share)
        for k, r in enumerate(reached):
            inside = (radius[:, k] >= max(r, 0)).mean()
            assert inside >= max(share, 1 / 60) if r >= 0 else (radius[:, k] >= 0).mean() < share
            assert (radius[:, k] > r).mean() <= share + 1e-12 or r == radius[:, k].min()


def test_the_pointer_moves_the_reading(page, many):
    page.locator("#accuracy-plot svg").hover(position={"x": 200, "y": 150})
    text = page.locator("#read").inner_text()
    epsilon, count = re.fullmatch(r"At d = 0 and ε = ([\d.]+): (\d+) of 60 .*", text).groups()
    assert float(epsilon) > 0
    assert int(count) == (radii(many)[:, 0] >= float(epsilon)).sum()
    page.locator("#share-plot svg").hover(position={"x": 150, "y": 200})
    assert page.locator("#read").inner_text().startswith("At d = 1 and")


@pytest.mark.parametrize("width", [400, 1280])
def test_curves_are_never_above_the_certified_share(show, many, width):
    page = show(many, viewport={"width": width, "height": 700})
    largest = radii(many).max()
    paths = page.locator("#accuracy-plot .curve")
    right = page.locator("#accuracy-plot svg").evaluate("svg => svg.viewBox.baseVal.width") - 14
    checked = 0
    for index in range(paths.count()):
        path = paths.nth(index)
        k = 0 if "on" in path.get_attribute("class").split() else None
        level = None
        for command, value in re.findall(r"([MHV])([\d. ]+)", path.get_attribute("d")):
            if command == "M":
                level = (278 - float(value.split()[1])) / 264
                start = level
                k = next(k for k in range(6) if round(60 * start) == (radii(many)[:, k] >= 0).sum()) if k is None else k
            elif command == "V":
                level = (278 - float(value)) / 264
            else:
                epsilon = (float(value) - 52) / (right - 52) * largest * 1.04
                assert level <= (radii(many)[:, k] >= epsilon - 2e-4 * largest).mean() + 1e-4
                checked += 1
    assert checked > 50


def test_a_column_head_sorts_up_down_and_back(page, many):
    rows = many["certificates"]
    head = page.locator("#rows thead th", has_text="bound p_A")
    page.locator("#size").select_option("100")
    for direction, sign in (("descending", -1), ("ascending", 1)):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == direction
        assert names(page) == [row["id"] for row in sorted(rows, key=lambda row: sign * row["p_a"])]
        assert page.locator("[aria-sort]").count() == 1
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    assert names(page) == [row["id"] for row in rows]


def test_names_sort_by_the_numbers_in_them(show):
    page = show(record_of(counts=[1000, 900, 800], ids=["x10", "x9", "x1"]))
    page.locator("#rows thead button").first.click()
    assert names(page) == ["x1", "x9", "x10"]


def test_filters_and_pages(page, many):
    radius = radii(many)
    assert names(page) == [f"input-{index}" for index in range(25)]
    page.get_by_role("button", name="Next").click()
    assert names(page) == [f"input-{index}" for index in range(25, 50)]
    page.locator("#filter-text").fill("PUT-5")
    assert names(page) == ["input-5", *(f"input-{index}" for index in range(50, 60))]
    page.locator("#filter-reset").click()
    playwright.expect(page.locator("#count")).to_have_text("60 inputs")
    page.locator("#filter-budget").select_option(label="at d ≥ 2")
    assert page.locator("#count").inner_text() == f"{(radius[:, 2] >= 0).sum()} of 60 inputs"
    page.locator("#filter-radius").fill("1.25")
    page.locator("#size").select_option("100")
    assert names(page) == [f"input-{index}" for index in np.flatnonzero(radius[:, 2] >= 1.25)]
    page.locator("#filter-radius").fill("99")
    assert page.locator("#range").inner_text() == "no input"


def test_the_reading_lists_its_inputs(page, many):
    page.locator("#size").select_option("100")
    page.locator("#filter-text").fill("something else")
    page.locator("#budgets input[value='1']").check()
    page.locator("#epsilon").fill("2")
    page.locator("#show-these").click()
    playwright.expect(page.locator("#filter-text")).to_have_value("")
    assert names(page) == [f"input-{index}" for index in np.flatnonzero(radii(many)[:, 1] >= 2)]


def test_decisions_can_be_filtered(show):
    record = made("both decisions")
    page = show(record)
    assert [row["decision"] for row in record["certificates"]] == ["unsafe", "abstain", "safe"]
    page.locator("#filter-decision").select_option("safe")
    assert names(page) == ["input-2"]


def test_votes_per_class_and_the_draws_that_were_missing_are_said(show):
    record = record_of(counts=[1000, 0])
    record["statement"]["classes"] = 3
    del record["statement"]["tau"]
    for row, votes in zip(record["certificates"], ([10, 980, 10], [400, 300, 300]), strict=True):
        del row["successes"]
        row |= {"label": int(np.argmax(votes)), "votes": votes}
    record["certificates"][1] |= {"budget": -1, "needed_n": 12_345}
    page = show(record)
    assert page.locator("#rows thead th").all_inner_texts()[1] == "class"
    page.locator("#rows tbody button").first.click()
    assert "980 of 1,000 noisy copies of class 1" in page.locator("dialog").inner_text()
    page.keyboard.press("ArrowRight")
    assert "it would take 12,345 of them" in page.locator("dialog").inner_text()


def test_the_keyboard_reaches_and_opens_an_input(page, many):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the inputs"
    page.keyboard.press("Enter")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("Boolean(document.activeElement.closest('#rows tbody'))"):
            break
    assert page.evaluate("document.activeElement.textContent") == "input-0"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.locator("dialog[open] h2").inner_text() == "input-0"
    page.keyboard.press("ArrowRight")
    assert page.locator("dialog[open] h2").inner_text() == "input-1"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert page.evaluate("document.activeElement.textContent") == "input-0"


def test_a_head_sorts_by_the_keyboard(page):
    page.locator("#rows thead button", has_text="max d").focus()
    page.keyboard.press("Enter")
    assert page.locator("[aria-sort='descending']").inner_text() == "max d"


def test_an_input_shows_its_own_frontier_text_and_picture(show):
    inputs = demo.held_out_unsafe(3)
    run = RUN | {"data": {"name": "hybrid_rs_jax.data.demo.held_out_unsafe"}}
    record = record_of(counts=[1000, 990, 700], ids=inputs.ids, run=run)
    page = show(record, recorded_preview(record))
    assert inputs.prompts[1] in page.locator("#rows tbody tr").nth(1).inner_text()
    page.locator("#rows tbody tr").nth(1).locator("td").last.click()
    row = record["certificates"][1]
    certified = [radius for radius in row["radius"] if radius >= 0]
    assert page.locator("dialog .given p").inner_text() == inputs.prompts[1]
    assert page.locator("dialog img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 128
    assert page.locator("dialog rect.bar").count() == len(certified)
    assert page.locator("dialog text.value").all_text_contents() == [floor_text(radius) for radius in certified]
    cells = page.locator("dialog td").all_inner_texts()
    assert cells == [floor_text(radius) if radius >= 0 else "—" for radius in row["radius"]]
    assert f"Certified up to d = {row['budget']} changed tokens." in page.locator("dialog").inner_text()


def test_markup_in_names_and_texts_does_not_run(show):
    record = record_of(counts=[1000, 0], ids=[EVIL, "<script>window.ran = 1</script>"], run=RUN | {EVIL: EVIL})
    page = show(record, lambda name: (EVIL, b"no picture"))
    assert names(page) == [EVIL, "<script>window.ran = 1</script>"]
    page.locator("#rows tbody button").first.click()
    assert page.locator("dialog h2").inner_text() == EVIL
    assert page.locator("dialog .given p").inner_text() == EVIL
    assert page.evaluate("window.ran") is None


def test_the_theme_follows_the_system_and_the_button(show, many):
    paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 23, 27)"}
    for system, other in (("light", "dark"), ("dark", "light")):
        page = show(many, color_scheme=system)
        colour = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(colour) == paper[system]
        assert page.locator("#theme").get_attribute("aria-pressed") == str(system == "dark").lower()
        page.locator("#theme").click()
        assert page.evaluate(colour) == paper[other]
        page.emulate_media(media="print")
        assert page.evaluate(colour) == paper["light"]


def test_without_scripts_the_words_and_the_summary_stay(show, many):
    page = show(many, java_script_enabled=False)
    text = page.locator("body").inner_text()
    assert many["statement"]["guarantee"] in text
    assert "need JavaScript" in text
    assert page.locator("#certified tbody tr").count() == 6
    assert not page.locator("#rows").is_visible()


@pytest.mark.slow
def test_a_hundred_thousand_inputs_open_sort_and_filter(show):
    rng = np.random.default_rng(1)
    n = 10_000
    counts = rng.binomial(n, rng.beta(4, 0.6, 100_000))
    kernel = hrs.HybridSmoothing(KERNEL, HYBRID.sigma)
    certificate = hrs.certify(counts, n, kernel, tau=4.6e-5, alpha=0.01)
    record = record_of(counts=[1000])
    record["statement"]["budgets"] = list(certificate.budgets)
    record["statement"]["needed_samples"] = certificate.needed_samples().tolist()
    columns = (certificate.successes, certificate.n, certificate.p_a, certificate.radius, certificate.budget)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    keys = ("successes", "n", "p_a", "radius", "budget")
    record["certificates"] = [{"id": f"x{i}", **dict(zip(keys, row, strict=True))} for i, row in enumerate(rows)]
    page = show(record)
    assert page.locator("#count").inner_text() == "100,000 inputs"
    assert page.locator("#rows tbody tr").count() == 25
    page.locator("#rows thead button", has_text="r_1").click()
    best = certificate.radius[:, 1].max()
    assert certificate.radius[int(names(page)[0][1:]), 1] == best
    page.locator("#filter-budget").select_option(label="at d ≥ 4")
    assert page.locator("#count").inner_text() == f"{(certificate.budget >= 4).sum():,} of 100,000 inputs"
    page.locator("#filter-text").fill("x9999")
    assert set(names(page)) <= {"x9999", *(f"x9999{digit}" for digit in range(10))}
