"""What loads what: looking at a run must work, and start quickly, on a machine without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "sklearn", "h5py", "rich", "textual", "numpy", "click")


def loaded(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after the code."""
    report = f"import sys; {code}; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_package_itself_loads_nothing() -> None:
    """`import nanscope` costs neither torch nor h5py nor a screen library; its names come on first use."""
    assert loaded("import nanscope; dir(nanscope)") == set()


@pytest.mark.parametrize(
    "code",
    [
        "import nanscope.store.reader",
        "import nanscope; nanscope.open_run",
        "import nanscope; nanscope.diagnose",
        "import nanscope.detectors, nanscope.view, nanscope.reporters",
        "import nanscope.cli",
    ],
)
def test_looking_loads_no_torch(code: str) -> None:
    """Reader, detectors, diagnosis, reporters and the command line load neither torch nor scikit-learn."""
    assert not loaded(code) & {"torch", "torchvision", "sklearn", "textual"}


def test_recording_loads_no_screen() -> None:
    """The recorder brings no presentation library into a training process."""
    assert not loaded("import nanscope; nanscope.record") & {"rich", "textual", "click", "sklearn"}
