"""What is wrong with a checkpoint or with settings is said in one sentence, before or while a guard is built."""

import dataclasses
import shutil

import pytest
from vlm_checkpoint import POLICY, make_checkpoint

from hybrid_rs_jax.classifiers import VlmGuard


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    make_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "short.txt"
    path.write_text(POLICY)
    return path


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"template": "other"}, r"^template must be checkpoint or policy_first, got 'other'\.$"),
        ({"decision": "vote"}, r"^decision must be logit_mass or generate, got 'vote'\.$"),
        ({"threat": "typos"}, r"^threat must be suffix or l0, got 'typos'\.$"),
        ({"text_length": -1}, r"^text_length must be an integer in 0\.\.1048576, got -1\.$"),
        ({"image_size": (0, 5)}, r"^image_size must be a height and a width in 1\.\."),
        ({"dtype": "half"}, r"^dtype must be float32 or bfloat16, got '(float16|half)'\.$"),
        ({"dtype": "float16"}, r"^dtype must be float32 or bfloat16, got 'float16'\.$"),
        (
            {"policy": "nowhere.txt"},
            r"^policy must be combination, text_only, image_only, plain or a text file, got 'nowhere",
        ),
        ({"labels": ("Safe", "Safe")}, r"^labels must differ, but the token 'Safe' is a spelling of both\.$"),
        (
            {"labels": ("Safe", "Safely"), "answer": "{label}"},
            r"one token of the checkpoint, got 'Safely' as 'Safe' \+ .*: with 'Safe' 'Safe' and other words",
        ),
        ({"labels": ("UNSAFE", "Safe")}, r"must be one token of the checkpoint, got 'UNSAFE' as 'U' \+ 'N' \+ "),
        ({"labels": ("Unsafe", "Safe", "Other")}, r"^labels must be two words"),
        ({"labels": ("Unsafe", "\ud800")}, r"^labels must be two words"),
        ({"answer": "\ud800{label}"}, r"^answer must hold"),
        ({"policy": "a" * 5000}, r"^policy must be"),
        ({"policy": "a\0b"}, r"^policy must be"),
        ({"attention": "flash"}, r"^attention must be auto or xla or cudnn, got 'flash'\.$"),
        ({"answer": "Unsafe"}, r"^answer must hold \{label\} exactly once"),
        ({"alphabet": [5, 5]}, r"^alphabet must hold each token once, got 5 twice\.$"),
        ({"alphabet": [500]}, r"^alphabet must hold token ids in 0\.\.383, got 500\.$"),
        ({"alphabet": []}, r"^alphabet must hold at least one token, got none\.$"),
        ({"text_length": 5000}, r"^The prompt takes up to \d+ positions, more than the 4096"),
    ],
)
def test_settings_out_of_range_are_named(change, sentence, checkpoint, policy):
    with pytest.raises(ValueError, match=sentence):
        VlmGuard.from_pretrained(checkpoint, **{"policy": policy, **change})


@dataclasses.dataclass
class Damage:
    name: str
    content: str | None


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (Damage("tokenizer.json", None), r"holds no tokenizer: expected tokenizer\.json"),
        (Damage("tokenizer.json", "{"), r"^The tokenizer in .* cannot be read: "),
        (Damage("config.json", None), r"holds no config\.json\.$"),
        (
            Damage("config.json", '{"model_type": "qwen2"}'),
            r"^model_type must be one of llava_onevision, llava_next, .*, got 'qwen2'",
        ),
        (Damage("preprocessor_config.json", None), r"preprocessor_config\.json"),
        (Damage("chat_template.jinja", None), r"holds no chat template"),
        (Damage("chat_template.jinja", "{{ messages[0].content[1].text }}"), r"cannot show one picture and one text"),
        (Damage("chat_template.jinja", "{{ nothing.at.all }}"), r"cannot show one picture and one text .*undefined"),
        (Damage("model.safetensors", "short"), r"cut off"),
    ],
)
def test_a_damaged_checkpoint_is_named(damage, sentence, checkpoint, policy, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(checkpoint, folder)
    if damage.content is None:
        (folder / damage.name).unlink()
    else:
        (folder / damage.name).write_text(damage.content)
    with pytest.raises(ValueError, match=sentence):
        VlmGuard.from_pretrained(folder, policy=policy)
