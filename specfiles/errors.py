"""The one error that a user is meant to read."""

from collections.abc import Mapping

FEW = 8  # names that are listed beside the nearest
MOST_PROPOSED = 3  # names that are probably meant
TYPO = 0.7  # similarity from which a name is another one misspelt
LEAST_BEGUN = 4  # characters with which a name must begin to be meant
MOST_LISTED = 15  # names in one sentence; the list command shows the rest
_IGNORED = dict.fromkeys(map(ord, "-_ "))


class InputError(ValueError):
    """Wrong input: one sentence that says what was asked, what exists and what to do.

    The command line prints it on stderr and exits with code 2; it never carries a traceback.
    """


def reason(error: BaseException) -> str:
    """The first line of what an error says, under its kind where that is not one that speaks for itself.

    >>> reason(RuntimeError("out of room\nat 7")), reason(TypeError("no number")), reason(MemoryError())
    ('out of room', 'TypeError: no number', 'MemoryError')
    """
    first = next(iter(str(error).strip().splitlines()), "")
    if first and isinstance(error, InputError | RuntimeError):
        return first
    return ": ".join(filter(None, (type(error).__name__, first)))


def nearest(asked: str, known: list[str], *, most: int = MOST_PROPOSED, cutoff: float = 0.5) -> list[str]:
    """The known names that `asked` was probably meant to be, best first; `cutoff` is the least similarity."""
    import difflib

    by_plain = {plain(name): name for name in known}
    close = difflib.get_close_matches(plain(asked), by_plain, n=most, cutoff=cutoff)
    return [by_plain[name] for name in close]


def plain(name: str) -> str:
    """The form in which names are compared: case, `-`, `_` and spaces do not matter.

    A point does: OPT-1.3b is not OPT-13b.

    >>> plain("H100-SXM5 80GB") == plain("h100_sxm5_80gb")
    True
    """
    return name.casefold().translate(_IGNORED)


def _begins(asked: str, name: str) -> bool:
    """Whether a name begins with what was asked, where that is long enough to mean it."""
    return len(plain(asked)) >= LEAST_BEGUN and plain(name).startswith(plain(asked))


def choose(
    asked: str, known: list[str], what: str, *, do: str = "", aliases: Mapping[str, str] | None = None
) -> InputError:
    """The error for a name that does not exist: it lists what would have worked.

    `aliases` are other words for known names; of a name and its aliases the nearest is proposed. Names that
    begin with `asked` come before those that are spelt like it.
    """
    meant = aliases or {}
    ranked: dict[str, str] = {}
    begun = sorted((name for name in known if _begins(asked, name)), key=len)
    for name in (*begun, *nearest(asked, [*meant, *known], most=MOST_LISTED if meant else MOST_PROPOSED)):
        ranked.setdefault(meant.get(name, name), name)
    close = [*ranked.values()][:MOST_PROPOSED]
    more = f" and {len(known) - MOST_LISTED} more" if len(known) > MOST_LISTED else ""
    listed = f"known: {', '.join(known[:MOST_LISTED])}{more}."
    hint = f"did you mean {' or '.join(close)}?" if close else listed
    if close and len(close) < len(known) <= FEW:
        hint += f" ({listed[:-1]})"
    return InputError(f"no {what} named {asked!r}; {hint}" + (f" {do}" if do else ""))
