"""Reading YAML and JSON documents key by key, so that every mistake is one line that names key and file."""

from __future__ import annotations

import datetime
import difflib
import re
import reprlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from safe_io.errors import InputError

T = TypeVar("T")
_MISSING = object()
_SHORT = reprlib.Repr()  # a few lines of YAML can stand for more text than fits any memory
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxset = 8
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 70
_SHORT.maxlevel = 3
_TYPE_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
}


_QUOTE = 'put texts that hold {…}, :, #, @, % or quotes, and words such as no, in "quotes"'
_NEEDS_QUOTES = re.compile(r"""[{}@%`&*!|>#"']|:\s|\[""")
# What YAML 1.1 makes of words and numbers that were meant as text.
_NO_TEXT = {
    bool: "YAML reads words such as no, yes, on and off as true or false",
    int: "YAML reads it as a number (010 as 8, 10:30 as 630)",
    float: "YAML reads it as a number",
    datetime.date: "YAML reads it as a date",
    type(None): "YAML reads it, or an empty value, as nothing",
    dict: "YAML reads {…} and 'name: value' as a mapping",
}

if hasattr(yaml, "CSafeLoader"):

    class _SafeLoader(yaml.composer.Composer, yaml.CSafeLoader):
        """libyaml's parser, seven times as fast, under the composer in Python.

        The composer in C has no end to nesting but that of the stack, at which the process dies.
        """

        def __init__(self, stream: str) -> None:
            yaml.CSafeLoader.__init__(self, stream)
            yaml.composer.Composer.__init__(self)

else:  # PyYAML was built without libyaml
    _SafeLoader = yaml.SafeLoader


class _Loader(_SafeLoader):
    """PyYAML's safe loader takes the last of two equal keys in silence; here they are an error."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and (key.tag, str(key.value)) in seen:
                raise yaml.composer.ComposerError(
                    None, None, f"the key '{key.value}' stands twice in one mapping", key.start_mark
                )
            seen.add((key.tag, str(key.value)))
        return node


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    """Read a whole number that fits 64 bits, as arrays need it."""
    value = loader.construct_yaml_int(node)
    if not -(2**63) <= value < 2**63:
        raise yaml.constructor.ConstructorError(None, None, "a number beyond 64 bits", node.start_mark)
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def read_yaml(path: Path, what: str) -> Any:
    """Read a YAML file; nothing in it is executed.

    Parameters
    ----------
    path : pathlib.Path
        File to read.
    what : str
        What the file is, for the error line.

    Returns
    -------
    object
        The document.

    Raises
    ------
    InputError
        The file is missing, not UTF-8 or not YAML, or a mapping in it has a key twice.
    """
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        return yaml.load(text, Loader=_Loader)
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{what} not found: {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())  # YAML's own messages have several lines
        raise InputError(f"{what} is not valid YAML: {path}: {reason}{_pointed_at(error, text)}") from None


def _pointed_at(error: Exception, text: str) -> str:
    """Show the place of a YAML error with a caret, and a hint if quotes would help; all in one line."""
    mark = getattr(error, "problem_mark", None)
    lines = text.splitlines()
    if mark is None or mark.line >= len(lines):
        return ""
    line = lines[mark.line]
    start, end = max(0, mark.column - 40), mark.column + 20
    shown = f"; at the caret: {line[start : mark.column].lstrip()}^{line[mark.column : end]}"
    return shown + (f"; {_QUOTE}" if _NEEDS_QUOTES.search(line) else "")


def check_utf8(name: str, what: str) -> None:
    """Raise `InputError` if a name has bytes that are no UTF-8 text: no file could record it."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{what}: the name {name!a} is not UTF-8 text; rename it") from None


def choices(names: Sequence[object]) -> str:
    """List names for an error line."""
    return ", ".join(map(str, names)) or "(none)"


def unknown(kind: str, name: object, allowed: Sequence[object], where: str) -> InputError:
    """Make the error for a name that is not among the allowed ones, with the nearest one as a hint."""
    lowered = {str(a).lower(): a for a in allowed}
    close = difflib.get_close_matches(str(name).lower(), list(lowered), n=1)
    hint = f"; did you mean '{lowered[close[0]]}'?" if close else ""
    place = f"{where}: " if where else ""
    return InputError(f"{place}unknown {kind} '{name}'; choose from: {choices(allowed)}{hint}")


