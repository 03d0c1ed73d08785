"""`environment.yml` gives conda users what `pyproject.toml` gives all others; the oracle is pip itself."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
EDITABLE = "--editable ."


def conda_packages() -> list[str]:
    """The packages that conda itself installs."""
    declared = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    return [entry for entry in declared["dependencies"] if isinstance(entry, str)]


def pip_section() -> list[str]:
    """The requirements that conda hands to pip."""
    declared = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (section,) = [entry["pip"] for entry in declared["dependencies"] if isinstance(entry, dict)]
    return list(section)


def project() -> dict[str, object]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def network_is_missing(output: str) -> bool:
    """Whether an installer could not reach the index, by the front door's own rule."""
    specification = importlib.util.spec_from_file_location("course_front_door", ROOT / "course.py")
    assert specification is not None and specification.loader is not None
    course = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(course)
    return bool(course.NO_NETWORK.search(output))


def test_pip_section_equals_the_dependencies_of_the_project() -> None:
    *requirements, editable = pip_section()
    assert editable == EDITABLE
    assert requirements == project()["dependencies"]


def test_conda_uses_only_conda_forge_and_a_python_that_the_project_accepts() -> None:
    declared = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert declared["channels"] == ["conda-forge", "nodefaults"]
    python, pip = conda_packages()
    version = python.removeprefix("python=")
    assert SpecifierSet(str(project()["requires-python"])).contains(f"{version}.0")
    assert pip == "pip"


def test_torch_is_pinned_exactly_so_that_no_newer_build_brings_gigabytes() -> None:
    (torch,) = [Requirement(line) for line in pip_section()[:-1] if line.startswith("torch")]
    (specifier,) = torch.specifier
    assert specifier.operator == "==" and "*" not in specifier.version


@pytest.mark.slow
def test_pip_resolves_the_pip_section(tmp_path: Path) -> None:
    listed = tmp_path / "requirements.txt"
    listed.write_text("\n".join(pip_section()) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--requirement", str(listed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    output = done.stdout + done.stderr
    if done.returncode != 0 and network_is_missing(output) and not os.environ.get("CI"):
        warnings.warn("The package index cannot be reached: environment.yml was not resolved.", stacklevel=1)
        return
    assert done.returncode == 0, output[-3000:]
    assert "Would install" in done.stdout and "torch-2" in done.stdout
