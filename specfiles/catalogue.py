"""A folder of spec files that people find by name, alias or path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from specfiles.errors import InputError, choose, plain
from specfiles.reading import exists

Names = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Catalogue:
    """The files `folder/*suffix`; `names` reads a file's name and aliases without loading it all."""

    what: str
    folder: Path
    suffixes: tuple[str, ...]
    names: Names
    listing: str = ""  # the command group that lists the catalogue
    more: tuple[Path, ...] = ()  # further folders, looked through after the first

    def paths(self) -> list[Path]:
        """Every shipped file, in the order of its name."""
        return [
            path
            for folder in (self.folder, *self.more)
            for path in sorted(p for p in folder.iterdir() if p.suffix in self.suffixes)
        ]

    def find(self, asked: str) -> Path:
        """The file for a path, a file stem, a name or an alias; an InputError lists the nearest."""
        if exists(Path(asked), Path.is_file):
            return Path(asked)
        wanted = plain(asked)
        paths = self.paths()
        for path in paths:  # the file's own name first: no file needs opening for it
            if plain(path.stem) == wanted:
                return path
        known = {plain(name): path for path in paths for name in self.names(path)}
        if wanted in known:
            return known[wanted]
        if exists(Path(asked), Path.is_dir):
            raise InputError(f"{asked}: is a folder, expected a {self.what} file or name.")
        raise choose(
            asked,
            [self.names(path)[0] for path in paths],
            self.what,
            do=(f"`roofline {self.listing} list` shows all; " if self.listing else "")
            + "a path to a file works too.",
        )

    def __iter__(self) -> Iterator[Path]:
        return iter(self.paths())
