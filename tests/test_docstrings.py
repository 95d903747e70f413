"""Every public function says its arguments, its result, its errors, and shows an example; a class says its fields.

The examples themselves are run by `make doctest`. What is left out is listed here, with the reason.
"""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import textwrap

import pytest

import hybrid_rs_jax as hrs

PACKAGE = hrs.__name__
FILES = ("certificate.core", "errors", "results.operation")
CLOSED = ("cli", "report", "sampling.ledger")

_FOLDER = "needs the folder of a data set or a checkpoint, which its tests build"
_PROTOCOL = "a protocol: what an object of the user's must have"
_ERROR = "an error"
_RESULT = "made by a function, whose example shows it"
_NETWORK = "a network or its sizes: made by from_config or from_pretrained"
#: Names without an example.
WITHOUT_EXAMPLE = {
    _FOLDER: "curate from_pretrained load_preprocessor mm_safetybench sample_run attack_features load_denoiser",
    "needs a checkpoint": "VlmGuard TowerEncoder GuardSettings GuardTower SmoothedTower",
    _PROTOCOL: "BaseClassifier DiscreteKernel SamplingPlan Encoder Inputs Tokenizer DifferentiableGuard",
    _ERROR: "ChatError LedgerError MissingColumnError InterruptedRun BadInputError UnreadableInputError",
    _RESULT: (
        "Certificate ClassCertificate Draws FeatureCertificate FrontierTable PrototypeCertificate Decisions Result Row "
        "Statement LowerBound UpperBound PlanSummary Verdict ScoreLaw Counts AttackResult Judgement Operation "
        "OperatingPoint Curation Outcome Progress ChatStatistics Reply ImagePlan PrefixCache Dataset DemoInputs Input "
        "RawInput ArrayInputs TextInputs Bytes"
    ),
    "settings: every field has a default": "AttackSettings FeatureAttackSettings TargetedSettings",
    "needs an encoder with gradients, or what one was trained for": (
        "attack_towards TargetedResult GuardEncoder MapperConfig MapperNetwork load_mapper save_mapper"
    ),
    "wraps a network; the example of `attack` uses it": "TableGuard",
    "needs a file that the test builds": "OnnxClassifier",
    "see the README and the notebooks": "DemoGuard DemoEncoder",
    _NETWORK: (
        "DecoderConfig DemoGuardConfig DemoGuardNetwork Denoiser Gemma3 Llava LlavaNext LlavaOnevision "
        "LlavaOnevisionConfig Projector Qwen25VL VisionConfig VisionLanguageConfig VisionLanguageModel Diffusion "
        "Preconditioned UNet UNetConfig"
    ),
}
EXEMPT = {name for names in WITHOUT_EXAMPLE.values() for name in names.split()}


def public():
    """Functions and classes by their names, each once."""
    folders = (info.name for info in pkgutil.walk_packages(hrs.__path__, f"{PACKAGE}.") if info.ispkg)
    rooms = [name for name in folders if not name.removeprefix(f"{PACKAGE}.").startswith(CLOSED)]
    modules = [hrs, *map(importlib.import_module, [*rooms, *(f"{PACKAGE}.{name}" for name in FILES)])]
    found = {}
    for module in modules:
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(inspect.unwrap(value)):
                found.setdefault(id(value), (name, value))
    return [found[key] for key in found]


NAMES = public()


def short(value):
    return value if isinstance(value, str) else ""


def parts(value):
    lines = (inspect.getdoc(value) or "").splitlines()
    return {line.strip().removesuffix(":") for line in lines if line.strip().endswith(":")} | {
        "example" for line in lines if line.startswith(">>>")
    }


def raises(function):
    """Whether its own lines raise an error, or call a check that does."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    names = [getattr(call, "id", getattr(call, "attr", "")) for call in calls]
    return any(isinstance(node, ast.Raise) for node in ast.walk(tree)) or any(
        name.lstrip("_").startswith("check_") for name in names
    )


def test_there_are_many():
    assert len(NAMES) > 140
    assert {name for name, _ in NAMES} >= EXEMPT, "exempt is what exists"


@pytest.mark.parametrize(("name", "function"), [pair for pair in NAMES if not inspect.isclass(pair[1])], ids=short)
def test_a_function_says_arguments_result_and_errors_and_shows_an_example(name, function):
    function, said = inspect.unwrap(function), parts(function)
    signature = inspect.signature(function)
    wanted = {"Args"} if signature.parameters else set()
    wanted |= set() if signature.return_annotation in (None, "None", type(None)) else {"Returns"}
    wanted |= {"Raises"} if raises(function) else set()
    wanted |= set() if name in EXEMPT else {"example"}
    assert wanted - said == set()


@pytest.mark.parametrize(("name", "kind"), [pair for pair in NAMES if inspect.isclass(pair[1])], ids=short)
def test_a_class_says_what_it_holds_and_shows_an_example(name, kind):
    said = parts(kind)
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    assert inspect.getdoc(kind)
    if fields:
        assert said & {"Attributes", "Args"}, "fields without a word"
    assert name in EXEMPT or "example" in said
