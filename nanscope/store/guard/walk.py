"""The way through the groups of a file that nobody vouches for: over hard links only, and bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from h5py import h5a, h5d, h5g, h5l, h5o

from nanscope.store.guard.refusal import check, shown

DEPTH, OBJECTS, NAME_BYTES, ATTRIBUTES = 8, 10_000, 512, 64

_LINKS = {
    h5l.TYPE_SOFT: "a soft link, which can lead anywhere",
    h5l.TYPE_EXTERNAL: "an external link, which points to another file",
}


def datasets(root: h5g.GroupID) -> Iterator[tuple[bytes, h5d.DatasetID]]:
    """Every dataset with its path, opened and not looked at.

    Raises:
        Refusal: the file holds what no run file holds, or too much of it.
    """
    stack = [(b"", root)]  # not the program's own, which a file could exhaust
    seen = {h5o.get_info(root).addr}
    room = OBJECTS
    while stack:
        folder, group = stack.pop()
        names = _names(group, folder, room)
        room -= len(names)
        for name in names:
            path = folder + name
            found = h5o.get_info(group, name)
            if found.type == h5o.TYPE_GROUP:
                check(path.count(b"/") < DEPTH - 1, f"its groups are nested more than {DEPTH} deep")
                check(found.addr not in seen, f"its group {shown(path)} is a second name of another group")
                seen.add(found.addr)
                stack.append((path + b"/", check_attributes(h5g.open(group, name), path)))
            else:
                check(found.type == h5o.TYPE_DATASET, f"it holds {shown(path)}, neither group nor dataset")
                yield path, check_attributes(h5d.open(group, name), path)


def check_attributes(found: Any, path: bytes) -> Any:
    """The object, unless it has too many attributes."""
    count = h5a.get_num_attrs(found)
    check(count <= ATTRIBUTES, f"its {shown(path)} has {count:,} attributes")
    return found


def _names(group: h5g.GroupID, folder: bytes, room: int) -> list[bytes]:
    """Names in a group, if all are hard links and not more than `room`."""
    found: list[tuple[bytes, int]] = []

    def note(name: bytes, link: Any) -> bool | None:
        found.append((name, link.type))
        return True if len(found) > room or len(name) > NAME_BYTES else None  # anything but None stops

    group.links.iterate(note, info=True)
    check(len(found) <= room, f"it holds more than {OBJECTS:,} objects")
    for name, kind in found:
        path = shown(folder + name)
        check(len(name) <= NAME_BYTES, f"it holds a name of {len(name):,} letters ({path})")
        check(kind == h5l.TYPE_HARD, f"it holds {_LINKS.get(kind, 'a link of an unknown kind')} ({path})")
    return [name for name, _ in found]
