import subprocess
import sys

CALLS = ("search", "study", "retrain", "predict", "score", "plan", "evaluate", "export", "report")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_calls_are_functions_whatever_was_imported_before_and_what_trains_and_predicts_needs_no_ray() -> None:
    code = (
        "import sys, petlas.search.study, petlas.search.plan, petlas.search.predict\n"
        "import petlas.search.evaluate, petlas.search.export, petlas.search.stages.training_run\n"
        "print('ray' in sys.modules)\n"
        "from petlas import search\n"
        f"print(all(type(getattr(search, name)).__name__ == 'function' for name in {CALLS}))"
    )
    assert run(code).split() == ["False", "True"]


def test_the_package_lists_its_names_and_comes_without_torch_and_ray() -> None:
    code = (
        "import sys, petlas.search as search\n"
        f"print(set({CALLS}) <= set(dir(search)), 'torch' in sys.modules, 'ray' in sys.modules)"
    )
    assert run(code) == "True False False"


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert run("import petlas.search as s\ntry: s.nothing\nexcept AttributeError as e: print(e)").endswith("'nothing'")
