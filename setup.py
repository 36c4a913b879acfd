"""Which packages are installed, and where.

A wheel has one package at its top, `fgvr`: `cluster`, `pipelines` and `tune` lie in `fgvr/_app/`, which
`fgvr/commands.py` and Ray's workers put on their path. Modules keep their names this way: a build step that renames
them would change what pickles and `runpy` find, and the tests of the checkout would say nothing of the wheel. An
editable installation (`make setup`) shows the checkout as it is.
"""

from __future__ import annotations

from setuptools import find_packages, setup
from setuptools.command.editable_wheel import editable_wheel

APP = ("cluster", "pipelines", "tune")
FGVR_DATA = ["demo/models/**/*", "report/*.html", "report/*.yaml", "review/page/*"]
PRESETS = ["configs/*.yaml"]

own = find_packages(include=["fgvr", "fgvr.*"])
app = find_packages(include=[pattern for name in APP for pattern in (name, f"{name}.*")])


class Editable(editable_wheel):
    """Shows the folders of the checkout under the names that they have there."""

    def finalize_options(self) -> None:
        """Undo the layout of the wheel."""
        self.distribution.packages = [*own, *app]
        self.distribution.package_dir = {}
        self.distribution.package_data = {"fgvr": FGVR_DATA, "pipelines": PRESETS}
        super().finalize_options()


setup(
    packages=[*own, *(f"fgvr._app.{name}" for name in app)],
    package_dir={f"fgvr._app.{name}": name.replace(".", "/") for name in app},
    package_data={"fgvr": FGVR_DATA, "fgvr._app.pipelines": PRESETS},
    cmdclass={"editable_wheel": Editable},
)
