"""What the pytest plugin costs on training tests, and whether it cries wolf there.

    python -m tests.benchmarks.plugin [--rounds N] [--plant | --light] [PATHS ...]

Runs the tests with and without `--nanscope` in turn, each time in a fresh process on one thread, and prints
the processor time of each test and in total (the least of all rounds), and the tests that end otherwise when
they are watched. With `--plant` a NaN is put into the output of one layer in every test, to see how many of
the tests that train notice. With `--light` a suite without torch is run instead. PATHS are test files of any
installed project; by default the suite beside this file.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.plugin.running import PLUGIN

SUITE = Path(__file__).with_name("plugin_suite.py")
OPTIONS = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore"]
PLACE = ["--import-mode=importlib", "-p", "no:unraisableexception", "-c", "/dev/null"]

LIGHT = 500  # tests of a suite without torch

Times = dict[str, tuple[float, str]]
"""Processor seconds and outcome of each test."""


class Clock:
    """A plugin that takes the time of each test, and its outcome."""

    def __init__(self) -> None:
        self.times: Times = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """See pytest."""
        begun = time.process_time()
        result = yield
        outcome = self.times.get(item.nodeid, (0.0, "passed"))[1]
        self.times[item.nodeid] = time.process_time() - begun, outcome
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """See pytest."""
        if report.outcome != "passed":
            self.times[report.nodeid] = 0.0, report.outcome


class Planter:
    """A plugin that makes the first element of the second output of a layer with weights NaN, in each test.

    Attributes:
        planted: tests in which it was done.
    """

    def __init__(self) -> None:
        self.planted: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """See pytest."""
        with self._hook(item.nodeid):
            return (yield)

    def _hook(self, nodeid: str) -> Any:
        import torch  # noqa: PLC0415 - after the process was told how many threads it has
        from torch.nn.modules.module import register_module_forward_hook  # noqa: PLC0415 - the same

        calls = 0

        def plant(module: Any, _args: Any, output: Any) -> Any:
            nonlocal calls
            is_layer = isinstance(module, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv1d))
            if not is_layer or not torch.is_grad_enabled() or not output.requires_grad:
                return None
            calls += 1
            if calls != 2:
                return None
            self.planted.append(nodeid)
            mask = torch.zeros_like(output)
            mask.view(-1)[0] = torch.nan
            return output + mask

        return register_module_forward_hook(plant)


def child(arguments: list[str]) -> None:
    """Run pytest, and print what came of it."""
    import torch  # noqa: PLC0415 - the import is no test's

    torch.set_num_threads(1)
    clock, planter = Clock(), Planter()
    plugins = [clock, *([planter] if "--plant" in arguments else [])]
    pytest.main([each for each in arguments if each != "--plant"], plugins=plugins)
    print("RESULT" + json.dumps([clock.times, planter.planted]))


def measured(paths: list[str], *more: str) -> tuple[Times, list[str]]:
    """Of one run in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.benchmarks.plugin", "--child", *OPTIONS, *PLACE]
        command += [*PLUGIN, "--rootdir", folder, *more, *paths]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "RESULT" not in done.stdout:
        raise SystemExit(done.stdout + done.stderr)
    times, planted = json.loads(done.stdout.rpartition("RESULT")[2])
    if not times:
        raise SystemExit(f"no test was run: {done.stdout}")
    return {name: (seconds, outcome) for name, (seconds, outcome) in times.items()}, planted


def best(rounds: list[Times]) -> Times:
    """The least time of each test; the outcome of the first round."""
    return {name: (min(one[name][0] for one in rounds), rounds[0][name][1]) for name in rounds[0]}


def table(off: Times, on: Times) -> Iterator[str]:
    """Test by test, and in total."""
    for name in sorted(off, key=lambda each: -off[each][0]):
        bare, watched = off[name][0], on[name][0]
        yield f"{bare:8.3f} {watched:8.3f} {watched / max(bare, 1e-9):7.2f}  {name.rpartition('/')[2]}"
    bare, watched = (sum(seconds for seconds, _ in each.values()) for each in (off, on))
    yield f"{bare:8.3f} {watched:8.3f} {watched / max(bare, 1e-9):7.2f}  all {len(off)} tests"


def light(rounds: int) -> Iterator[str]:
    """What tests without torch pay for it; processor time, the median of paired differences."""
    asked = {"blocked": ["-p", "no:nanscope"], "off": [], "on": ["--nanscope"]}
    spent: dict[str, list[float]] = {name: [] for name in asked}
    with tempfile.TemporaryDirectory() as folder:
        suite = Path(folder, "test_light.py")
        suite.write_text("".join(f"def test_{number}(): pass\n" for number in range(LIGHT)))
        for _ in range(rounds):
            for name, options in asked.items():
                command = [sys.executable, "-m", "pytest", *OPTIONS, *PLACE, *options, str(suite)]
                before = _of_children()
                subprocess.run(command, capture_output=True, check=True, cwd=folder)
                spent[name].append(_of_children() - before)
    off = median(b - a for a, b in zip(spent["blocked"], spent["off"], strict=True))
    on = median(b - a for a, b in zip(spent["off"], spent["on"], strict=True))
    yield f"off: {1e3 * off:.1f} ms per run of pytest"
    yield f"on: {1e3 * on / LIGHT:.3f} ms per test without torch ({LIGHT} tests)"


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", default=[str(SUITE)])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plant", action="store_true")
    parser.add_argument("--light", action="store_true")
    chosen = parser.parse_args()
    if chosen.light:
        print(*light(chosen.rounds), sep="\n")
        return
    paths = [str(Path(path).absolute()) for path in chosen.paths]
    if chosen.plant:
        times, planted = measured(paths, "--nanscope", "--plant")
        noticed = [name for name in planted if times[name][1] == "failed"]
        print(f"planted in {len(planted)} tests, of which {len(noticed)} fail")
        print(*sorted(set(planted) - set(noticed)), sep="\n")
        return
    rounds: tuple[list[Times], list[Times]] = ([], [])
    for _ in range(chosen.rounds):
        rounds[0].append(measured(paths)[0])
        rounds[1].append(measured(paths, "--nanscope")[0])
    off, on = map(best, rounds)
    print("     off       on   ratio  test")
    print(*table(off, on), sep="\n")
    print(*(f"otherwise when watched: {name}: {on[name][1]}" for name in off if on[name][1] != off[name][1]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        main()
