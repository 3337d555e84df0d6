"""Reads a catalogue's nodes that name columns, and what stands in them: paths, conditions, times."""

import re
import zoneinfo
from typing import Final

import yaml

from exporter.catalog import FORMAT_ELEMENTS, UNITS, Equal, Path, Place, TimeSpec
from exporter.yaml_nodes import NodeReader

MAX_STEPS: Final = 20
"""Steps of a path into a value."""
_COLUMN = re.compile(r"[^\x00-\x1f\x7f]{1,300}")
"""A column's name: the engines take nearly anything, in quotes."""
COLUMN_RULE: Final = "1 to 300 characters, on one line"
_KEY = re.compile(r"[^\x00-\x1f\x7f\"\\]{1,300}")
"""A key in a path, as JSONPath quotes it in both engines."""
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d{1,9})\]")


def is_column(name: str) -> bool:
    """Whether a table may have a column of that name."""
    return _COLUMN.fullmatch(name) is not None


class ColumnReader(NodeReader):
    """Adds what columns need to `NodeReader`."""

    def column(self, node: yaml.Node | None, what: str) -> str:
        """A column's name; empty after a problem."""
        name = self.text(node, what)
        if name and not is_column(name):
            self.note(node, f"{what}: {name!r} is not a column name ({COLUMN_RULE})")
        return name

    def path(self, node: yaml.Node, what: str) -> Path:
        """The way into a value: `a.b[0]`, or a list of keys and indexes, for keys that hold dots or brackets."""
        steps: list[str | int] = []
        if isinstance(node, yaml.SequenceNode):
            for item in self.items(node, what):
                text = self.text(item, what)
                is_index = isinstance(item, yaml.ScalarNode) and item.style is None and re.fullmatch(r"\d{1,9}", text)
                steps.append(int(text) if is_index else text)
        else:
            text = self.text(node, what)
            position = 0
            while match := _STEP.match(text, position):
                position = match.end()
                steps.append(int(match[2]) if match[2] else match[1])
            if position < len(text) or text.startswith("."):
                self.note(node, f"{what}: {text!r} is not a path, such as metrics[0].drift.share")
        for step in steps:
            if isinstance(step, str) and step and not _KEY.fullmatch(step):
                self.note(node, f"{what}: {step!r} cannot be a key (no quotes, backslashes or line breaks)")
        if len(steps) > MAX_STEPS:
            self.note(node, f"{what}: {len(steps)} steps, at most {MAX_STEPS} fit")
        return tuple(steps)

    def place(self, node: yaml.Node, what: str) -> Place:
        """A column's name, or `{column, path}`."""
        if not isinstance(node, yaml.MappingNode):
            return Place(self.column(node, what))
        entries = self.mapping(node, what, ("column", "path"), ("column",))
        column = self.column(entries["column"], f"{what}.column") if "column" in entries else ""
        return Place(column, self.path(entries["path"], f"{what}.path") if "path" in entries else ())

    def only(self, node: yaml.Node, what: str) -> tuple[Equal, ...]:
        """What rows have to hold, by column."""
        equals: list[Equal] = []
        for column, value in self.entries(node, what).items():
            if not is_column(column):
                self.note(value, f"{what}: {column!r} is not a column name ({COLUMN_RULE})")
            text = self.text(value, f"{what}: {column}").lower()
            if not isinstance(value, yaml.ScalarNode) or not text:
                continue
            if value.tag.endswith(":bool"):
                self.flag(value, text, f"{what}: {column}")
                equals.append((column, text == "true"))
            elif value.style is None and value.tag.endswith((":int", ":float")):
                equals.append((column, self.number(value, f"{what}: {column}")))
            else:
                equals.append((column, text))
        if not equals and isinstance(node, yaml.MappingNode) and not node.value:
            self.note(node, f"{what}: expected at least one column with its value")
        return tuple(equals)

    def flag(self, node: yaml.Node, text: str, what: str) -> None:
        """Note a word that YAML takes for a flag and that may be meant as text."""
        if text not in ("true", "false"):
            self.note(
                node,
                f"{what}: write true or false where the column holds flags, or '{text}' in quotes where it holds that "
                "text",
            )

    def time(self, node: yaml.Node) -> tuple[str, TimeSpec]:
        """The timestamp column and how it is read."""
        what = "audit.timestamp"
        if not isinstance(node, yaml.MappingNode):
            return self.column(node, what), TimeSpec()
        entries = self.mapping(node, what, ("column", "path", "unit", "zone", "format"), ("column",))
        column = self.column(entries["column"], f"{what}.column") if "column" in entries else ""
        path = self.path(entries["path"], f"{what}.path") if "path" in entries else ()
        values = {key: self.text(entries[key], f"{what}.{key}") for key in ("unit", "zone", "format") if key in entries}
        unit, zone, format_ = values.get("unit"), values.get("zone", "UTC"), values.get("format")
        if unit and unit not in UNITS:
            self.note(entries["unit"], f"{what}.unit: {unit!r} is not one of {', '.join(UNITS)}")
        for other in ("zone", "format"):
            if unit and other in entries:
                self.note(entries[other], f"{what}.{other}: epoch numbers, which 'unit' says there are, have none")
        if zone and not _is_zone(zone):
            self.note(entries["zone"], f"{what}.zone: {zone!r} is not an IANA time zone, such as Europe/Berlin")
        if format_:
            self.format(entries["format"], format_, f"{what}.format")
        return column, TimeSpec(path, unit, zone, format_)

    def format(self, node: yaml.Node, text: str, what: str) -> None:
        """Note what keeps a text from being a format that both engines read alike."""
        elements = re.findall(r"%.?", text)
        unknown = [element for element in elements if element not in FORMAT_ELEMENTS]
        if unknown:
            self.note(node, f"{what}: {unknown[0]!r} is not one of {' '.join(FORMAT_ELEMENTS)}")
        elif "%f" in elements and "%S.%f" not in text:
            self.note(node, f"{what}: %f comes after %S and a dot: %S.%f")
        days = "%j" in elements or ("%d" in elements and {"%m", "%b", "%B"} & set(elements))
        if not days or not {"%Y", "%y"} & set(elements):
            self.note(node, f"{what}: {text!r} lacks a year, month or day (such as %d.%m.%Y %H:%M)")


def _is_zone(name: str) -> bool:
    """Whether the name is in the IANA database; both engines know those."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return name == "UTC" or "/" in name
