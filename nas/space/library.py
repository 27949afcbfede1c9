"""Where the shipped spaces and reference networks lie: in the wheel, or at the top of a checkout."""

from __future__ import annotations

from pathlib import Path

from nas.errors import UnknownNameError, nearest

_PACKAGE = Path(__file__).resolve().parents[1]


def folder() -> Path:
    """Return the folder of the shipped space files: `nas/_search_spaces` of a wheel, else the checkout's."""
    packed = _PACKAGE / "_search_spaces"
    return packed if packed.is_dir() else _PACKAGE.parent / "search_spaces"


def names() -> list[str]:
    """Return the shipped names: `v2`, `v2_tiny`, `reference/efficientnet_b0`, ..."""
    return sorted(path.relative_to(folder()).with_suffix("").as_posix() for path in folder().rglob("*.yaml"))


def find(name: str, beside: Path | None = None) -> Path:
    """Return the file of a space: a path as given or relative to `beside`, or a shipped name.

    A reference network may be named without its folder: `efficientnet_b0`.

    Raises:
        UnknownNameError: neither a file nor a shipped name.
    """
    for path in [Path(name)] if beside is None else [beside / name, Path(name)]:
        if path.suffix in {".yaml", ".yml"} and path.is_file():
            return path
    for shipped in (name, f"reference/{name}"):
        path = folder() / f"{shipped}.yaml"
        if path.is_file():
            return path
    if Path(name).is_file():
        raise UnknownNameError(f"{name}: is no YAML file. Give a space or an architecture (.yaml), or a run's folder.")
    short = [known.removeprefix("reference/") for known in names()]
    if Path(name).suffix in {".yaml", ".yml"} or "/" in name.removeprefix("reference/"):
        raise UnknownNameError(f"{name}: no such file. Give a .yaml file or a shipped name: {', '.join(short)}.")
    raise UnknownNameError(f"{name}: no space has this name. Known: {', '.join(short)}.{nearest(name, short)}")
