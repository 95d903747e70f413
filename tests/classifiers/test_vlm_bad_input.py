"""What is wrong with a checkpoint or with settings is said in one sentence, before or while a guard is built."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from vlm_checkpoint import IMAGE, LLAVA_TEMPLATE, ONEVISION_TEMPLATE, POLICY, SIDE, make_checkpoint

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
        ({"dtype": "wide"}, r"^dtype must be float32 or bfloat16, got 'wide'\.$"),
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


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"Rate {text} and {text}", r"^The policy twice\.txt must hold \{text\} at most once, got 2 times\.$"),
        (b"Rate \xff", r"twice\.txt is not a text file in UTF-8: byte 5 is not legal\.$"),
    ],
)
def test_a_policy_of_a_file_is_read_before_the_weights(content, sentence, checkpoint, tmp_path):
    (tmp_path / "twice.txt").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        VlmGuard.from_pretrained(checkpoint, policy=tmp_path / "twice.txt")


REWRITING = ONEVISION_TEMPLATE.replace("part['text']", "part['text'] | replace('Rate', 'rate')")


@pytest.mark.parametrize(
    ("template", "image_token", "sentence"),
    [
        (
            REWRITING,
            IMAGE,
            r"^The chat template changes the text of the policy; template must be 'checkpoint' for it\.$",
        ),
        (
            LLAVA_TEMPLATE,
            "Ġthe",
            r"^The prompt must hold the picture's placeholder 'Ġthe' as one token with id \d+, got 2 of them\.$",
        ),
    ],
)
def test_a_template_in_which_the_parts_are_not_found_again_is_refused(
    template, image_token, sentence, checkpoint, policy, tmp_path
):
    folder = tmp_path / "other"
    shutil.copytree(checkpoint, folder)
    (folder / "chat_template.jinja").write_text(template)
    config = json.loads((folder / "config.json").read_text())
    vocabulary = {IMAGE: 3, **json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]}
    for name in {"image_token_index", "image_token_id"} & set(config):
        config[name] = vocabulary[image_token]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=sentence):
        VlmGuard.from_pretrained(folder, policy=policy, template="policy_first")


def test_a_guard_that_generates_has_no_margin_and_one_of_base_views_no_tower(checkpoint, policy):
    generates = VlmGuard.from_pretrained(checkpoint, policy=policy, text_length=4, decision="generate")
    pair = np.zeros((1, 4), np.int32), np.zeros((1, SIDE, SIDE, 3), np.float32)
    with pytest.raises(ValueError, match=r"^decision must be logit_mass for a margin, got generate\.$"):
        generates.margin(*pair)
    with pytest.raises(ValueError, match=r"^decision must be logit_mass for a function of the margin, got generate\.$"):
        generates.functional()
    base = VlmGuard.from_pretrained(checkpoint, policy=policy, text_length=4, views="base")
    with pytest.raises(ValueError, match=r"^views must be checkpoint for a tower that is smoothed, got base\.$"):
        base.tower()
