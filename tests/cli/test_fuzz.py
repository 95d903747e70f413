"""Files that are not what they should be never reach the last resort: each is done, or one sentence and status 2."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mutations import mutated_arrays, mutated_bytes, mutated_cells, mutated_json

import hybrid_rs_jax as hrs
from hybrid_rs_jax.cli import main
from hybrid_rs_jax.results.runs import run_record, write_run

NOISE = ["--kernel", "uniform", "--beta", "0.25", "--vocab-size", "8", "--sigma", "0.5", "--tau", "0.1"]
DRAWS = ["--vocab-size", "8", "--sigma", "0.2", "--samples", "6", "--batch-size", "6", "--out", "run"]
ROWS = [("id", "successes", "n"), ("a", "90", "100"), ("b", "100", "100"), ("c", "0", "100")]
LINES = [{"id": "a", "successes": 90, "n": 100}, {"id": "b", "successes": 100, "n": 100}]
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIG = {
    "model_type": "llava_onevision",
    "architectures": ["LlavaOnevisionForConditionalGeneration"],
    "image_token_id": 3,
    "image_grid_pinpoints": [[28, 28], [28, 56]],
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
    "projector_hidden_act": "gelu",
    "text_config": {"model_type": "qwen2", "vocab_size": 384, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, **TOWER},
    "vision_config": {"model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14, **TOWER},
}
PICTURES = {
    "image_processor_type": "LlavaOnevisionImageProcessor",
    "size": {"height": 28, "width": 28},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "image_grid_pinpoints": [[28, 28], [28, 56]],
    "do_rescale": True,
}
ARRAYS = {
    "tokens": np.arange(15).reshape(3, 5) % 8,
    "images": np.linspace(0, 1, 3 * 4 * 6).reshape(3, 4, 6, 1),
    "eligible": np.ones((3, 5), bool),
    "ids": np.array(["a", "b", "c"]),
}
REPLY = {
    "model": "m",
    "choices": [
        {
            "message": {"role": "assistant", "content": "Safe"},
            "logprobs": {"content": [{"token": "Safe", "logprob": -0.1, "top_logprobs": [
                {"token": "Safe", "logprob": -0.1}, {"token": "Unsafe", "logprob": -3.0}]}]},
        }
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 1},
}  # fmt: skip
SMOOTHING = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 8), 0.5)
MODEL = """
from chat_server import MODEL, POLICY, decode
from hybrid_rs_jax.classifiers import ChatClassifier, HostClassifier

plain = HostClassifier(lambda tokens, images: tokens[:, 0] % 2 == 0)
chat = ChatClassifier({url!r}, MODEL, decode=decode, policy=POLICY, attempts=1, api_key="sk-nobody", concurrency=1)
"""


class Room:
    """The good files that are spoilt, and a server that gives a spoilt answer."""

    def __init__(self, server):
        self.server, self.model = server, f"fuzz_model_{server.server.server_port}"
        Path(f"{self.model}.py").write_text(MODEL.format(url=server.url))
        Path("counts.csv").write_text("\n".join(map(",".join, ROWS)))
        record = run_record(
            SMOOTHING, samples=100, seed=0, eligible=[1, 2], sigma_unit="pixels", dtype="float32",
            classifier={"name": "guard"}, data={"name": "data"},
        )  # fmt: skip
        Path("record").mkdir()
        write_run(Path("record"), record, [("a", 90, 100), ("b", 100, 100)])
        self.record, self.counts = (
            json.loads(Path("record/run.json").read_text()),
            Path("record/counts.csv").read_bytes(),
        )
        assert main(["certify", "counts.csv", *NOISE, "--out", "certificates.json"]) == 0
        self.certificates = json.loads(Path("certificates.json").read_text())

    def table(self, rng):
        Path("x.csv").write_bytes(mutated_cells(rng, ROWS))
        return ["certify", "x.csv", *NOISE, *(["--out", "out.csv"] if rng.random() < 0.5 else [])]

    def lines(self, rng):
        lines = [mutated_json(rng, line) if rng.random() < 0.6 else json.dumps(line).encode() for line in LINES]
        Path("x.jsonl").write_bytes(b"\n".join(lines))
        return ["certify", "x.jsonl", *NOISE, *(["--json"] if rng.random() < 0.5 else ["--out", "out.json"])]

    def run(self, rng):
        Path("x").mkdir()
        Path("x/run.json").write_bytes(mutated_json(rng, self.record))
        Path("x/counts.csv").write_bytes(mutated_bytes(rng, self.counts) if rng.random() < 0.2 else self.counts)
        return [["certify", "x"], ["report", "x", "--out", "x.html"]][rng.integers(2)] + ["--tau", "0.1"]

    def result(self, rng):
        Path("x.json").write_bytes(mutated_json(rng, self.certificates))
        return [["report", "x.json"], ["plot", "x.json"]][int(rng.random() < 0.2)]

    def archive(self, rng):
        Path("x.npz").write_bytes(mutated_arrays(rng, ARRAYS))
        return ["sample", "--model", f"{self.model}:plain", "--data", "x.npz", *DRAWS]

    def config(self, rng):
        Path("guard").mkdir()
        which = rng.integers(3)
        Path("guard/config.json").write_bytes(mutated_json(rng, CONFIG) if which else json.dumps(CONFIG).encode())
        pictures = mutated_json(rng, PICTURES) if which == 0 else json.dumps(PICTURES).encode()
        Path("guard/preprocessor_config.json").write_bytes(pictures)
        return ["doctor", "--model", "guard"]

    def reply(self, rng):
        self.server.faults = [{"body": mutated_json(rng, REPLY)}] * 6
        np.savez("one.npz", **{name: array[:1] for name, array in ARRAYS.items()})
        return ["sample", "--model", f"{self.model}:chat", "--data", "one.npz", *DRAWS]


KINDS = ("table", "lines", "run", "result", "archive", "config", "reply")
FAST, ALL = 60, 500


CASES = [
    pytest.param(place // len(KINDS), KINDS[place % len(KINDS)], marks=[pytest.mark.slow] if place >= FAST else [])
    for place in range(ALL)
]


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """One room for all cases, left when they are done."""
    pytest.importorskip("openai")
    pytest.importorskip("tenacity")
    from chat_server import ChatServer

    folder, server = tmp_path_factory.mktemp("fuzz"), ChatServer()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        room = Room(server)
        yield room
        if room.model in sys.modules:
            sys.modules[room.model].chat.close()
    server.close()


@pytest.mark.parametrize(("seed", "kind"), CASES)
def test_a_spoilt_file_is_done_or_one_sentence(room, tmp_path, monkeypatch, capsys, seed, kind):
    monkeypatch.chdir(tmp_path)
    argv = getattr(room, kind)(np.random.default_rng([seed, KINDS.index(kind)]))
    capsys.readouterr()
    status = main(argv)
    err = capsys.readouterr().err
    assert "fault of hybrid-rs" not in err, err
    assert status in (0, 2), err
    if status == 2:
        sentences = [line for line in err.splitlines() if line.startswith("hybrid-rs: error: ")]
        assert len(sentences) == 1, err
        assert sentences[0].endswith("."), err
        assert len(sentences[0]) < 2000, f"{len(sentences[0])} letters: {sentences[0][:300]}"
    assert "Traceback" not in err
