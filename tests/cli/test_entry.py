import subprocess
import sys

from nacre.cli import exits


def test_an_interrupt_while_the_program_is_still_being_loaded_is_silent() -> None:
    script = (
        "import sys\n"
        "class Impatient:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'cyclopts':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "sys.argv = ['nacre', 'vm', 'list']\n"
        "from nacre.cli.entry import main\n"
        "main()\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (exits.INTERRUPTED, "", "")


def test_the_program_begins_where_an_interrupt_is_silent() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "nacre.cli.entry", "vm"], capture_output=True, text=True, timeout=30, check=False
    )
    assert ran.returncode == exits.OK
    assert "Virtual machines" in ran.stdout
