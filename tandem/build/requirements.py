"""What a commit asks to be installed, as people write it: read, cleaned, and checked."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from tandem.errors import RecipeError, one_line

WINDOWS_ONLY = {
    "comtypes", "pypiwin32", "pywin32", "pywin32-ctypes", "pywinpty", "win-inet-pton",
    "win32-setctime", "wincertstore", "windows-curses", "winshell", "wmi",
}  # fmt: skip
RENAMED = {"sklearn": "scikit-learn"}
"""Names on the index that install nothing, and what was meant."""
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^]]*\])?\s*(.*)", re.DOTALL)


class Requirements(msgspec.Struct, frozen=True, kw_only=True):
    """The lines of a requirements file without comments and includes.

    `notes`: what was changed, a sentence each; `hashed`: every line pins a version by hash.
    """

    lines: list[str]
    constraints: list[str]
    options: list[str]
    """Lines that name where to fetch from; only hosts that the operator allows."""
    hashed: bool
    notes: list[str]

    @property
    def names(self) -> set[str]:
        """What is asked for by name."""
        return {name for line in self.lines if (name := name_of(line))}


def read_requirements(folder: Path, name: str) -> Requirements:
    """The file `name` of a checkout with all that it includes. Raises `RecipeError`."""
    notes: list[str] = []
    lines: list[str] = []
    constraints: list[str] = []
    options: list[str] = []
    for line in _expanded(folder, name, notes, seen=set()):
        kind, _, rest = line.partition(" ")
        if kind == "--constraint":
            constraints += _expanded(folder, rest, notes, seen=set())
        elif re.fullmatch(r"(-i|--index-url)[\s=]+https://pypi\.org/simple/?", line):
            pass  # where it is looked for anyway, unless the operator says otherwise
        elif re.match(r"(-e|--editable)[\s=]+\.", line):
            notes.append(f"{name}: the repository itself is packed, not installed")
        elif line.startswith("-"):
            _check_sources(name, line)
            options.append(line)
        elif cleaned := _cleaned(name, line, notes):
            lines.append(cleaned)
    return Requirements(
        lines=lines,
        constraints=constraints,
        options=options,
        hashed=bool(lines) and all("--hash=" in line for line in lines),
        notes=list(dict.fromkeys(notes)),
    )


def name_of(line: str) -> str:
    """The normalized name of what a line asks for; empty for a line that names nothing."""
    found = _NAMED.match(line)
    return re.sub(r"[-_.]+", "-", found[1]).lower() if found else ""


def read_text(path: Path) -> str:
    """A text file as Windows or anything else writes it. Raises `RecipeError`."""
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise RecipeError(f"{path.name} cannot be read: {problem.strerror}") from None
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"", "utf-8-sig")):
        if data.startswith(mark):
            try:
                return data.decode(encoding)
            except UnicodeDecodeError:
                break
    raise RecipeError(f"{path.name} is neither UTF-8 nor UTF-16 text: save it as UTF-8")


def from_pylock(folder: Path, name: str) -> list[str]:
    """The pinned lines of a pylock.toml (PEP 751) with the hashes of its files.

    Where to fetch from is not taken over: that is the operator's to say. Raises `RecipeError`.
    """
    try:
        packages = tomllib.loads(read_text(folder / name))["packages"]
        lines = []
        for package in packages:
            files = [*package.get("wheels", []), *filter(None, [package.get("sdist")])]
            if "version" not in package or not files:
                raise RecipeError(
                    f"{name}: {package['name']} comes from no index: expected a version with wheels"
                )
            marker = f" ; {package['marker']}" if package.get("marker") else ""
            hashes = {f"--hash=sha256:{file['hashes']['sha256']}" for file in files}
            line = f"{package['name']}=={package['version']}{marker}"
            lines.append(" ".join([line, *sorted(hashes)]))
        return lines
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as problem:
        raise RecipeError(f"{name} is no lock file (PEP 751): {one_line(problem)}") from None


def _expanded(folder: Path, name: str, notes: list[str], seen: set[str]) -> Iterator[str]:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise RecipeError(f"{name}: expected a path inside the repository")
    if name in seen:
        return
    seen.add(name)
    text = read_text(path)
    if path.read_bytes()[:1] in (b"\xff", b"\xfe"):
        notes.append(f"{name} is UTF-16 text")
    for raw in re.sub(r"\\\r?\n", " ", text.replace("\0", "")).splitlines():
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        found = re.match(r"(-r|--requirement|-c|--constraint)[\s=]+(\S+)", line)
        if found:
            other = (Path(name).parent / found[2]).as_posix()
            if found[1] in ("-r", "--requirement"):
                yield from _expanded(folder, other, notes, seen)
            else:
                yield f"--constraint {other}"
        elif line:
            yield line


def _cleaned(name: str, line: str, notes: list[str]) -> str:
    if line in (".", "./"):
        notes.append(f"{name}: the repository itself is packed, not installed")
        return ""
    _check_sources(name, line)
    found = _NAMED.fullmatch(line)
    if found is None:
        raise RecipeError(f"{name} has the line {line[:80]!r}: expected a library by its name")
    asked = name_of(line)
    if asked in WINDOWS_ONLY:
        notes.append(f"{name}: {asked} is for Windows alone and left out")
        return ""
    if asked in RENAMED:
        notes.append(f"{name}: {asked} stands for {RENAMED[asked]}")
        return RENAMED[asked]
    return line


def _check_sources(name: str, line: str) -> None:
    """Refuse a line that names where to fetch from, on its own account."""
    hosts = {urlsplit(url).hostname or "" for url in re.findall(r"[\w+.-]+://\S+", line)}
    allowed = {
        host.strip().lower() for host in os.environ.get("TANDEM_ALLOWED_HOSTS", "").split(",")
    }
    if hosts - allowed or "" in hosts or (not hosts and re.search(r"^[./]|\s@\s", line)):
        shown = re.sub(r"://[^/@\s]+@", "://", line)[:80]
        raise RecipeError(
            f"{name} has the line {shown!r}: expected libraries by name, or a URL of a host that "
            "TANDEM_ALLOWED_HOSTS names"
        )
