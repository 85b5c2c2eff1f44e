"""All package metadata lives in settings.ini; this file only hands it to setuptools."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]


def lines(key: str) -> list[str]:
    return [line.strip() for line in settings.get(key, "").splitlines() if line.strip()]


setup(
    version=settings["version"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    license_expression=settings["license"],
    keywords=settings["keywords"].split(),
    packages=find_packages(include=[settings["lib_name"], settings["lib_name"] + ".*"]),
    package_data={settings["lib_name"]: ["py.typed", "*.pyi", "data/files/*", "deploy/files/*"]},
    install_requires=lines("requirements"),
    extras_require={k.removesuffix("_requirements"): lines(k) for k in settings if k.endswith("_requirements")},
    entry_points={"console_scripts": lines("console_scripts"), "nbdev": [f"{settings['lib_name']}={settings['lib_path']}._modidx:d"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