class Section:
    """One mapping of a document: keys are taken out with their types, and what is left over is an error.

    Parameters
    ----------
    value : object
        What the document holds there; must be a mapping with text keys.
    where : str
        File and place, for error lines.
    """

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: a mapping is needed, found {describe(value)}")
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"{where}: key {key!r} is not text{quote_hint(key) or '; put it in quotes'}")
        self.where = where
        self._left = dict(value)
        self._known: list[str] = []

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys not taken yet, in file order."""
        return iter(list(self._left))

    def __contains__(self, key: str) -> bool:
        """Whether a key is there and not taken yet."""
        return key in self._left

    def take(self, key: str, kind: type[T], default: Any = _MISSING) -> T:
        """Take a value of a given type.

        Parameters
        ----------
        key : str
        kind : type
            str, int, float (whole numbers count), bool, list or dict.
        default : object, optional
            Returned where the key is absent; without it the key is required.

        Returns
        -------
        object
            The value.

        Raises
        ------
        InputError
            The key is missing, or its value has another type.
        """
        value = self.take_any(key, default)
        if value is default and default is not _MISSING:
            return value
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            hint = quote_hint(value) if kind is str else ""
            raise InputError(
                f"{self.where}: '{key}' must be {_TYPE_NAMES[kind]}, found {describe(value)}{hint}"
            )
        return value

    def take_any(self, key: str, default: Any = _MISSING) -> Any:
        """Take a value of whatever type."""
        self._known.append(key)
        if key in self._left:
            return self._left.pop(key)
        if default is _MISSING:
            raise InputError(f"{self.where}: the key '{key}' is missing")
        return default

    def section(self, key: str, default: Any = _MISSING) -> Section:
        """Take a nested mapping."""
        return Section(self.take_any(key, default), f"{self.where}: {key}")

    def choice(self, key: str, allowed: Sequence[str], default: Any = _MISSING) -> str:
        """Take a text that must be one of a few."""
        value = self.take(key, str, default)
        if value is not default and value not in allowed:
            raise unknown(f"'{key}'", value, allowed, self.where)
        return value

    def strings(self, key: str, default: Any = _MISSING) -> tuple[str, ...]:
        """Take a non-empty list of texts."""
        value = self.take(key, list, default)
        if value is default:
            return value
        return as_strings(value, f"{self.where}: '{key}'")

    def positive(self, key: str, default: Any = _MISSING) -> int:
        """Take a whole number of at least 1."""
        value = self.take(key, int, default)
        if value is not default and value < 1:
            raise InputError(f"{self.where}: '{key}' must be at least 1, found {value}")
        return value

    def finish(self) -> None:
        """Raise `InputError` where keys are left that nobody asked for."""
        for key in self._left:
            raise unknown("key", key, self._known, self.where)


def as_strings(value: Any, where: str) -> tuple[str, ...]:
    """Check that a value is a non-empty list of non-empty texts."""
    if not isinstance(value, list) or not value:
        raise InputError(f"{where} must be a list with at least one text, found {describe(value)}")
    for entry in value:
        if not isinstance(entry, str) or not entry.strip():
            raise InputError(f"{where} must hold texts only, found {describe(entry)}{quote_hint(entry)}")
    return tuple(value)


def quote_hint(value: Any) -> str:
    """Say why YAML did not read a value as text, and how to write it; empty for a list or a blank text."""
    for kind, why in _NO_TEXT.items():
        if isinstance(value, kind):
            return f"; {why}: if it is meant as text, put it in quotes"
    return ""


def read_alike(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Find names that differ only in case, spaces, '_' and the form of their characters."""
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        key = " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())
        found[key] = (*found.get(key, ()), name)
    return [alike for alike in found.values() if len(alike) > 1]


def check_distinct(names: Sequence[object], where: str) -> None:
    """Raise `InputError` if two names of classes read alike: they would be two classes of one kind."""
    for alike in read_alike(list(map(str, names))):
        raise InputError(f"{where}: {' and '.join(map(repr, alike))} read alike; keep one of them")


def describe(value: Any) -> str:
    """Show a value of a document, at most 60 characters of it, for an error line."""
    if value is None:
        return "nothing"
    if isinstance(value, (list, Mapping)) and not value:
        return "an empty list" if isinstance(value, list) else "an empty mapping"
    text = _SHORT.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
