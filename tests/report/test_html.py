"""The HTML page: nothing is lost, nothing is loaded, nothing in the data runs, everything can be read."""

import base64
import functools
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hybrid_rs_jax.results.certificates import both_decisions, certificate_record
from hybrid_rs_jax.results.words import deployment_text
from PIL import Image

import hybrid_rs_jax as hrs
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.report import html as page_module
from hybrid_rs_jax.report.html import embedded_record, html_report
from hybrid_rs_jax.report.html_previews import data_preview, demo_preview, picture_png, recorded_preview

KERNEL = hrs.UniformKernel(0.25, 512)
HYBRID = hrs.HybridSmoothing(KERNEL, 0.5)
COUNTS = [1000, 999, 900, 512, 0]
EVIL = "</script><script>window.ran = 1</script>\"'&<img src=x onerror='window.ran = 1'>"
RUN = {
    "format": "hybrid_rs_jax run, version 1",
    "smoothing": {},
    "sigma_unit": "pixels in [0, 1]",
    "eligible_positions": [8, 9, 10, 11],
    "samples": 1000,
    "seed": 7,
    "dtype": "float32",
    "classifier": {"name": "some.package.Guard", "weights_sha256": "ab" * 32},
    "data": {"name": "npz", "file": "inputs.npz"},
    "packages": {"jax": "0.10.2", "hybrid_rs_jax": "0.1.0"},
}


def record_of(smoothing=HYBRID, counts=COUNTS, budgets=range(6), ids=None, run=None, **options):
    certificate = hrs.certify(counts, 1000, smoothing, **{"tau": 1e-3, "alpha": 0.01, "budgets": budgets} | options)
    ids = [f"input-{index}" for index in range(len(counts))] if ids is None else ids
    return certificate_record(certificate, ids, certificate.needed_samples().tolist(), run)


def both_record():
    halves = (record_of(counts=[1000, 500, 0], tau=0.5, alpha=0.005, side=side) for side in ("above", "below"))
    return both_decisions(*halves, 0.01)


KINDS = {
    "hybrid": lambda: record_of(run=RUN),
    "text only": lambda: record_of(hrs.HybridSmoothing(KERNEL, None)),
    "image only": lambda: record_of(hrs.HybridSmoothing(None, 0.5), budgets=[0]),
    "one sample per budget": lambda: record_of(counts=[[1000, 900], [1000, 10]], budgets=[1, 3]),
    "upper bounds": lambda: record_of(counts=[0, 3, 400], tau=0.5, side="below"),
    "both decisions": both_record,
    "nothing certified": lambda: record_of(counts=[0]),
}


@functools.cache
def made(kind):
    """A record of each kind."""
    return KINDS[kind]()


