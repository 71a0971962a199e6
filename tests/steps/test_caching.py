import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from comments import commented
from zenml.utils import source_utils

from llm_engineering.config.metrics import METRICS
from llm_engineering.errors import ConfigError
from steps.load_datasets import load_datasets
from steps.runtime import caching
from steps.runtime.caching import (
    PACKAGES,
    checker_hash,
    code_dependencies,
    package_versions,
    package_versions_with_backend,
    with_code_dependencies,
)
from steps.runtime.meaning import meaning_of

MODULES = sorted(path for room in ("llm_engineering", "steps") for path in (caching.REPOSITORY / room).rglob("*.py"))
STEPS = sorted(path.stem for path in (caching.REPOSITORY / "steps").glob("[a-z]*.py"))
Edit = Callable[[str, Callable[[str], str]], set[str]]


def keys() -> dict[str, str]:
    return {step: getattr(caching, step)() for step in STEPS}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for room in ("llm_engineering", "steps"):
        left_out = shutil.ignore_patterns("base", "__pycache__")
        shutil.copytree(caching.REPOSITORY / room, folder / room, ignore=left_out)
    return folder


@pytest.fixture
def edit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """Return a function that edits a file of a copied checkout, and gives the steps whose cache keys that changes."""
    monkeypatch.setattr(caching, "REPOSITORY", checkout)

    def edit_file(name: str, change: Callable[[str], str]) -> set[str]:
        before, plain = keys(), (checkout / name).read_text()
        (checkout / name).write_text(change(plain))
        after = keys()
        (checkout / name).write_text(plain)
        return {step for step in STEPS if before[step] != after[step]}

    return edit_file


def another_line(source: str) -> str:
    return f"{source}\nANOTHER = 1\n"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(caching.REPOSITORY).as_posix())
def test_a_comment_and_a_docstring_in_every_function_and_class_change_no_meaning(module: Path) -> None:
    source = module.read_text()
    told = commented(source)
    assert told != source
    assert meaning_of(told.encode()) == meaning_of(source.encode())


def test_the_layout_of_code_means_nothing() -> None:
    one = b"def f(a, b=1):\n    return [a, b, 'cd']\n"
    same = b"def f(\n  a,\n  b=1,\n):\n\n  return [\n    a, (b),\n    'c' \"d\",\n  ]"
    assert meaning_of(one) == meaning_of(same)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = 1", "x = 2"),
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 'a'", "x = b'a'"),
        ("f(None)", "f()"),
        ("f(a, b)", "f(b, a)"),
        ("x: int", "x: str"),
        ("{None: 1}", "{**1}"),
        ("f'{x}'", "f'{x!r}'"),
        ("f'{x:>{n}}'", "f'{x:<{n}}'"),
        ("def f(a, /): g()", "def f(a): g()"),
        ("x = 'said'", "'said'"),
    ],
)
def test_what_code_does_is_what_it_means(before: str, after: str) -> None:
    assert meaning_of(before.encode()) != meaning_of(after.encode())


def test_every_python_finds_the_same_meaning() -> None:
    source = r'''
"""Doc."""
from . import d
@decorated(1, *a, **k)
async def f(x: int = 1, /, *y, z: "str" = None, w=None, **v) -> None:
    """Doc."""
    async with a() as b, c:
        await g(f"a{x!r:>{w}}b" "c" f"{x=}" rf"\n{y:%Y-%m}" u"é\u2028" f"{{}}" f"{z:}")
    async for i in h: yield {**i, "k": [*i], b"b": 1.5e-7j, ...: -1}
    return
class C(A, metaclass=M):
    x: int = 1
    """Attribute."""
    def g(self): "only a docstring"
match p:
    case {"a": [1, *rest], **others} if (n := len(rest)) > 1: pass
    case C(x=1) | None | -1.5: ...
    case _ as q: del q
try:
    lambda *a, b=1: (a for a in b if a)
except* (E, F) as e:
    raise G from e
finally:
    x[1:2, ..., ::3] += y @ z
'''
    # found alike by Python 3.11.7, 3.12.1 and 3.13.0
    assert meaning_of(source.encode()) == "3e51f6e6596f4bfff0c3ecb8dbd0403899974fd7473a9c82050ed645fb2b9ffe"


def test_a_step_depends_on_what_it_imports_through_others() -> None:
    files = code_dependencies("steps.train_sft")
    assert "steps/train_sft.py" in files
    assert "llm_engineering/training/sft_trainer.py" in files  # imported inside a function
    assert "llm_engineering/models/generation.py" in files  # imported by scoring/answers.py
    assert "llm_engineering/models/templates/chatml.jinja" in files


def test_a_step_does_not_depend_on_what_it_does_not_use() -> None:
    files = code_dependencies("steps.load_datasets")
    assert "llm_engineering/data/sources.py" in files
    assert not [file for file in files if file.startswith(("llm_engineering/training", "llm_engineering/reporting"))]


def test_another_metric_trains_nothing_anew() -> None:
    table = {"llm_engineering/config/metrics.py", "llm_engineering/scoring/texts.py"}
    assert not table & {*code_dependencies("steps.train_sft"), *code_dependencies("steps.train_dpo")}


def test_a_step_that_measures_depends_on_the_functions_that_metrics_name() -> None:
    files = code_dependencies("steps.evaluate")
    modules = {row.function.partition(":")[0] for row in METRICS.values() if row.takes}
    assert {f"{module.replace('.', '/')}.py" for module in modules} <= {*files}


