"""What pyproject.toml cannot say: a wheel carries tools, recipes and the demo's weights inside the package.

In a source tree, and an editable install of one, they are read where they lie: SHIPPED in recognition/recipes.py.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("tools/*.py", "configs/*.py", "weights/demo_base.*")
WRITE_DOCUMENTS = ("describe_", "draw_")  # tools that write docs/ of a source tree


class Build(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib, "recognition", "shipped")
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier build: what has been removed since would stay
        for path in sorted(path for pattern in SHIPPED for path in Path().glob(pattern)):
            if not path.name.startswith(WRITE_DOCUMENTS):
                (folder / path.parent).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / path)


setup(cmdclass={"build_py": Build})
