"""A virtual environment with just what a lock file names; made once a lock."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tandem.util.files import locked
from tandem.util.venv import bare_python

log = logging.getLogger("tandem.build")


def locked_environment(lock: Path, home: Path) -> Path:
    """The `python` of a virtual environment with just what the lock file names; made once a lock.

    Raises `BuildError` when something cannot be installed with the hash that is locked.
    """
    from tandem.oci.app_image.wheels import install

    content = lock.read_bytes() + sys.version.encode()
    folder = home / hashlib.sha256(content).hexdigest()[:16]
    libraries = install(lock, folder / "lib", progress=log.info)
    python = bare_python(folder) / "bin" / "python"
    packages = next((python.parent.parent / "lib").glob("python*")) / "site-packages"
    # Not by a .pth file: tools tell a library from the commit's own code by where it is (hypothesis
    # reads all of the latter before its first test).
    with locked(folder / ".lock"):
        if not packages.is_symlink():
            shutil.rmtree(packages, ignore_errors=True)
            # The tests may not write here, so the byte code is made now.
            compiling = [str(python), "-I", "-m", "compileall", "-q", str(libraries)]
            subprocess.run(compiling, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            packages.symlink_to(libraries.absolute())
    os.utime(folder)  # what is not used for long is removed
    return python
