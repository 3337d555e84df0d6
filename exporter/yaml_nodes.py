"""YAML text to nodes that know their lines, and nodes to plain values; problems are collected, not raised.

Nothing is constructed from a tag, and an alias is a second way to the same node, never a copy. What a file can cost is
bounded: its nesting while it is parsed, and the entries that a reader visits, where an alias counts each time.
"""

import contextlib
import math
from typing import Final

import yaml

from exporter.errors import ConfigError

MAX_DEPTH: Final = 32
"""Nested lists and mappings; a catalogue needs 7."""
MAX_ENTRIES: Final = 200_000
"""Entries of lists and mappings that a reader visits; a file of 1 MB without aliases has about 100,000."""
MAX_PROBLEMS: Final = 100
"""Problems that are shown, those of the first lines; of the others only their number."""


class _TooMuch(yaml.YAMLError):
    def __init__(self, line: int, what: str) -> None:
        self.line = line
        self.what = what


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, with a bound on nesting in place of Python's own on recursion, and one on nodes."""

    depth = 0
    nodes = 0

    def __init__(self, text: str, most_nodes: float) -> None:
        super().__init__(text)
        self.most_nodes = most_nodes

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _TooMuch(line_of(parent), f"nested too deeply: more than {MAX_DEPTH} levels")
        self.nodes += 1
        if self.nodes > self.most_nodes:
            raise _TooMuch(line_of(parent), f"more than {self.most_nodes} keys and values")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def compose(text: str, name: str, most_nodes: float = math.inf) -> yaml.Node | None:
    """The text's root node, None for an empty file.

    Args:
        name: the file name that the problem shows.
        most_nodes: keys, values, lists and mappings in all. 10,000 take half a second and 7 MB.

    Raises:
        ConfigError: `name:line: sentence` for the first thing that is not YAML.
    """
    try:
        loader = _Loader(text, most_nodes)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except _TooMuch as error:
        raise ConfigError([f"{name}:{error.line}: {error.what}"]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError([f"{name}:{line}: not valid YAML: no file may hold U+{error.character:04X}"]) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line_of_mark = f":{mark.line + 1}" if mark else ""
        what = ": ".join(part for part in (getattr(error, "context", None), getattr(error, "problem", None)) if part)
        raise ConfigError([f"{name}{line_of_mark}: not valid YAML: {what}"]) from error
    except (ValueError, OverflowError) as error:
        # PyYAML lets these out of an escape such as "\\UFFFFFFFF" and of a version such as %YAML 1.<5000 digits>.
        raise ConfigError([f"{name}: not valid YAML: an escape or a version number is out of range"]) from error


def is_unicode(text: str) -> bool:
    """Whether the text can be sent as UTF-8: a YAML escape can make half of a surrogate pair, which cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


class NodeReader:
    """Reads nodes as mappings, lists, texts and numbers, and notes problems, so that all are found in one go.

    Args:
        name: the file's name, for the one problem that is raised: too many entries.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[tuple[int, str]] = []
        """Line and sentence of each problem."""
        self._visited = 0

    def note(self, node: yaml.Node | None, message: str) -> None:
        """Keep a problem, with the line of the node that has it."""
        self.problems.append((line_of(node), message))

    def require_none(self) -> None:
        """Raise ConfigError with the problems, each as `name:line: sentence`, if there are any."""
        ordered = sorted(self.problems, key=lambda problem: problem[0])
        shown = [f"{self.name}:{line}: {message}" for line, message in ordered[:MAX_PROBLEMS]]
        if len(ordered) > MAX_PROBLEMS:
            shown.append(f"{self.name}: {len(ordered) - MAX_PROBLEMS} more problems")
        if shown:
            raise ConfigError(shown)

    def _visit(self, node: yaml.CollectionNode) -> None:
        self._visited += len(node.value)
        if self._visited > MAX_ENTRIES:
            raise ConfigError(
                [f"{self.name}:{line_of(node)}: more than {MAX_ENTRIES} entries, where an alias counts each time"]
            )

    def mapping(
        self, node: yaml.Node | None, what: str, known: tuple[str, ...], required: tuple[str, ...] = ()
    ) -> dict[str, yaml.Node]:
        """The node's entries by key; unknown, duplicate and missing keys are noted."""
        entries = self.entries(node, what, known)
        for key in required:
            if node is not None and isinstance(node, yaml.MappingNode) and key not in entries:
                self.note(node, f"{what}: {key!r} is missing")
        return entries

    def entries(self, node: yaml.Node | None, what: str, known: tuple[str, ...] = ()) -> dict[str, yaml.Node]:
        """The node's entries by key; `known` empty: any key."""
        if not isinstance(node, yaml.MappingNode):
            self.note(node, f"{what}: expected a mapping (key: value)")
            return {}
        self._visit(node)
        found: dict[str, yaml.Node] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.note(key_node, f"{what}: a key must be plain text")
            elif key_node.value in found:
                self.note(key_node, f"{what}: key {key_node.value!r} appears twice")
            elif known and key_node.value not in known:
                self.note(key_node, f"{what}: unknown key {key_node.value!r} (known: {', '.join(known)})")
            else:
                found[key_node.value] = value_node
        return found

    def items(self, node: yaml.Node | None, what: str, *, may_be_empty: bool = False) -> list[yaml.Node]:
        """The entries of a list; anything else is noted."""
        if not isinstance(node, yaml.SequenceNode) or not (node.value or may_be_empty):
            self.note(node, f"{what}: expected a list" + ("" if may_be_empty else " that is not empty"))
            return []
        self._visit(node)
        return list(node.value)

    def text(self, node: yaml.Node | None, what: str) -> str:
        """A scalar's text, stripped; empty after a problem."""
        if not isinstance(node, yaml.ScalarNode) or not node.value.strip() or node.tag.endswith(":null"):
            self.note(node, f"{what}: expected text")
            return ""
        if not is_unicode(node.value):
            self.note(node, f"{what}: half of a surrogate pair is not a character")
            return ""
        return str(node.value).strip()

    def number(self, node: yaml.Node, what: str) -> float:
        """A finite number, written without quotes; not finite after a problem."""
        value = math.nan
        if isinstance(node, yaml.ScalarNode) and node.style is None and not node.tag.endswith(":bool"):
            # By its look, not by its tag: to YAML 1.1, 1e3 is text and 017 is fifteen.
            with contextlib.suppress(ValueError):
                value = float(node.value)
        if not math.isfinite(value):
            self.note(node, f"{what}: expected a finite number")
        return value


def line_of(node: yaml.Node | None) -> int:
    """The node's first line, counted from 1; 1 where there is no node."""
    return int(node.start_mark.line) + 1 if node else 1
