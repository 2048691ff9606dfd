"""Which real services are there: a test asks with `require`, and skips or fails as TANDEM_REQUIRE
says.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import urllib.error
import urllib.request

import pytest


def _variable(*names: str) -> str | None:
    missing = [name for name in names if not os.environ.get(name)]
    return f"{', '.join(missing)} not set" if missing else None


def _program(name: str) -> str | None:
    return None if shutil.which(name) else f"no program {name} on the PATH"


def _command(*argv: str) -> str | None:
    if problem := _program(argv[0]):
        return problem
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    return None if done.returncode == 0 else f"`{' '.join(argv)}` says {done.stderr.strip()[:200]}"


def _registry() -> str | None:
    if problem := _variable("REGISTRY", "REGISTRY_USERNAME", "REGISTRY_PASSWORD"):
        return problem
    try:
        urllib.request.urlopen(f"http://{os.environ['REGISTRY']}/v2/", timeout=5)
    except urllib.error.HTTPError as answer:
        return None if answer.code == 401 else f"registry answers {answer.code}"
    except OSError as problem:
        return f"registry does not answer: {problem}"
    return None


CHECKS = {
    "docker": lambda: _variable("DOCKER_HOST") or _command("docker", "info"),
    "registry": _registry,
    "azurite": lambda: _variable("AZURE_STORAGE_CONNECTION_STRING"),
    "kubernetes": lambda: _variable("KUBECONFIG") or _command("kubectl", "get", "nodes"),
    "base-image": lambda: _variable("BASE_IMAGE"),
    "chromium": lambda: _program("chromium"),
    "skopeo": lambda: _program("skopeo"),
    "wrk": lambda: _program("wrk"),
}


@functools.cache
def problem_with(service: str) -> str | None:
    """Why the service cannot be used here, or None."""
    return CHECKS[service]()


def require(service: str) -> None:
    """Skip the test where the service is missing; fail it where TANDEM_REQUIRE names it."""
    if problem := problem_with(service):
        if service in os.environ.get("TANDEM_REQUIRE", "").split(","):
            pytest.fail(f"TANDEM_REQUIRE names {service}: {problem}")
        pytest.skip(f"needs {service}: {problem}")
