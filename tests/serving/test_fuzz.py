"""A moment of coverage-guided fuzzing of each decoder, where atheris is installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).parents[1] / "support/fuzz_decoders.py"


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.parametrize("decoder", ["pictures", "score", "infer"])
def test_a_moment_of_fuzzing_finds_nothing_but_answers_and_refusals(decoder, tmp_path):
    bounds = ["-runs=2000", "-max_total_time=10", f"-artifact_prefix={tmp_path}/"]
    command = [sys.executable, str(FUZZER), decoder, *bounds]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr
