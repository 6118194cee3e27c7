"""A folder of spec files that people find by name, alias or path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from specfiles.errors import InputError, choose, plain
from specfiles.frozen import dataclass
from specfiles.reading import exists, read_text

FILES = (".json", ".yaml", ".yml")  # endings that no name of a model or device has
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
            for path in sorted(folder.iterdir(), key=lambda path: path.name)
            if path.suffix in self.suffixes
        ]

    def find(self, asked: str) -> Path:
        """The file for a path, a file stem, a name or an alias; an InputError lists the nearest."""
        if not asked.strip():
            raise choose(asked, [self.names(path)[0] for path in self.paths()], self.what)
        if exists(Path(asked), Path.is_file):
            return Path(asked)
        if asked.endswith(FILES):
            raise InputError(f"{asked}: no such file.")
        if (found := self.named(asked)) is not None:
            return found
        if exists(Path(asked), Path.is_dir):
            raise InputError(f"{asked}: is a folder, expected a {self.what} file or name.")
        named = list(map(self.names, self.paths()))
        raise choose(
            asked,
            [name for name, *_ in named],
            self.what,
            aliases={alias: name for name, *others in named for alias in others},
            do=(f"`roofline {self.listing} list` shows all; " if self.listing else "")
            + "a path to a file works too.",
        )

    def named(self, asked: str) -> Path | None:
        """The file of this stem, name or alias; None where there is none."""
        wanted = plain(asked)
        paths = self.paths()
        for path in paths:  # the file's own name first: no file needs opening for it
            if plain(path.stem) == wanted:
                return path
        # Parsing is what costs: files that mention the name somewhere come first, and one of them has it
        # unless it is written with escapes.
        mentioning = [path for path in paths if wanted in plain(read_text(path))]
        for path in (*mentioning, *paths):
            if wanted in map(plain, self.names(path)):
                return path
        return None

    def __iter__(self) -> Iterator[Path]:
        return iter(self.paths())