class Page(HTMLParser):
    """Elements with their attributes and text, in the order of the page."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs), "inside": [parent["tag"] for parent in self.open]}
        self.elements.append(element)
        if tag not in ("meta", "link", "input", "img", "br"):
            self.open.append(element)

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

    @property
    def data(self):
        return json.loads(self.one("script", id="data")["text"])


@pytest.fixture(scope="module")
def page():
    return Page(html_report(made("hybrid")))


@pytest.mark.parametrize("name", KINDS)
def test_the_page_holds_the_record_digit_for_digit(name):
    record = made(name)
    assert embedded_record(Page(html_report(record)).data) == json.loads(json.dumps(record))


def test_equal_records_give_equal_pages():
    record = made("hybrid")
    assert html_report(record, demo_preview()) == html_report(json.loads(json.dumps(record)), demo_preview())


def test_certificates_of_equal_counts_are_stored_once():
    data = Page(html_report(record_of(counts=[1000, 900, 1000, 1000]))).data
    assert len(data["kinds"]) == 2
    assert data["kind"] == [0, 1, 0, 0]


def test_a_page_without_its_data_is_small(page):
    text = html_report(record_of(counts=[1000]))
    assert len(text.encode()) - len(Page(text).one("script", id="data")["text"]) < 60_000


def test_the_page_has_landmarks_one_title_and_names_for_its_controls(page):
    assert page.one("html")["lang"] == "en"
    assert page.one("h1")["text"] == "Certificates of the smoothed Guard" == page.one("title")["text"]
    assert page.one("main")
    assert page.one("nav")["aria-label"]
    assert page.all("a")[0]["class"] == "skip"
    ids = [element["id"] for element in page.elements if "id" in element]
    assert len(set(ids)) == len(ids)
    for element in page.elements:
        if element["tag"] in ("input", "select"):
            assert "label" in element["inside"]
        if element["tag"] == "button":
            assert element["type"] in ("button", "reset")
            assert element["text"]
        if element["tag"] == "th":
            assert element["scope"] in ("row", "col")
        if element["tag"] == "a":
            assert element["href"].removeprefix("#") in ids
        for name in ("aria-labelledby", "for"):
            assert element.get(name, ids[0]) in ids


def test_the_page_may_load_nothing_and_run_only_its_own_script(page):
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"})["content"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    scripts = [element for element in page.all("script") if "type" not in element]
    assert len(scripts) == 1
    for directive, element in (("style-src", page.one("style")), ("script-src", scripts[0])):
        digest = base64.b64encode(hashlib.sha256(element["text"].encode()).digest()).decode()
        assert rules[directive] == f"'sha256-{digest}'"
    before = page.elements.index(page.one("meta", **{"http-equiv": "Content-Security-Policy"}))
    assert not {"style", "script", "link"} & {element["tag"] for element in page.elements[:before]}


def test_the_page_asks_for_no_address(page):
    for element in page.elements:
        assert not [name for name in element if name.startswith("on") or name == "style"]
        assert re.match("#|data:", element.get("href", element.get("src", "#")))
    text = html_report(made("hybrid"))
    assert set(re.findall(r"https?:[^\s\"']*", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.findall(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|sendBeacon|import\(", text)


def test_markup_in_the_data_stays_text():
    run = RUN | {"classifier": {"name": EVIL, EVIL: EVIL}, "data": {"name": EVIL}, EVIL: [EVIL]}
    record = record_of(counts=[1000, 0], ids=[EVIL, "plain"], run=run)
    record["statement"] |= {"skipped": {EVIL: EVIL}, "unfinished": [EVIL], EVIL: EVIL, "guarantee": EVIL}
    page = Page(html_report(record, lambda name: (EVIL, None)))
    assert [element.get("type") for element in page.all("script")] == ["application/json", None]
    assert not page.all("img")
    assert page.data["ids"] == [EVIL, "plain"]
    assert page.data["texts"] == [EVIL, EVIL]
    assert page.one("p", **{"class": "lead"})["text"] == EVIL
    assert "<" not in page.one("script", id="data")["text"]


def test_broken_unicode_can_be_written():
    record = record_of(counts=[1000], ids=["half \ud800"], run=RUN | {"data": {"name": "\ud800"}})
    assert html_report(record).encode()
    assert Page(html_report(record)).data["ids"] == ["half \ud800"]


@pytest.mark.parametrize("name", KINDS)
def test_the_guarantee_is_said_in_full(name):
    statement = made(name)["statement"]
    page = Page(html_report(made(name)))
    text = page.one("section", id="guarantee")["text"]
    assert statement["guarantee"] in text
    assert statement["threat_model"][1:] in text
    assert statement["minus_one"] in text
    assert deployment_text(statement["tau"], side=statement["side"]) in text
    assert "classifier without noise" in text
    for words, said in (("shift later tokens", "kernel"), ("l2 radius", "sigma")):
        assert (words in text.split("What is not covered")[1]) == (statement[said] not in (None, "none"))


def test_every_setting_is_shown_even_an_unknown_one():
    record = record_of(run=RUN | {"future": {"depth": 3}})
    record["statement"] |= {"plan": {"plan": "target", "boundary": {"shape": 2.5}}, "novelty": "yes indeed"}
    text = Page(html_report(record)).one("section", id="settings")["text"]
    for shown in ("yes indeed", "novelty", "depth", "boundary.shape", "2.5", "8..11", "ab" * 32, "0.10.2", "float32"):
        assert shown in text
    assert "hybrid_rs_jax" in text


def test_inputs_without_a_certificate_are_named_with_the_reason():
    record = record_of()
    record["statement"] |= {"skipped": {"a7": "the image is broken"}, "unfinished": ["b8", "b9"]}
    text = Page(html_report(record)).one("section", id="inputs")["text"]
    for shown in ("1 input skipped", "a7: the image is broken", "2 inputs unfinished", "b9"):
        assert shown in text


def test_the_summary_says_the_draws_that_a_budget_needs(page):
    statement = made("hybrid")["statement"]
    rows = [element["text"] for element in page.all("tr") if "tbody" in element["inside"] and element["text"]]
    assert len(rows) == len(statement["budgets"])
    for row, needed in zip(rows, statement["needed_samples"], strict=True):
        assert row.endswith(f"{needed:,}")


@pytest.mark.parametrize("name", ["hybrid", "upper bounds", "both decisions", "one sample per budget"])
def test_bounds_are_rounded_to_their_safe_side(name):
    data = Page(html_report(made(name))).data
    for values, shown in zip(data["kinds"], data["bounds"], strict=True):
        p = np.atleast_1d(values["p_a"])
        text = np.array(shown if isinstance(shown, list) else [shown]).astype(float)
        above = values.get("decision") == "safe" or data["statement"]["side"] == "below"
        assert (text >= p).all() if above else (text <= p).all()
        assert text == pytest.approx(p, abs=1.1e-3)


def test_a_record_of_an_older_version_can_be_shown():
    record = record_of()
    statement = {key: record["statement"][key] for key in ("kernel", "sigma", "tau", "alpha", "budgets")}
    text = html_report({"statement": statement, "certificates": record["certificates"]})
    assert "does not state its guarantee" in text


# ---- colours


def _pairs():
    style = page_module._asset("html_style.css")
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style)
    return {name: {"light": light, "dark": dark} for name, light, dark in found}


def _luminance(colour):
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_definition():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=1e-3)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_marks_have_the_contrast_of_wcag_aa(theme):
    colours = {name: pair[theme] for name, pair in _pairs().items()}
    for back in ("paper", "panel", "hover"):
        for text in ("ink", "soft", "accent"):
            assert contrast(colours[text], colours[back]) >= 4.5, (text, back)
    curves = [name for name in colours if name.startswith("curve-")]
    assert len(curves) == 9
    for back in ("paper", "panel"):
        for mark in ("edge", "focus", "cursor", "accent", *curves):
            assert contrast(colours[mark], colours[back]) >= 3, (mark, back)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("ramp", ["curve", "shade"])
def test_ramps_can_be_told_apart_by_lightness_alone(theme, ramp):
    values = [_luminance(pair[theme]) for name, pair in _pairs().items() if name.startswith(ramp)]
    steps = np.diff(np.log(np.array(values) + 0.05))
    assert np.all(steps > 0) or np.all(steps < 0)


def test_every_colour_of_the_style_is_a_pair_for_both_themes():
    style = page_module._asset("html_style.css")
    rest = re.sub(r"light-dark\(#\w{6}, #\w{6}\)", "", style)
    assert not re.findall(r"#[0-9a-f]{3,8}\b(?=[;\s,)])", rest)
    assert set(re.findall(r"var\(--([\w-]+)\)", style)) - {"sans", "serif"} <= set(_pairs())


# ---- pictures


def test_a_small_picture_is_enlarged_by_a_whole_factor():
    pixels = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8, 1)
    image = np.asarray(Image.open(io.BytesIO(picture_png(pixels))))
    assert image.shape == (128, 128)
    np.testing.assert_array_equal(image[::16, ::16], np.rint(255 * pixels[..., 0]))
    np.testing.assert_array_equal(image, image[::16, ::16].repeat(16, axis=0).repeat(16, axis=1))


def test_a_large_picture_is_shrunk_and_a_strange_one_left_out():
    wide = Image.open(io.BytesIO(picture_png(np.full((300, 900, 3), 0.5, np.float32))))
    assert wide.size == (256, 85)
    assert wide.mode == "RGB"
    assert picture_png(np.zeros((4, 4, 2), np.float32)) is None
    assert picture_png(np.zeros((0, 4, 1), np.float32)) is None


def test_the_demo_shows_its_own_prompts_and_pictures():
    inputs = demo.held_out_unsafe(2)
    record = record_of(counts=[1000, 900], ids=inputs.ids, run=RUN | {"data": {"name": "hybrid_rs_jax.data.demo.x"}})
    data = Page(html_report(record, recorded_preview(record))).data
    assert data["texts"] == inputs.prompts
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["pictures"][1]))))
    np.testing.assert_array_equal(image[::16, ::16], np.rint(255 * inputs.images[1, ..., 0]))
    assert recorded_preview(made("hybrid")) is None
    assert recorded_preview(made("text only")) is None
    assert demo_preview()("unknown") is None


def test_pictures_stop_before_the_page_gets_too_large(monkeypatch):
    monkeypatch.setattr(page_module, "PICTURE_BYTES", 25)
    data = Page(html_report(record_of(), lambda name: (f"text of {name}", b"0123456789"))).data
    assert [picture is not None for picture in data["pictures"]] == [True, True, False, False, False]
    assert data["texts"][4] == "text of input-4"


def test_an_archive_shows_token_ids_and_pixels(tmp_path):
    images = np.full((2, 4, 4, 3), 0.25, np.float32)
    np.savez(tmp_path / "a.npz", tokens=np.array([[1, 2], [3, 4]]), images=images, ids=np.array(["a", "b"]))
    text, png = data_preview(tmp_path / "a.npz")("b")
    assert text == "tokens 3 4"
    assert set(np.asarray(Image.open(io.BytesIO(png))).ravel()) == {64}
    assert data_preview(tmp_path / "a.npz")("c") is None
    with pytest.raises(BadInputError, match=r"none\.npz does not exist"):
        data_preview(tmp_path / "none.npz")


def test_a_table_shows_its_text_even_where_an_image_is_broken(tmp_path):
    Image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / "red.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "t.csv").write_text("id,text,image\na,hello,red.png\nb,broken,bad.png\n")
    preview = data_preview(tmp_path / "t.csv")
    text, png = preview("a")
    assert text == "hello"
    assert Image.open(io.BytesIO(png)).size == (120, 60)
    assert preview("b") == ("broken", None)
    assert preview("c") is None