def test_edited_code_changes_the_keys_of_the_steps_that_use_it_and_of_no_others(edit: Edit) -> None:
    assert edit("llm_engineering/data/near_duplicates.py", another_line) == {"format_datasets"}
    assert edit("steps/judge.py", another_line) == {"judge"}
    assert {"train_sft", "train_dpo", "evaluate"} <= edit("llm_engineering/models/generation.py", another_line)
    assert edit("llm_engineering/models/generation.py", commented) == set()


@pytest.mark.parametrize(
    "module",
    [
        "llm_engineering/config/dpo.py",
        "llm_engineering/training/dpo.py",
        "llm_engineering/training/dpo_arguments.py",
        "llm_engineering/training/dpo_probes.py",
        "llm_engineering/training/dpo_trainer.py",
        "llm_engineering/training/dpo_watch.py",
        "llm_engineering/training/reference.py",
        "llm_engineering/scoring/likelihood.py",
        "steps/train_dpo.py",
    ],
)
def test_an_edit_of_what_dpo_uses_and_sft_does_not_trains_dpo_alone(module: str, edit: Edit) -> None:
    changed = edit(module, another_line)
    assert "train_dpo" in changed
    assert not changed & {"load_datasets", "format_datasets", "train_sft", "merge"}


@pytest.mark.parametrize(
    "module",
    [
        "llm_engineering/config/sft.py",
        "llm_engineering/training/sft.py",
        "llm_engineering/training/sft_trainer.py",
        "steps/train_sft.py",
    ],
)
def test_an_edit_of_what_sft_alone_uses_trains_sft_alone(module: str, edit: Edit) -> None:
    changed = edit(module, another_line)
    assert "train_sft" in changed
    assert not changed & {"load_datasets", "format_datasets", "train_dpo", "merge", "evaluate"}


@pytest.mark.parametrize(
    "module", ["llm_engineering/training/watch.py", "llm_engineering/training/stage.py", "steps/runtime/stages.py"]
)
def test_an_edit_of_what_both_stages_use_trains_both(module: str, edit: Edit) -> None:
    assert {"train_sft", "train_dpo"} <= edit(module, another_line)


@pytest.mark.parametrize(
    "module",
    ["llm_engineering/errors.py", "llm_engineering/tracking/comet.py", "steps/runtime/stores.py"],
)
def test_an_edit_of_what_shapes_no_result_changes_no_key(module: str, edit: Edit) -> None:
    assert edit(module, another_line) == set()


def test_sft_is_trained_anew_for_few_modules() -> None:
    modules = [file for file in code_dependencies("steps.train_sft") if file.endswith(".py")]
    assert len(modules) <= 51, modules


def test_an_edited_template_changes_the_keys_of_the_steps_that_use_it_and_of_no_others(edit: Edit) -> None:
    changed = edit("llm_engineering/models/templates/chatml.jinja", another_line)
    assert {"format_datasets", "train_sft", "merge", "evaluate"} <= changed
    assert not changed & {"load_datasets", "preview_data", "gather_evidence"}


def test_another_version_of_a_package_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = caching.train_sft()
    monkeypatch.setattr(caching, "version", lambda name: "9.9")
    assert caching.train_sft() != before


def test_a_key_is_asked_of_steps_alone() -> None:
    with pytest.raises(AttributeError, match="no_such_step"):
        caching.no_such_step()


def test_package_versions_name_what_computes() -> None:
    assert {pair.split("=")[0] for pair in package_versions().split()} >= {"torch", "transformers", "trl", "peft"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what ZenML imports
def test_package_versions_name_a_backend_that_was_imported_where_the_run_was_submitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source_utils.set_custom_source_root(str(caching.REPOSITORY))
    monkeypatch.setattr(caching, "BACKEND_PACKAGES", ("pytest", "no_such_package"))
    policy = with_code_dependencies(load_datasets).configuration.cache_policy
    assert policy.cache_func is not None
    assert policy.cache_func.attribute == "patched_load_datasets"
    assert source_utils.load(policy.cache_func)().startswith(package_versions_with_backend())
    assert package_versions_with_backend() == f"{package_versions()} pytest={pytest.__version__}"


def test_builds_of_one_version_have_one_cache_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "version", lambda name: "2.13.0+cpu")
    assert set(package_versions().split()) == {f"{name}=2.13.0" for name in PACKAGES}


def test_the_hash_of_a_checker_follows_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "own_checker.py"
    module.write_text("def judge(answer, reference): ...\n")
    before = checker_hash("own_checker:judge")
    module.write_text("def judge(answer, reference): return None\n")
    assert checker_hash("own_checker:judge") != before
    module.write_text("def judge(answer, reference):\n    ...  # as at first\n")
    assert checker_hash("own_checker:judge") == before
    assert checker_hash(None) == checker_hash("exact") == ""


def test_a_checker_whose_module_is_no_python_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "torn_checker.py").write_text("def judge(:\n")
    with pytest.raises(ConfigError, match=r"'torn_checker:judge' cannot be read: .*line 1"):
        checker_hash("torn_checker:judge")


def test_a_checker_that_is_nowhere_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'no_such_module:judge' cannot be found"):
        checker_hash("no_such_module:judge")
