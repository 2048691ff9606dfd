"""A recipe's question tables, read into questions that are ready to be sent.

One table each; everything but `path` has a default:

    [[tool.tandem.app.question]]
    method = "POST"                        # GET, or POST where something is sent
    path = "/predict"
    headers = { Accept = "application/json" }
    json = { sepal = 5.1 }                 # or form = {…}, files = {…}, body = "…", file = "PATH"
    seconds = 30                           # in which the answer must begin
    expect.status = 200                    # or a list
    expect.json.label = "setosa"           # parts of a JSON answer, as deep as need be
    expect.tolerance = 0.01                # by which the numbers in it may differ
    expect.text = ["setosa"]               # contained in the answer
"""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec

from tandem.errors import SettingError
from tandem.service.http import TIMEOUT
from tandem.service.questions import Expected, Question

TABLE = "[[tool.tandem.app.question]]"
MOST_SENT = 4 * 2**20
"""Bytes of a file that a question sends: it is kept with the record of the build."""
MOST_SECONDS = 120.0


class _ExpectTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    status: int | list[int] = 200
    json: Any = None
    tolerance: float = 0.0
    text: str | list[str] = []


class _QuestionTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    method: str = ""
    path: str = "/"
    headers: dict[str, str] = {}
    json: Any = None
    form: dict[str, str | int | float | bool] = {}
    files: dict[str, str] = {}
    body: str | None = None
    file: str | None = None
    seconds: float = TIMEOUT
    expect: _ExpectTable = _ExpectTable()


def read_questions(tables: Sequence[object], folder: Path) -> tuple[Question, ...]:
    """The questions of a recipe; the files that they send are read below `folder`.

    Raises `SettingError` that names the table and what is wrong with it.
    """
    return tuple(
        _question(table, folder, f"{TABLE} number {number}")
        for number, table in enumerate(tables, start=1)
    )


def _question(table: object, folder: Path, where: str) -> Question:
    try:
        read = msgspec.convert(table, _QuestionTable)
    except msgspec.ValidationError as problem:
        raise SettingError(f"{where}: {problem}") from None
    if not read.path.startswith("/"):
        raise SettingError(f"{where}: path = {read.path!r}, expected a path such as '/predict'")
    if not 0 < read.seconds <= MOST_SECONDS:
        raise SettingError(
            f"{where}: seconds = {read.seconds:g}, expected at most {MOST_SECONDS:g}"
        )
    if not read.expect.tolerance >= 0:
        raise SettingError(f"{where}: expect.tolerance is below zero")
    body, media_type = _content(read, folder, where)
    method = (read.method or ("GET" if body is None else "POST")).upper()
    if not method.isascii() or not method.isalpha():
        raise SettingError(f"{where}: method = {read.method!r}, expected one such as GET or POST")
    if any(ord(letter) < 32 for pair in read.headers.items() for text in pair for letter in text):
        raise SettingError(f"{where}: a header contains a line break")
    named = {name.lower() for name in read.headers}
    headers = {} if "content-type" in named or not media_type else {"Content-Type": media_type}
    status, text = read.expect.status, read.expect.text
    return Question(
        method=method,
        path=read.path,
        headers={**headers, **read.headers},
        body=body,
        seconds=read.seconds,
        expected=Expected(
            status=(status,) if isinstance(status, int) else tuple(status),
            json=read.expect.json,
            tolerance=read.expect.tolerance,
            text=(text,) if isinstance(text, str) else tuple(text),
        ),
    )


def _content(read: _QuestionTable, folder: Path, where: str) -> tuple[bytes | None, str]:
    """What is sent, and its media type; None where nothing is."""
    given = {
        "json": read.json is not None,
        "form": bool(read.form or read.files),
        "body": read.body is not None,
        "file": read.file is not None,
    }
    if sum(given.values()) > 1:
        both = " and ".join(name for name, is_given in given.items() if is_given)
        raise SettingError(f"{where}: it has {both}; a question sends one of them")
    if given["json"]:
        return msgspec.json.encode(read.json), "application/json"
    if read.files:
        return _multipart(read, folder, where)
    if read.form:
        return urlencode(_fields(read)).encode(), "application/x-www-form-urlencoded"
    if read.file is not None:
        return _read_file(folder, read.file, where), _media_type(read.file)
    return (None, "") if read.body is None else (read.body.encode(), "text/plain; charset=utf-8")


def _fields(read: _QuestionTable) -> dict[str, str]:
    """A form's fields as a browser sends them."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in read.form.items()
    }


def _multipart(read: _QuestionTable, folder: Path, where: str) -> tuple[bytes, str]:
    """The form with its files, as RFC 7578 writes it; the same bytes each time."""
    parts = [
        (f'name="{_quoted(name)}"', "", value.encode()) for name, value in _fields(read).items()
    ]
    for name, path in read.files.items():
        disposition = f'name="{_quoted(name)}"; filename="{_quoted(Path(path).name)}"'
        media_type = f"Content-Type: {_media_type(path)}\r\n"
        parts.append((disposition, media_type, _read_file(folder, path, where)))
    # Made of the content, which therefore cannot contain it.
    boundary = hashlib.sha256(b"".join(content for _, _, content in parts)).hexdigest()
    body = b""
    for disposition, media_type, content in parts:
        head = f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n{media_type}\r\n"
        body += head.encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _quoted(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _media_type(path: str) -> str:
    return mimetypes.guess_type(path)[0] or "application/octet-stream"


def _read_file(folder: Path, name: str, where: str) -> bytes:
    """A file of the commit; a link out of its folder is none."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise SettingError(f"{where}: the commit has no file {name!r}")
    if path.stat().st_size > MOST_SENT:
        raise SettingError(f"{where}: {name} is larger than {MOST_SENT // 2**20} MiB")
    return path.read_bytes()
