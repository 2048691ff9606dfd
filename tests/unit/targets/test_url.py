"""What `TANDEM_TARGET` may be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tandem.errors import SettingError
from tandem.targets import open_target


def test_process_without_a_port_is_served_on_8080(tmp_path: Path) -> None:
    assert open_target("process:", state=tmp_path).url() == "http://127.0.0.1:8080"
    assert open_target("process:9000", state=tmp_path).url() == "http://127.0.0.1:9000"


@pytest.mark.parametrize("url", ["process", "process:x", "process:0", "process:70000", "ssh:", ""])
def test_any_other_form_is_refused_by_name(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingError, match="TANDEM_TARGET"):
        open_target(url, state=tmp_path)


def test_importing_the_targets_imports_no_client_library() -> None:
    heavy = "{'docker', 'kubernetes', 'azure', 'psutil', 'yaml', 'onnxruntime'}"
    code = f"import sys, tandem.targets.local.process; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_looking_at_a_target_that_never_served_makes_nothing(tmp_path: Path) -> None:
    target = open_target("process:", state=tmp_path / "state")
    assert target.current() is None
    assert target.stop(progress=print) is False
    assert not (tmp_path / "state").exists()
