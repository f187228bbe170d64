"""A wheel of what is installed: complete, the same every time, and pip takes it."""

import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

import nacre
from nacre.errors import UnavailableError
from nacre.lib import wheels

ROOT = Path(nacre.__file__).parent


def test_it_has_every_file_of_the_package_and_no_others():
    wheel = wheels.build("nacre")
    names = zipfile.ZipFile(BytesIO(wheel.content)).namelist()
    here = {
        f"nacre/{path.relative_to(ROOT)}"
        for path in ROOT.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    info = f"nacre-{wheel.file_name.split('-')[1]}.dist-info"
    about = {name for name in names if name.startswith(f"{info}/")}
    assert {*names} - about == here
    assert {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")} <= about
    assert "nacre/control/api/install.sh" in names


def test_it_is_the_same_every_time():
    assert wheels.build("nacre").sha256 == wheels.build("nacre").sha256


def test_its_record_is_right(tmp_path):
    wheel = wheels.build("nacre")
    file = tmp_path / wheel.file_name
    file.write_bytes(wheel.content)
    argv = [sys.executable, "-m", "venv", "--system-site-packages", str(tmp_path / "venv")]
    subprocess.run(argv, check=True, timeout=120)
    pip = [str(tmp_path / "venv/bin/python"), "-m", "pip", "-q", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*pip, "install", "--no-deps", str(file)], check=True, timeout=120)
    code = "import nacre, importlib.metadata as m; print(nacre.__file__); print(m.requires('nacre'))"
    done = subprocess.run(
        [str(tmp_path / "venv/bin/python"), "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    place, requires = done.stdout.splitlines()
    assert place.startswith(str(tmp_path / "venv"))
    assert "msgspec" in requires
    assert (tmp_path / "venv/bin/nacre-agent").exists()


def test_what_is_not_installed_cannot_be_had():
    with pytest.raises(UnavailableError):
        wheels.build("no-such-thing")
