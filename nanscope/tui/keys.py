"""The table of actions: bindings, footer, help and palette all come from here."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Action:
    """What a person can do.

    Attributes:
        keys: names of keys as Textual spells them; the first is shown.
        label: two words at most, for the footer; empty where it does not stand there.
        words: a sentence for help and palette.
    """

    id: str
    keys: tuple[str, ...]
    label: str
    words: str
    group: str

    @property
    def shown(self) -> str:
        """Its first key, as it is printed on it."""
        return SHOWN.get(self.keys[0], self.keys[0])


SHOWN: Mapping[str, str] = {
    "right": "→", "left": "←", "up": "↑", "down": "↓", "full_stop": ".", "comma": ",",
    "exclamation_mark": "!", "question_mark": "?", "slash": "/", "plus": "+", "minus": "-",
    "less_than_sign": "<", "escape": "esc",
    "greater_than_sign": ">", "left_square_bracket": "[", "right_square_bracket": "]", "apostrophe": "'",
    "pagedown": "PgDn", "pageup": "PgUp", "home": "Home", "end": "End", "colon": ":", "shift+right": "L",
    "shift+left": "H", "dollar_sign": "$", "circumflex_accent": "^", "left_parenthesis": "(",
    "right_parenthesis": ")", "shift+tab": "S-tab", "ctrl+p": "^p", "f1": "F1",
}  # fmt: skip
PLAIN = {"→": "->", "←": "<-", "↑": "up", "↓": "down"}
"""The same where only ASCII can be shown."""


def _of_time() -> Iterable[Action]:
    time = "Time"
    yield Action("play", ("space",), "Play", "play or pause", time)
    yield Action("next_step", ("right", "full_stop"), "Step", "the next recorded step", time)
    yield Action("previous_step", ("left", "comma"), "", "the step before", time)
    yield Action("next_column", ("shift+right", "L"), "", "one column of the screen forward", time)
    yield Action("previous_column", ("shift+left", "H"), "", "one column of the screen back", time)
    yield Action("next_page", ("pagedown", "right_parenthesis"), "", "one window forward", time)
    yield Action("previous_page", ("pageup", "left_parenthesis"), "", "one window back", time)
    yield Action("first_step", ("home", "circumflex_accent"), "", "the first step", time)
    yield Action("last_step", ("end", "dollar_sign"), "", "the last step; of a live run: follow it", time)
    yield Action("faster", ("greater_than_sign",), "", "play faster", time)
    yield Action("slower", ("less_than_sign",), "", "play slower", time)
    yield Action("follow", ("f",), "Follow", "follow a live run, or not", time)


def _of_jumps() -> Iterable[Action]:
    jump = "Jumps"
    yield Action("next_event", ("n",), "Next event", "the next finding, link of the trail or mark", jump)
    yield Action("previous_event", ("N",), "", "the event before", jump)
    yield Action(
        "first_bad", ("exclamation_mark",), "First NaN", "the first non-finite value; again: close up", jump
    )
    yield Action("divergence", ("D",), "", "where the case in focus leaves the baseline", jump)
    yield Action("goto", ("g",), "Go to", "go to a step, 50%, e3.5, +1k, nan or a mark", jump)
    yield Action("condition", ("b",), "", "set the condition that c and C run to", jump)
    yield Action("run_forward", ("c",), "Run to break", "run forward to the condition", jump)
    yield Action("run_backward", ("C",), "", "run backward to the condition", jump)
    yield Action("mark", ("m",), "", "mark this step with a note", jump)
    yield Action("marks", ("apostrophe",), "", "go to a mark", jump)
    yield Action("undo", ("u",), "", "back to where the last jump began", jump)
    yield Action("redo", ("U",), "", "the jump again", jump)


def _of_view() -> Iterable[Action]:
    view = "View"
    yield Action("zoom_in", ("plus", "w", "equals_sign"), "Zoom", "look closer around the playhead", view)
    yield Action("zoom_out", ("minus", "s"), "", "look from farther", view)
    yield Action("fit", ("0",), "", "the whole run", view)
    yield Action("pan_left", ("a",), "", "move the window back", view)
    yield Action("pan_right", ("d",), "", "move the window forward", view)
    yield Action("up", ("up", "k"), "", "the layer, or line, above", view)
    yield Action("down", ("down", "j"), "", "the layer, or line, below", view)
    yield Action("pick", ("enter",), "", "go to what is chosen", view)
    yield Action("next_pane", ("tab",), "", "the next pane", view)
    yield Action("previous_pane", ("shift+tab", "P"), "", "the pane before", view)
    yield Action("maximise", ("z",), "", "the pane in focus alone, and back", view)
    yield Action("next_stat", ("v",), "", "the next stat in the heat map", view)
    yield Action("previous_stat", ("V",), "", "the stat before", view)
    yield Action("reference", ("r",), "", "heat above: own begin, nothing, the baseline", view)
    yield Action("digits", ("x",), "", "heat maps as colours or digits", view)
    yield Action("linear", ("y",), "", "logarithmic or linear", view)
    yield Action("unit", ("e",), "", "count samples, steps, epochs or time", view)
    yield Action("filter", ("slash",), "", "show only some layers or findings", view)
    yield Action("previous_case", ("left_square_bracket",), "", "the case before", view)
    yield Action("next_case", ("right_square_bracket",), "", "the next case", view)
    yield Action("baseline", ("B",), "", "compare with the case in focus", view)
    for number, name in enumerate(("Overview", "Compare", "Layers", "Predict", "Why", "Raw"), 1):
        yield Action(f"screen_{number}", (str(number),), "", f"the screen {name}", view)


def _of_run() -> Iterable[Action]:
    file = "Run"
    yield Action("copy", ("Y",), "", "copy this place as a command, and what is read here", file)
    yield Action("report", ("E",), "", "write a report of this run as a web page", file)
    yield Action("save", ("S",), "", "save this screen as a picture", file)
    yield Action("reopen", ("R",), "", "read the file again", file)
    yield Action("help", ("question_mark", "f1"), "Help", "every key, and what the marks mean", file)
    yield Action("palette", ("colon", "ctrl+p"), "", "find an action by its name", file)
    yield Action("close", ("escape",), "", "close, one level up", file)
    yield Action("quit", ("q",), "Quit", "leave", file)


ACTIONS: Mapping[str, Action] = {
    action.id: action for action in (*_of_time(), *_of_jumps(), *_of_view(), *_of_run())
}
FOOTER = (
    "play", "next_step", "next_event", "first_bad", "run_forward", "zoom_in", "goto", "help", "quit",
)  # fmt: skip
LIVE_FOOTER = ("follow", *FOOTER[:-3], *FOOTER[-2:])


def config_path(environ: Mapping[str, str]) -> Path:
    """Where a person keeps other keys."""
    home = environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / "nanscope" / "keys.toml"


def remapped(path: Path) -> tuple[Mapping[str, Action], str]:
    """The table with a person's keys in it, and what is wrong with his file, if anything.

    The file has a line `first_bad = "i"` per action, or a list of keys.
    """
    if not path.exists():
        return ACTIONS, ""
    try:
        wanted = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return ACTIONS, f"{path} is ignored: {error}"
    unknown = [name for name in wanted if name not in ACTIONS]
    if unknown:
        return ACTIONS, f"{path} is ignored: no action is called {unknown[0]!r} (see ? for their names)"
    table = dict(ACTIONS)
    for name, keys in wanted.items():
        given = (keys,) if isinstance(keys, str) else tuple(map(str, keys)) if isinstance(keys, list) else ()
        if not given:
            return ACTIONS, f"{path} is ignored: {name} has no key"
        table[name] = Action(name, given, ACTIONS[name].label, ACTIONS[name].words, ACTIONS[name].group)
    return table, _doubled(table, path)


def _doubled(table: Mapping[str, Action], path: Path) -> str:
    seen: dict[str, str] = {}
    for action in table.values():
        for key in action.keys:
            if key in seen:
                return f"{path}: {key} is both {seen[key]} and {action.id}; the first holds"
            seen[key] = action.id
    return ""
