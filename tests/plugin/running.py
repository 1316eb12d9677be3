"""Run pytest within a test, on small programs."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

IS_INSTALLED = any(point.name == "nanscope" for point in entry_points(group="pytest11"))
QUIET = ("-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist")
PLUGIN = ("-p", "nanscope" if IS_INSTALLED else "nanscope.pytest_plugin")

PRELUDE = '''
import pytest
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 4)

    def forward(self, x):
        return torch.softmax(self.body(x), 1)


def fit(model=None, bad=2, steps=4):
    """Trains; in step `bad` a probability underflows to 0, and its logarithm is taken."""
    torch.manual_seed(0)
    model = model or Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        x = torch.randn(5, 3) * (1e4 if step == bad else 1)
        optimizer.zero_grad()
        loss = -torch.log(model(x)[torch.arange(5), torch.tensor([0, 1, 2, 3, 0])]).mean()
        loss.backward()
        optimizer.step()
    return model
'''


def run(pytester: pytest.Pytester, source: str, *arguments: str, watched: bool = True) -> pytest.RunResult:
    """Run pytest on `source` after the prelude, in this process."""
    pytester.makepyfile(test_it=PRELUDE + source)
    options = [*PLUGIN, *QUIET, *(["--nanscope"] if watched else []), "-rA", *arguments]
    return pytester.runpytest_inprocess(*options)


def kept(pytester: pytest.Pytester, folder: str = ".nanscope") -> list[str]:
    """The tests whose run files were kept, without the digests in their names."""
    names = sorted(path.name for path in (pytester.path / folder).glob("*.h5"))
    return [re.sub(r"-[0-9a-f]{8}(?=[-.])", "", name) for name in names]


def text_of(result: pytest.RunResult, test: str) -> list[str]:
    """The lines that tell why a test has failed."""
    lines = result.outlines
    start = next(i for i, line in enumerate(lines) if re.fullmatch(rf"_+ (ERROR at \w+ of )?{test} _+", line))
    rest = lines[start + 1 :]
    end = next(i for i, line in enumerate(rest) if re.match(r"(_{3,}|={3,}|-{3,}) ", line))
    return rest[:end]


def line_of(text: str) -> int:
    """The number of the first line in the prelude that holds a text."""
    return 1 + next(i for i, line in enumerate(PRELUDE.strip().splitlines()) if text in line)


def only_file(pytester: pytest.Pytester) -> Path:
    """The one run file that was kept."""
    (path,) = (pytester.path / ".nanscope").glob("*.h5")
    return path
