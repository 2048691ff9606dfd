"""What is found in repositories as people have them, without a line of theirs changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.build import defaults
from tandem.build.recipe import read_recipe
from tandem.errors import RecipeError

FLASK = "from flask import Flask\napp = Flask(__name__)\n"
FACTORY = "from flask import Flask\ndef create_app(config=None):\n    return Flask(__name__)\n"


def repository(folder: Path, **files: str) -> Path:
    """A checkout; `__` in a name stands for a slash, a name without a dot ends in .py."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        if "." not in path.name and path.name not in ("Procfile",):
            path = path.with_name(f"{path.name}.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"app": FLASK}, "app:app"),
        ({"wsgi": "from shop import create_app\napplication = create_app()\n"}, "wsgi:application"),
        ({"app__app": FLASK}, "app.app:app"),
        ({"src__app": FLASK}, "src.app:app"),
        ({"predict_service": FLASK.replace("app =", "server =")}, "predict_service:server"),
        ({"shop__init": "", "shop__views": "", "factory": FACTORY}, "factory:create_app()"),
        (
            {"helpers": "x = 1\n", "run": "from a import create_app\napp = create_app()\n"},
            "run:app",
        ),
        ({"tests__conftest": FLASK, "main": FLASK}, "main:app"),
    ],
)
def test_the_flask_object_is_found_where_people_put_it(
    tmp_path: Path, files: dict[str, str], expected: str
) -> None:
    found = defaults.flask_object(repository(tmp_path, **files))
    assert found is not None
    assert found.value == expected


def test_a_package_with_the_factory_in_its_init_is_found(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text(FACTORY)
    found = defaults.flask_object(tmp_path)
    assert found is not None
    assert found.value == "shop:create_app()"


def test_the_module_that_flaskenv_names_comes_first(tmp_path: Path) -> None:
    repository(tmp_path, app=FLASK, other=FLASK)
    (tmp_path / ".flaskenv").write_text("FLASK_APP=other.py\n")
    found = defaults.flask_object(tmp_path)
    assert found is not None
    assert found.value == "other:app"


def test_a_file_that_is_no_python_is_passed_over(tmp_path: Path) -> None:
    found = defaults.flask_object(repository(tmp_path, app="print 'old'\n", main=FLASK))
    assert found is not None
    assert found.value == "main:app"


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("web: gunicorn app:app", "python3 -m gunicorn app:app"),
        ("web:flask run --port $PORT\n", "python3 -m flask run --port $PORT"),
        ("worker: rq worker\nweb: python serve.py", "python3 serve.py"),
    ],
)
def test_a_procfile_says_how_the_app_is_started(tmp_path: Path, line: str, command: str) -> None:
    found = defaults.command(repository(tmp_path, Procfile=line))
    assert found is not None
    assert (found.value, found.source) == (command, "Procfile")


def test_an_app_without_a_server_is_given_one(tmp_path: Path) -> None:
    repository(
        tmp_path, app=FLASK, **{"requirements.txt": "flask\n", "test_app": "def test(): pass\n"}
    )
    recipe = read_recipe(tmp_path, "shop")
    assert recipe.needs == ["granian"]
    assert recipe.command[:2] == ["sh", "-c"]
    assert recipe.command[2].endswith("app:app")
    assert recipe.lock == "requirements.txt"
    assert recipe.test == ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    assert set(recipe.guessed) == {"paths", "lock", "command", "test", "test-lock", "extension"}


def test_an_app_that_brings_gunicorn_is_served_by_it(tmp_path: Path) -> None:
    repository(tmp_path, app=FACTORY, **{"requirements.txt": "Flask==3.0\ngunicorn==22\n"})
    found = defaults.command(tmp_path)
    assert found is not None
    assert "python3 -m gunicorn" in found.value
    assert found.value.endswith("'app:create_app()'")
    assert found.needs == ()


def test_tests_that_bare_pytest_does_not_find_are_named(tmp_path: Path) -> None:
    found = defaults.test_command(repository(tmp_path, tests="def test_it(): pass\n"))
    assert found is not None
    assert found.value[-1] == "tests.py"


def test_all_is_packed_but_tests_hidden_files_and_what_dockerignore_names(tmp_path: Path) -> None:
    repository(
        tmp_path,
        app=FLASK,
        templates__index="",
        test_app="",
        tests__test_more="",
        **{
            "notes__plan.md": "",
            ".gitignore": "x",
            "model__weights.bin": "",
            ".dockerignore": "notes\n",
        },
    )
    found = defaults.packed_paths(tmp_path)
    assert found is not None
    assert found.value == ["app.py", "model/weights.bin", "templates/index.py"]


def test_a_repository_without_tests_has_to_say_so(tmp_path: Path) -> None:
    repository(tmp_path, app=FLASK, **{"requirements.txt": "flask\n"})
    with pytest.raises(RecipeError, match=r"no tests were found; .* tests = false"):
        read_recipe(tmp_path, "shop")
    (tmp_path / "pyproject.toml").write_text("[tool.tandem.app]\ntests = false\n")
    assert not read_recipe(tmp_path, "shop").tests


def test_what_cannot_be_guessed_is_named_with_its_line(tmp_path: Path) -> None:
    repository(tmp_path, serve="print('hello')\n", **{"requirements.txt": "flask\n"})
    with pytest.raises(RecipeError, match=r"neither a Procfile .* say command = …"):
        read_recipe(tmp_path, "shop")


def test_a_script_that_imports_its_neighbours_gets_its_folder_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "app.py").write_text(f"import classify\n{FLASK}")
    (tmp_path / "app" / "classify.py").touch()
    (tmp_path / "requirements.txt").write_text("flask\ngunicorn\n")
    found = defaults.command(tmp_path)
    assert found is not None
    assert found.value.startswith('env PYTHONPATH=app:"$PYTHONPATH" python3 -m gunicorn ')
    assert found.value.endswith(" app:app")


def test_an_app_with_the_extension_is_served_by_its_server(tmp_path: Path) -> None:
    repository(tmp_path, main=FACTORY, **{"requirements.txt": "tandem-release[serving]\n"})
    found = defaults.command(tmp_path)
    assert found is not None
    assert found.value == "python3 -m tandem.serving 'main:create_app()'"
    assert found.needs == ()
