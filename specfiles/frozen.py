"""A faster `dataclass(frozen=True)`, for the classes that every prediction loads.

The standard decorator generates and compiles six functions per class, which takes 1 ms; a prediction in a new
process spent most of its time on a hundred classes. Here only `__init__` is compiled (a fifth of the time);
the others are closures over the names of the fields. To `fields`, `replace`, `asdict` and type checkers the
result is a dataclass. Subclasses must use this decorator, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    from dataclasses import MISSING, FrozenInstanceError, fields
    from dataclasses import dataclass as standard
    from operator import attrgetter
    from reprlib import recursive_repr

    def dataclass(*, frozen):
        """As the standard decorator; of `field`: `default`, `default_factory`, `compare` and `repr`."""
        assert frozen, "classes whose objects change are made by dataclasses.dataclass"
        return _made

    def _made(cls):
        own = set(vars(cls))
        cls = standard(init=False, repr=False, eq=False)(cls)
        known = fields(cls)
        methods = {
            "__init__": _init(cls, known),
            "__repr__": _repr([field.name for field in known if field.repr]),
            **_comparison([field.name for field in known if field.compare]),
            **_guards(cls, {field.name for field in known}),
        }
        for name, method in methods.items():
            if name not in own:
                method.__name__, method.__qualname__ = name, f"{cls.__qualname__}.{name}"
                setattr(cls, name, method)
        return cls

    def _init(cls, known):
        """Compiled, because the names of the fields are those of its parameters."""
        values = {"_set": object.__setattr__, "_absent": MISSING}
        parameters, body = [], []
        for field in known:
            name = parameter = value = field.name
            if field.default_factory is not MISSING:
                values[f"_make_{name}"] = field.default_factory
                parameter, value = f"{name}=_absent", f"_make_{name}() if {name} is _absent else {name}"
            elif field.default is not MISSING:
                values[f"_default_{name}"] = field.default
                parameter = f"{name}=_default_{name}"
            parameters.append(parameter)
            body.append(f"_set(self, {name!r}, {value})")
        if hasattr(cls, "__post_init__"):
            body.append("self.__post_init__()")
        lines = [f"def __init__(self, {', '.join(parameters)}):", *(body or ["pass"])]
        exec("\n ".join(lines), values)  # noqa: S102  (names that Python has read as names already)
        return values["__init__"]

    def _repr(names):
        @recursive_repr()
        def text(self):
            shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
            return f"{type(self).__qualname__}({shown})"

        return text

    def _comparison(names):
        values = _values(names)

        def equal(self, other):
            return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

        def hashed(self):
            return hash(values(self))

        return {"__eq__": equal, "__hash__": hashed}

    def _values(names):
        """An object's fields as a tuple, which `attrgetter` makes of two names or more."""
        if len(names) > 1:
            return attrgetter(*names)
        return lambda self: tuple(getattr(self, name) for name in names)

    def _guards(cls, names):
        """Only `__init__` may set fields; a subclass may have attributes that are not fields."""

        def assign(self, name, value):
            if type(self) is cls or name in names:
                raise FrozenInstanceError(f"cannot assign to field {name!r}")
            super(cls, self).__setattr__(name, value)

        def delete(self, name):
            if type(self) is cls or name in names:
                raise FrozenInstanceError(f"cannot delete field {name!r}")
            super(cls, self).__delattr__(name)

        return {"__setattr__": assign, "__delattr__": delete}
