"""The HTML page: every number is on its safe side, nothing is loaded, nothing in the data runs, all can be read."""

import base64
import dataclasses
import hashlib
import io
import re
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest
from page_results import EVIL, HYBRID, KINDS, made, result_of
from PIL import Image

from hybrid_rs_jax.data import demo
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.report import _page_inputs as inputs
from hybrid_rs_jax.report import _page_sections as sections
from hybrid_rs_jax.report.page import page
from hybrid_rs_jax.report.previews import data_preview, demo_preview, picture_png
from hybrid_rs_jax.results import sentences
from hybrid_rs_jax.results.facts import Facts
from hybrid_rs_jax.results.runs import Run


class Parsed(HTMLParser):
    """Elements with their attributes and text, in the order of the page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs), "inside": [parent["tag"] for parent in self.open]}
        self.elements.append(element)
        if tag not in ("meta", "link", "input", "img", "br"):
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "text": "", **dict(attrs), "inside": [p["tag"] for p in self.open]})

    def handle_endtag(self, tag):
        while self.open and self.open.pop()["tag"] != tag:
            pass

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, **attributes):
        return [e for e in self.elements if e["tag"] == tag and attributes.items() <= e.items()]

    def one(self, tag, **attributes):
        (element,) = self.all(tag, **attributes)
        return element


@pytest.fixture(scope="module")
def shown():
    return Parsed(page(made("hybrid")))


def test_equal_results_give_equal_pages():
    assert page(result_of(), demo_preview()) == page(result_of(), demo_preview())


@pytest.mark.parametrize("name", KINDS)
def test_each_input_has_a_row_whose_radii_are_rounded_down(name):
    result = made(name)
    parsed = Parsed(page(result))
    heads = [e["data-name"] for e in parsed.all("th") if "data-name" in e]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', page(result).partition('id="rows"')[2])
    assert [row[0] for row in rows] == list(result.ids)
    for (_, cells), radii in zip(rows, result.radius, strict=True):
        values = dict(zip(heads[1:], re.findall(r"<td[^>]*>(.*?)</td>", cells), strict=True))
        for d, radius in zip(result.budgets, radii, strict=True):
            if result.statements[0].noise.pixels:
                text = values[f"r_{d}"]
                assert (text == "—") == (radius < 0)
                assert text == "—" or radius - 1e-3 < float(text) <= radius


def test_the_page_has_landmarks_one_title_and_names_for_its_controls(shown):
    assert shown.one("html")["lang"] == "en"
    assert shown.one("h1")["text"] == "Certificates" == shown.one("title")["text"]
    assert shown.one("main")
    assert shown.one("nav")["aria-label"]
    assert shown.all("a")[0]["class"] == "skip"
    ids = [element["id"] for element in shown.elements if "id" in element]
    assert len(set(ids)) == len(ids)
    for element in shown.elements:
        if element["tag"] in ("input", "select"):
            assert "label" in element["inside"]
        if element["tag"] == "th":
            assert element["scope"] in ("row", "col")
        if element["tag"] == "a":
            assert element["href"].removeprefix("#") in ids
        if element["tag"] == "figure":
            assert element["aria-label"]
        for name in ("aria-labelledby", "for"):
            assert element.get(name, ids[0]) in ids


def test_the_page_may_load_nothing_and_run_only_its_own_script(shown):
    policy = shown.all("meta")[1]["content"]
    script = shown.one("script")["text"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not [e for e in shown.elements if any(name.startswith("on") for name in e)]
    addresses = {e.get("src") or e.get("href") for e in shown.elements if e.get("src") or e.get("href")}
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert len(resources.files("hybrid_rs_jax.report").joinpath("page.js").read_text().splitlines()) <= 200


def test_markup_in_the_data_stays_text():
    result = result_of(ids=[EVIL, "b\ud800", "c", "d", "e"], skipped=((EVIL, EVIL),), unfinished=(EVIL,))
    text = page(result, lambda name: (EVIL, None))
    text.encode("utf-8")
    parsed = Parsed(text)
    assert len(parsed.all("script")) == 1
    assert not parsed.all("img")


@pytest.mark.parametrize("name", KINDS)
def test_the_guarantee_is_said_in_full(name):
    result = made(name)
    paragraphs = [element["text"] for element in Parsed(page(result)).all("p")]
    assert sentences.guarantee(result.statements) in paragraphs
    first = result.statements[0]
    for proviso in sentences.provisos(first):
        assert proviso in paragraphs
    threat = sentences.threat_model(first)
    assert any(text.lower().startswith(threat.lower()[:40]) for text in paragraphs)


def test_inputs_without_a_certificate_are_named_with_the_reason():
    result = result_of(skipped=(("lost", "It has no picture."),), unfinished=("half",))
    details = [element["text"] for element in Parsed(page(result)).all("details")]
    assert any("1 input skipped" in text and "lost: It has no picture." in text for text in details)
    assert any("1 input unfinished" in text and "half" in text for text in details)


def test_each_decision_names_its_own_draws():
    heads = [element["text"] for element in Parsed(page(made("both decisions"))).all("th", scope="col")]
    assert "draws needed (certified unsafe)" in heads
    assert "draws needed (certified safe)" in heads


def test_certified_accuracy_in_the_table_is_that_of_the_radii():
    result = made("hybrid")
    text = page(result).partition("Certified accuracy by token budget")[2]
    table = text[: text.index("</table>")]
    epsilons = [float(value) for value in re.findall(r"ε = ([\d.e-]+)</th>", table)]
    assert epsilons[0] == 0
    assert 3 <= len(epsilons) <= 10
    for row, radius in zip(re.findall(r"<tr><th scope=\"row\">.*?</tr>", table), result.radius.T, strict=True):
        for cell, epsilon in zip(re.findall(r"<td>([\d.]+) %</td>", row), epsilons, strict=True):
            exact = 100 * (radius >= epsilon).mean()
            assert exact - 0.1 < float(cell) <= exact


def test_many_inputs_are_cut_and_the_page_says_so(monkeypatch):
    monkeypatch.setattr(inputs, "MOST_ROWS", 3)
    text = page(result_of())
    assert "The first 3 of 5 inputs" in text
    assert "input-2" in text
    assert "input-3" not in text


def test_colours_of_text_have_the_contrast_of_wcag_aa_in_both_themes():
    style = resources.files("hybrid_rs_jax.report").joinpath("page.css").read_text()
    pairs = dict(re.findall(r"--(\w+): light-dark\((#\w+), #\w+\)", style))
    dark = dict(re.findall(r"--(\w+): light-dark\(#\w+, (#\w+)\)", style))
    for theme in (pairs, dark):
        for ink in ("ink", "soft", "accent"):
            for paper in ("paper", "panel", "hover"):
                assert contrast(theme[ink], theme[paper]) >= 4.5


def contrast(one, other):
    """The ratio of WCAG 2 between two colours."""

    def luminance(colour):
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_small_picture_is_enlarged_by_a_whole_factor():
    pixels = np.random.default_rng(0).random((8, 8, 3))
    image = np.asarray(Image.open(io.BytesIO(picture_png(pixels))))
    assert image.shape == (128, 128, 3)
    np.testing.assert_array_equal(image[::16, ::16], np.rint(255 * pixels))


def test_a_large_picture_is_shrunk_and_a_strange_one_left_out():
    assert Image.open(io.BytesIO(picture_png(np.zeros((600, 300, 1))))).size == (128, 256)
    assert picture_png(np.zeros((8, 8, 5))) is None
    assert picture_png(np.zeros((0, 8, 3))) is None


def test_the_demo_shows_its_own_prompts_and_pictures():
    held_out = demo.load_demo("held_out")
    result = result_of(ids=held_out.ids[:5])
    parsed = Parsed(page(result, demo_preview()))
    words = [element["text"] for element in parsed.all("p")]
    assert all(prompt in words for prompt in held_out.prompts[:5])
    assert len(parsed.all("img")) == 5


def test_pictures_stop_before_the_page_gets_too_large(monkeypatch):
    held_out = demo.load_demo("held_out")
    monkeypatch.setattr(inputs, "PICTURE_BYTES", 600)
    parsed = Parsed(page(result_of(ids=held_out.ids[:5]), demo_preview()))
    assert 0 < len(parsed.all("img")) < 5


def test_an_archive_shows_token_ids_and_pixels(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, tokens=[[1, 2], [3, 4]], images=np.zeros((2, 4, 4, 3), np.float32), ids=["x", "y"])
    words, png = data_preview(file)("y")
    assert words == "tokens 3 4"
    assert Image.open(io.BytesIO(png)).size == (128, 128)
    assert data_preview(file)("z") is None
    with pytest.raises(BadInputError, match="does not exist"):
        data_preview(tmp_path / "none.npz")


def test_a_provisional_guarantee_stands_out():
    from hybrid_rs_jax.results.statement import Provisional

    result = result_of(provisional=Provisional(planned=2000, partial=5))
    lead = next(element for element in Parsed(page(result)).all("p") if "lead" in element.get("class", ""))
    assert "warning" in lead["class"]
    assert lead["text"].startswith("PROVISIONAL")
    assert dataclasses.is_dataclass(result)


def test_a_data_set_is_called_as_the_run_calls_it():
    run = Run(HYBRID, Facts({"data": {"name": "sigma-beta.csv"}}))
    assert sections.source(result_of(run=run)).startswith("sigma-beta.csv; ")
