"""The apps of tests/apps, each as a Git repository of its own with a store, images and a target."""

from __future__ import annotations

import shutil
from pathlib import Path

from support.repositories import Repository
from support.tiny import free_port
from tandem import settings as tandem_settings
from tandem.build.app_build import AppBuild
from tandem.release.app import own_name
from tandem.release.build import build_app
from tandem.release.deploy import Deployed, deploy
from tandem.release.judging import judge_missing
from tandem.release.pack import pack
from tandem.release.pair import choose_pair
from tandem.release.project import Project
from tandem.release.prove import prove
from tandem.release.record import record_release
from tandem.release.records import ReleaseRecord

ROOT = Path(__file__).resolve().parents[2]
APPS = ROOT / "tests" / "apps"


class AppRepository:
    """One app as its developer has it, and the project that releases it."""

    def __init__(self, name: str, folder: Path, **settings: str) -> None:
        self.folder = folder / name
        shutil.copytree(APPS / name, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        self.repository = Repository(self.folder)
        self.repository.commit({}, "first")
        self.settings = {
            "TANDEM_STORE": f"file:{folder / 'store'}",
            "TANDEM_REGISTRY": f"oci:{folder / 'images'}",
            "TANDEM_TARGET": f"process:{free_port()}",
            "TANDEM_SOURCE": f"{self.folder}#main",
            "TANDEM_STATE": str(folder / "state"),
            **settings,
        }
        self.project = Project(own_name(self.folder), tandem_settings.load(self.settings))

    def say(self, lines: str) -> None:
        """Add lines to its pyproject.toml, and commit them."""
        path = self.folder / "pyproject.toml"
        before = f"{path.read_text()}\n" if path.exists() else ""
        self.repository.commit({"pyproject.toml": before + lines}, "say how it is released")

    def build(self) -> AppBuild:
        """Test the newest commit and make its image; red tests fail with what they printed."""
        build = build_app(self.project)
        assert build.passed, f"{build.report.summary}\n{build.report.output}"
        return build

    def release(self) -> tuple[Deployed, ReleaseRecord]:
        """The whole way, from the commit to the record of what is live."""
        self.build()
        judge_missing(self.project)
        image = prove(self.project, pack(self.project, choose_pair(self.project)))
        assert image.good, image.proofs
        deployed = deploy(self.project)
        return deployed, record_release(self.project, trigger="test")

    def stop(self) -> None:
        """Take down what is live."""
        self.project.target.stop(progress=lambda _: None)
