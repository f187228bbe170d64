"""Verdicts hold for the circumstances that they were made in, and proofs leave nothing behind."""

import os
import sys

import pytest

from nacre.agent.hypervisors import proofs
from nacre.agent.hypervisors.proofs import Outcome, Verdicts


def test_a_verdict_is_found_in_the_same_circumstances_only(tmp_path, monkeypatch):
    device = tmp_path / "kvm"
    device.touch()
    verdicts = Verdicts(tmp_path / "state", device)
    assert verdicts.find("1.0") is None
    verdicts.save("1.0", "no")
    found = Verdicts(tmp_path / "state", device).find("1.0")
    assert found is not None
    assert found.reason == "no"
    assert verdicts.find("1.1") is None
    monkeypatch.setattr(proofs.processes, "boot_id", lambda: "another")
    assert verdicts.find("1.0") is None
    monkeypatch.undo()
    os.utime(device)
    assert verdicts.find("1.0") is None


def test_what_cannot_be_read_is_nothing_known(tmp_path):
    (tmp_path / "acceleration.json").write_text("{")
    assert Verdicts(tmp_path, tmp_path / "kvm").find("1.0") is None


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("print('Linux ver' 'sion 6.1', flush=True); import time; time.sleep(60)", Outcome(printed=True)),
        ("import sys; print('x' * 100000); sys.exit(3)", Outcome(printed=False, status=3)),
        ("import time; time.sleep(60)", Outcome(printed=False)),
    ],
)
async def test_a_boot_ends_with_the_first_line_the_process_or_the_time(program, outcome):
    assert await proofs.boot(
        [sys.executable, "-S", "-c", program], 3.0 if outcome.printed or outcome.status else 0.5
    ) == (outcome)
