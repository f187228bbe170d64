"""The stand-in of the jailer makes a jail as the real one does, and fails as it does."""

import os
import subprocess
from pathlib import Path

import pytest

from support.vmm.installed import install

USER = os.geteuid() or 60123


@pytest.fixture
def jailer(tmp_path):
    programs = install(tmp_path / "bin", jailer="jailer")
    inmate = programs / "inmate"
    inmate.write_text('#!/bin/sh\necho "$@"\npwd\nenv\nls /proc/$$/fd\nid -u\nulimit -n\n')
    inmate.chmod(0o755)
    base = tmp_path / "base"
    base.mkdir()

    def run(*words: str, name: str = "vm-1", **environment: str) -> subprocess.CompletedProcess:
        usual = ["--id", name, "--exec-file", str(inmate), "--uid", str(USER), "--gid", str(USER)]
        return subprocess.run(
            [programs / "jailer", *usual, "--chroot-base-dir", str(base), *words],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | environment,
            pass_fds=[1, 2],
        )

    run.base = base  # type: ignore[attr-defined]
    return run


def root(run, name: str = "vm-1") -> Path:
    return run.base / "inmate" / name / "root"


def test_it_becomes_its_inmate_in_a_folder_of_its_own(jailer):
    done = jailer("--resource-limit", "no-file=99", "--", "--api-sock", "a", SECRET="s", NACRE_STAND_IN_X="x")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("--id vm-1 --start-time-us 1")
    assert "--api-sock a\n" in done.stdout
    assert str(root(jailer)) in done.stdout
    assert "SECRET" not in done.stdout
    assert "NACRE_STAND_IN_X=x" in done.stdout
    assert done.stdout.endswith(f"\n{USER}\n99\n")
    assert sorted(path.name for path in root(jailer).iterdir()) == ["dev", "inmate", "run"]
    assert (root(jailer) / "dev" / "kvm").exists()
    assert root(jailer).stat().st_uid == USER


def test_a_jail_that_was_used_is_not_used_again(jailer):
    assert jailer().returncode == 0
    again = jailer()
    assert again.returncode == 1
    assert "via mknod inside the jail: File exists (os error 17)" in again.stderr


def test_files_that_are_there_before_stay(jailer):
    root(jailer).mkdir(parents=True)
    (root(jailer) / "kernel").touch()
    assert jailer().returncode == 0
    assert (root(jailer) / "kernel").exists()


def test_a_binary_with_another_name_somewhere_is_not_overwritten(jailer):
    root(jailer).mkdir(parents=True)
    (root(jailer) / "inmate").touch()
    os.link(root(jailer) / "inmate", jailer.base / "other")
    assert "Detected hard link" in jailer().stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--odd",), "wasn't expected"),
        (("--uid", "1"), "more than once"),
        (("--resource-limit", "cpu=1"), "Invalid resource argument: cpu"),
        (("--resource-limit", "fsize=x"), "Invalid limit value"),
    ],
)
def test_what_it_does_not_understand_it_says(jailer, words, said):
    done = jailer(*words)
    assert done.returncode == 1
    assert said in done.stderr


def test_a_name_that_is_none_and_a_base_that_is_not_there(jailer):
    assert "Invalid instance ID" in jailer(name="a_b").stderr
    (jailer.base).rmdir()
    assert "Failed to canonicalize" in jailer().stderr


def test_with_a_pid_namespace_the_pid_is_in_a_file(jailer):
    assert jailer("--new-pid-ns").returncode == 0
    assert int((root(jailer) / "inmate.pid").read_text()) > 1
