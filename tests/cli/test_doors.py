"""The doors of `sample`: models of other libraries and addresses, texts and pictures for any of them."""

import base64
import io
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from hybrid_rs_jax import HybridSmoothing, sample_counts
from hybrid_rs_jax.classifiers.own import own_classifier
from hybrid_rs_jax.cli import main
from hybrid_rs_jax.results.count_files import read_counts
from hybrid_rs_jax.results.reading import read_certificates

TEXTS = ["dial seven now", "call me", "dial nine", "hello there my friend"]
MODELS = """
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.ensemble import IsolationForest

def torch_function(tokens, images):
    return torch.tensor(images).mean((1, 2, 3)) > 0.4

def numpy_function(tokens, images):
    return [bool(image.mean() > 0.4) for image in images]

def score(tokens, images):
    return images.mean((1, 2, 3))

def never_a_number(tokens, images):
    return np.full(len(tokens), np.nan, np.float32)

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("level", torch.tensor(0.4))

    def forward(self, images):
        assert images.shape[1] == 3, "channels come first"
        return images.mean((1, 2, 3)) - self.level

network = Network()

class Pair(torch.nn.Module):
    def forward(self, tokens, images):
        assert tokens.dtype == torch.int64
        score = images.mean((1, 2, 3)) - 0.4
        return {"logits": torch.stack([-score, score], 1)}

pair = Pair()
rng = np.random.default_rng(0)
pixels = rng.random((200, 4 * 4 * 3))
labels = np.where(pixels.mean(1) > 0.5, "unsafe", "safe")
labels = np.where(labels == "unsafe", "z unsafe", "a safe")
forest = LogisticRegression(max_iter=500).fit(pixels, labels)
several = LogisticRegression(max_iter=500).fit(pixels, rng.integers(0, 3, 200))
odd = LogisticRegression().fit(pixels[:, :5], labels)

def reads(texts, images):
    assert all(isinstance(text, str) for text in texts)
    return np.array(["dial" in text.split() for text in texts])

reads.takes_text = True
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Four texts with pictures, labels and groups, and models of other libraries."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "other_models.py").write_text(MODELS)
    rng = np.random.default_rng(1)
    rows = []
    for place, text in enumerate(TEXTS):
        levels = (rng.random((6, 6, 3)) * 100 + 50 * place).astype(np.uint8)
        Image.fromarray(levels).save(tmp_path / f"p{place}.png")
        label = "unsafe" if "dial" in text else "safe"
        rows.append({"id": f"i{place}", "text": text, "image": f"p{place}.png", "label": label, "group": "g"})
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def drawn(model, *more, data="data.jsonl", out="run", samples=40):
    flags = ["--data", data, "--image-size", "4x4", "--sigma", "0.1", "--samples", str(samples), "--out", out]
    return main(["sample", "--model", model, *flags, *more])


def successes(run="run"):
    return read_counts(Path(run)).successes.tolist()


@pytest.mark.parametrize("model", ["torch_function", "numpy_function", "pair"])
def test_functions_and_modules_of_other_libraries_count_what_the_rule_says(folder, model):
    assert drawn(f"other_models:{model}") == 0
    assert drawn("other_models:score", "--threshold", "0.4", out="jax") == 0
    assert successes() == successes("jax")
    assert 0 in successes()
    assert 40 in successes()


def test_on_host_forces_the_host_and_counts_the_same(folder):
    assert drawn("other_models:score", "--threshold", "0.4", "--on-host") == 0
    assert drawn("other_models:score", "--threshold", "0.4", out="jax") == 0
    assert successes() == successes("jax")
    assert read_counts(Path("run")).run.facts["classifier"]["threshold"] == 0.4


def test_a_score_that_is_no_number_ends_a_run_and_is_never_read_as_safe(folder, capsys):
    assert drawn("other_models:never_a_number", "--threshold", "0.4") == 2
    assert "A score must be a finite number, got nan" in capsys.readouterr().err


def test_one_score_in_thousands_that_is_no_number_ends_a_compiled_run(caplog):
    guard = own_classifier(lambda tokens, images: (0.8 - images[:, 0, 0, 0]) ** 0.5, threshold=0.1)
    tokens, images = np.zeros((1, 2), np.int32), np.zeros((1, 4, 4, 1), np.float32)
    with pytest.raises(ValueError, match=r"The classifier's score .* is no finite number, so no vote was counted"):
        sample_counts(guard, tokens, images, HybridSmoothing(None, 0.25), 20_000, jax.random.key(0))
    assert not caplog.records, "it is compiled"


def test_a_module_with_one_argument_gets_pictures_and_needs_a_threshold_for_scores(folder, capsys):
    assert drawn("other_models:network") != 0
    assert "say from where on one is Unsafe (a threshold: --threshold X)" in capsys.readouterr().err
    assert drawn("other_models:network", "--threshold", "0", out="again") == 0
    classifier = read_counts(Path("again")).run.facts["classifier"]
    assert re.fullmatch("[0-9a-f]{64}", classifier["digest"])


def test_an_estimator_gets_the_features_that_it_was_fitted_on(folder, capsys):
    assert drawn("other_models:forest") == 0
    assert drawn("other_models:forest", "--threshold", "0.5", "--features", "pixels", out="probability") == 0
    assert successes() == successes("probability")
    assert read_counts(Path("run")).run.facts["classifier"]["unsafe"] == "z unsafe"
    assert drawn("other_models:several", out="classes") == 0
    assert read_counts(Path("classes")).votes.shape == (4, 3)
    assert drawn("other_models:odd", out="odd") == 2
    error = capsys.readouterr().err
    assert "fitted on 5 features, the data have tokens 12, pixels 48, both 60: none fits" in error


def test_a_function_of_texts_reads_the_decoded_noisy_text(folder):
    assert drawn("other_models:reads", "--threat", "suffix") == 0
    counts = read_counts(Path("run"))
    assert counts.successes[0] == counts.successes[2] == 40, "the text itself carries no noise"
    assert 0 < counts.successes[1] < 40, "noise on the suffix writes the word now and then"
    data = counts.run.facts["data"]
    assert data["tokenizer"]["vocabulary"] == "call dial friend hello me my nine now seven there"
    assert counts.run.smoothing.discrete.vocab_size == 11
    assert counts.run.threat == "suffix"


def test_bytes_are_an_alphabet_too_and_the_whole_text_may_carry_noise(folder):
    assert drawn("other_models:reads", "--tokenizer", "bytes", "--threat", "anywhere", "--text-length", "40") == 0
    counts = read_counts(Path("run"))
    assert counts.run.smoothing.discrete.vocab_size == 257
    assert counts.run.facts["data"]["text_length"] == 40
    assert 0 < counts.successes[0] < 40


def test_label_and_group_are_carried_to_every_result(folder, capsys):
    assert drawn("other_models:reads", "--limit", "2") == 0
    assert drawn("other_models:reads", "--resume") == 0
    assert main(["certify", "run", "--out", "out.csv", "--max-budget", "1"]) == 0
    assert main(["certify", "run", "--out", "out.json", "--max-budget", "1"]) == 0
    lines = Path("out.csv").read_text().splitlines()
    assert lines[0].endswith(",label,group")
    assert [line.split(",")[-2:] for line in lines[1:]] == [[w, "g"] for w in ("unsafe", "safe", "unsafe", "safe")]
    others = {column.name: column.values for column in read_certificates(Path("out.json")).counts.others}
    assert others["label"] == ("unsafe", "safe", "unsafe", "safe")


def test_shards_keep_their_columns_when_they_are_merged(folder):
    for part in range(2):
        assert drawn("other_models:reads", "--shard", f"{part}/2", out=f"part{part}") == 0
    assert main(["merge", "part0", "part1", "--out", "whole"]) == 0
    columns = {column.name: column.values for column in read_counts(Path("whole")).others}
    assert columns["label"] == ("unsafe", "safe", "unsafe", "safe")


def test_csv_parquet_and_a_folder_of_pairs_draw_what_json_lines_do(folder):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.read_json("data.jsonl", lines=True)
    frame.to_csv("data.csv", index=False)
    frame.to_parquet("data.parquet")
    pairs = folder / "pairs"
    pairs.mkdir()
    for place, text in enumerate(TEXTS):
        (pairs / f"p{place}.png").write_bytes(Path(f"p{place}.png").read_bytes())
        (pairs / f"p{place}.txt").write_text(text + "\n")
    assert drawn("other_models:reads") == 0
    for data in ("data.csv", "data.parquet", "pairs"):
        assert drawn("other_models:reads", data=data, out=f"{data} run") == 0
        assert successes(f"{data} run") == successes()


class Service(BaseHTTPRequestHandler):
    """Unsafe where the text has the word dial; some requests fail first."""

    seen, asked, faults, answers = [], [], [], "unsafe"

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(asked)
        body = json.loads(asked)
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(body["image"], validate=True))))
        self.seen.append((body["text"], picture.shape))
        status = self.faults.pop(0) if self.faults else 200
        unsafe = "dial" in body["text"].split()
        answer = {"unsafe": {"unsafe": unsafe}, "score": {"score": float(unsafe)}, "odd": {"verdict": 1}}[self.answers]
        content = json.dumps(answer if status == 200 else {"why": "not today"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def service():
    """A classifier behind an address."""
    handler = type("Handler", (Service,), {"seen": [], "asked": [], "faults": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    handler.url = f"http://127.0.0.1:{server.server_port}/classify"
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_service_is_asked_with_text_and_picture(folder, service):
    service.faults = [503, 429]
    assert drawn(service.url, "--wire", "json", "--concurrency", "4", samples=10) == 0
    assert drawn("other_models:reads", out="own", samples=10) == 0
    assert successes() == successes("own")
    assert {shape for _, shape in service.seen} == {(4, 4, 3)}
    assert read_counts(Path("run")).run.facts["classifier"]["url"] == service.url
    service.answers = "score"
    assert drawn(service.url, "--wire", "json", "--threshold", "0.5", out="scores", samples=10) == 0
    assert successes("scores") == successes()


def test_what_a_service_may_not_answer_ends_the_run_in_one_sentence(folder, service, capsys):
    service.answers = "odd"
    assert drawn(service.url, "--wire", "json", samples=5) == 2
    assert 'must answer {"unsafe": true}, got' in capsys.readouterr().err
    assert len(service.asked) == len(set(service.asked)), "nothing was tried again"
    service.answers, service.faults, service.asked[:] = "unsafe", [404], []
    assert drawn(service.url, "--wire", "json", "--resume", samples=5) == 2
    assert 'refused the request: status 404, \'{"why": "not today"}\'' in capsys.readouterr().err
    assert len(service.asked) == len(set(service.asked))


def test_a_chat_endpoint_is_a_flag(folder, monkeypatch):
    pytest.importorskip("openai")
    from tests.chat_server import MODEL, POLICY, ChatServer

    server = ChatServer()
    try:
        Path("policy.txt").write_text(POLICY)
        flags = ["--model-name", MODEL, "--policy", "policy.txt", "--concurrency", "4"]
        assert drawn(server.url, *flags, samples=10) == 0
    finally:
        server.close()
    assert server.seen[0][3]["messages"][0]["content"] == POLICY
    assert "dial" in server.seen[0][3]["messages"][1]["content"][0]["text"]
    assert read_counts(Path("run")).run.facts["classifier"]["model"] == MODEL


@pytest.mark.parametrize(
    ("model", "flags", "sentence"),
    [
        ("http://localhost:1/v1", [], "--model-name is needed: a chat endpoint"),
        ("http://localhost:1/v1", ["--model-name", "m"], "--policy is needed: a chat endpoint"),
        ("http://localhost:1/v1", ["--threshold", "1"], "--threshold means nothing to a chat endpoint"),
        ("http://localhost:1/c", ["--wire", "json", "--model-name", "m"], "--model-name means nothing to a JSON"),
        ("http://a@b/c", ["--wire", "json"], "--model must hold no user name"),
        ("http://localhost:1/c", ["--wire", "json", "--data", "a.npz"], "asked with texts and pictures"),
        ("other_models:reads", ["--data", "a.npz"], "takes texts, and these data hold token ids"),
        ("other_models:reads", ["--threshold", "inf"], "--threshold must be a finite number, got inf"),
        ("other_models:reads", ["--features", "pixels"], "features mean something to an estimator"),
        ("other_models:Network", [], "must be an object, got the class Network"),
        ("other_models:reads", ["--pixel-range", "0,255"], "--pixel-range means something to an archive"),
        ("other_models:reads", ["--wire", "json"], "--wire means nothing to a model that is imported"),
        ("other_models:reads", ["--policy", "x"], "--policy means something to a vision-language checkpoint only"),
        ("other_models:reads", ["--data", "a.npz", "--image-size", "4x4"], "--image-size means something to texts"),
        ("demo", [], "for --model demo, got data.jsonl"),
        ("demo", ["--data", "demo", "--threshold", "1"], "--threshold means nothing to the demo's guard"),
        ("other_models:reads", ["--text-length", "2"], "text_length has room for 2"),
    ],
)
def test_what_a_door_cannot_use_is_refused_in_one_sentence(folder, model, flags, sentence, capsys):
    np.savez("a.npz", tokens=np.zeros((2, 3), int), images=np.zeros((2, 4, 4, 3)))
    arguments = ["sample", "--model", model, "--sigma", "0.1", "--samples", "5", "--out", "run", *flags]
    arguments += [] if "--data" in flags else ["--data", "data.jsonl"]
    status = main(arguments)
    printed = capsys.readouterr()
    assert sentence in printed.err + printed.out
    assert status == 2 or "Skipped" in printed.out
