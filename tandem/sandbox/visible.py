"""What of this machine a sandbox shows."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tandem.errors import SandboxError

SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"),
    *("/etc/alternatives", "/etc/ca-certificates", "/etc/fonts", "/etc/ld.so.cache"),
    *("/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types"),
    *("/etc/nsswitch.conf", "/etc/pki/tls/certs", "/etc/ssl/certs", "/etc/ssl/openssl.cnf"),
    *("/etc/timezone",),
)


def shown(folder: Path, readable: Sequence[Path], writable: Sequence[Path]) -> dict[str, bool]:
    """What is shown, by path, and whether it may be written."""
    visible: dict[str, bool] = {}
    # An interpreter of the system is in /usr, which is shown anyway.
    own = [Path(p) for p in {sys.base_prefix, sys.base_exec_prefix} if p != "/usr"]
    for paths, may_write in (((*own, *readable), False), ((folder, *writable), True)):
        for path in paths:
            for name in (str(path.absolute()), os.path.realpath(path)):
                if not Path(name).exists():
                    raise SandboxError(f"{name} is to be shown in a sandbox, and does not exist")
                visible[name] = may_write
    if "/" in visible:
        raise SandboxError("all of this machine is to be shown in a sandbox: name folders below /")
    # Through the name with a link in it nothing can be mounted inside the folder of its real name.
    return {p: w for p, w in visible.items() if os.path.realpath(p) == p or not _below(p, visible)}


def _below(path: str, others: Mapping[str, bool]) -> bool:
    return any(path.startswith(f"{other}/") for other in (*others, "/usr"))
