"""The sandbox that chat templates run in: transformers' own, in which no single step makes a giant.

A template is stopped at its next Python instruction, so one call of C that takes minutes, or all memory, is stopped by
nothing: what would make a long text or a large number is measured before it is done. What a container holds twice
counts twice, since it is written out twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set, ValuesView
from functools import wraps
from itertools import chain
from typing import Any, cast

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

# A request has 2,000,000 bytes; a template may write them a few times.
MAX_CHARS = 16_000_000
MAX_TEMPLATE_CHARS = 1_000_000
MAX_NUMBER_BITS = 4096
_MAX_WIDTH = 10_000
_MAX_DIGITS = 1000
# An item weighs as much as its look costs in time.
_ITEM_CHARS = 16
_MAX_SENTENCE_CHARS = 1000
# Methods and filters that make much of little and that no chat needs.
_REFUSED_METHODS = ("encode", "expandtabs", "format_map", "maketrans", "translate")
_REFUSED_FILTERS = ("pprint", "urlize", "wordwrap", "xmlattr")
_PADDING = ("center", "ljust", "rjust", "zfill")
# The largest number, or longest text, that these filters take beside their value.
_MOST = {
    "batch": _MAX_WIDTH,
    "center": _MAX_WIDTH,
    "indent": _MAX_WIDTH,
    "round": 100,
    "slice": _MAX_WIDTH,
    "tojson": 100,
}
_WRITES_ITS_VALUE_OUT = (
    *("capitalize", "center", "e", "escape", "forceescape", "format", "indent", "int", "lower", "replace", "safe"),
    *("string", "striptags", "sum", "title", "tojson", "trim", "truncate", "upper", "urlencode", "wordcount"),
)
_TAKES_A_SENTENCE = frozenset(("raise_exception", "strftime_now"))
_SEQUENCES = (str, list, tuple)
_CONTAINERS = (list, tuple, Set, ValuesView)
_NUMBER = re.compile(r"\d+")
# Width and precision of a field of `%`; what stands behind the colon in one of `format`, also with a field in it.
_PERCENT = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(\d+|\*)?(?:\.(\d+|\*))?")
_SPEC = re.compile(r"\{[^{}]*:([^}]*)")
_NESTED = re.compile(r"\{[^{}]*:[^}]*\{")
_LOOKS_UP = re.compile(r"\{[^{}]*[.\[]")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox in whose templates texts have at most `MAX_CHARS` and whole numbers `MAX_NUMBER_BITS`.

    A step beyond raises SecurityError.
    """

    intercepted_binops = frozenset(("+", "*", "**", "%", "//"))

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, finalize=_shown, **options)

    def from_string(self, source: str | nodes.Template, *arguments: Any, **options: Any) -> Template:
        if isinstance(source, str) and len(source) > MAX_TEMPLATE_CHARS:
            raise SecurityError(f"the template has more than {MAX_TEMPLATE_CHARS} characters")
        self.filters = {name: _bounded(name, made) for name, made in self.filters.items()}
        for name in _REFUSED_FILTERS:
            self.filters.pop(name, None)
        for name in _TAKES_A_SENTENCE & self.globals.keys():
            self.globals[name] = _of_sentences(cast("Callable[[str], Any]", self.globals[name]))
        return super().from_string(source, *arguments, **options)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """`a ~ b` becomes `[a, b]|join`: the compiler leaves no other way to measure it."""
        tree = super()._parse(source, name, filename)
        for concat in list(tree.find_all(nodes.Concat)):
            pieces = nodes.List(concat.nodes, lineno=concat.lineno)
            concat.nodes = [nodes.Filter(pieces, "join", [], [], None, None, lineno=concat.lineno)]
        tree.set_environment(self)
        return tree

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        return "".join(_listed(pieces))

    def getitem(self, obj: Any, argument: Any) -> Any:
        if not isinstance(argument, str | int):
            weigh(argument)  # what is not there is shown
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, int | float) or (isinstance(obj, str) and attr in _REFUSED_METHODS):
            return False
        return bool(super().is_safe_attribute(obj, attr, value))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text: str = value.__self__

        def bounded(*arguments: Any, **named: Any) -> str:
            if _LOOKS_UP.search(text):
                raise SecurityError("format: fields of arguments are not looked up")
            _check_braces(text, (arguments, named))
            return wrapped(*arguments, **named)

        return bounded

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_binop(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name == "join":
            return owner.join(_listed(args[0] if args else (), owner))
        if isinstance(owner, str | list | tuple | dict):
            weigh((args, kwargs))  # what is not found is shown
        if isinstance(owner, str):
            _check_method(name, owner, args)
        return super().call(__context, __obj, *args, **kwargs)


def weigh(value: Any, *, indent: int = 0) -> int:
    """About how many characters the value has when it is written out, each level indented by so many.

    Raises:
        SecurityError: More than `MAX_CHARS`.
    """
    if isinstance(value, str):
        _check(len(value))
        return len(value)
    weight, left = 0, [iter((value,))]
    while left:
        for one in left[-1]:
            weight += _ITEM_CHARS + indent * len(left) + (len(one) if isinstance(one, str) else 0)
            _check(weight)
            if (parts := _parts(one)) is not None:
                left.append(iter(parts))
                break
        else:
            left.pop()
    return weight


def _check(weight: int) -> None:
    if weight > MAX_CHARS:
        raise SecurityError(f"a text or list of more than {MAX_CHARS} characters")


def _parts(value: Any) -> Iterable[Any] | None:
    """What is written where the value is; None for what holds nothing."""
    if isinstance(value, str | int | float | None):
        return None
    if isinstance(value, Mapping):
        return chain.from_iterable(value.items())
    if isinstance(value, Namespace):
        return list(object.__getattribute__(value, "_Namespace__attrs").values())
    return value if isinstance(value, _CONTAINERS) else None


def _check_binop(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > MAX_NUMBER_BITS:
            raise SecurityError(f"a number of more than {MAX_NUMBER_BITS} bits")
    elif operator == "%" and isinstance(left, str):
        _check_percent(left, right)
    elif operator == "+" and isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES):
        _check(len(left) + len(right))
    elif operator == "*":
        for repeated, count in ((left, right), (right, left)):
            if isinstance(repeated, _SEQUENCES) and isinstance(count, int):
                _check(len(repeated) * count)


def _check_percent(text: str, values: Any) -> None:
    """Refuse `text % values` whose widths, or what it shows, are long; a width may stand among the values."""
    widths = [width for pair in _PERCENT.findall(text) for width in pair]
    _check_format(text.count("%"), values, widths, has_wide_values="*" in widths)


def _check_braces(text: str, values: Any) -> None:
    """The same of `text.format`."""
    widths = [width for spec in _SPEC.findall(text) for width in _NUMBER.findall(spec)]
    _check_format(text.count("{"), values, widths, has_wide_values=bool(_NESTED.search(text.replace("{{", ""))))


def _check_format(num_fields: int, values: Any, widths: Iterable[str], *, has_wide_values: bool) -> None:
    weight = weigh(values)
    numbers = [int(width[:_MAX_DIGITS]) for width in widths if width.isdecimal()]
    if has_wide_values:
        numbers += _numbers(values)
    if any(abs(number) > _MAX_WIDTH for number in numbers):
        raise SecurityError(f"a format wider than {_MAX_WIDTH} characters")
    _check(num_fields * (weight + 1) + sum(map(abs, numbers)))


def _numbers(values: Any) -> Iterable[int]:
    parts = _parts(values)
    if parts is None:
        return (values,) if isinstance(values, int) else ()
    return chain.from_iterable(map(_numbers, parts))


def _check_replace(text: str, old: Any = "", new: Any = "", count: Any = None) -> None:
    _check(len(text) + text.count(str(old)) * len(str(new)))


def _check_method(name: str, text: str, args: Sequence[Any]) -> None:
    if name in _PADDING and args and isinstance(args[0], int):
        _check(args[0])
    if name == "replace" and all(isinstance(one, str) for one in args[:2]):
        _check_replace(text, *args)


def _listed(pieces: Iterable[Any], separator: str = "") -> list[Any]:
    """The pieces, once it is plain that they fit into one text."""
    kept = list(pieces)
    _check(weigh(kept) + len(kept) * len(separator))
    return kept


def _shown(value: Any) -> Any:
    """What `{{ value }}` writes."""
    if not isinstance(value, str):
        weigh(value)
    return value


def _bounded(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that measures what it is given before it runs."""
    num_own = 1 if hasattr(made, "jinja_pass_arg") else 0

    @wraps(made)
    def bounded(*arguments: Any, **named: Any) -> Any:
        own, value, others = arguments[:num_own], arguments[num_own], arguments[num_own + 1 :]
        if others or named:
            weigh((others, named))
        if name == "join":
            value = _listed(value, str(named.get("d", others[0] if others else "")))
        _check_filter(name, value, others, named)
        return made(*own, value, *others, **named)

    return bounded


def _check_filter(name: str, value: Any, others: Sequence[Any], named: Mapping[str, Any]) -> None:
    sizes = [abs(one) if isinstance(one, int) else weigh(one) for one in (*others, *named.values())]
    largest = max(sizes, default=1)
    if largest > _MOST.get(name, largest):
        raise SecurityError(f"{name}: an argument larger than {_MOST[name]}")
    if name in _WRITES_ITS_VALUE_OUT:
        weigh(value, indent=largest if name == "tojson" else 0)
    if name == "int" and isinstance(value, str) and len(value) > _MAX_DIGITS:
        raise SecurityError(f"a number of more than {_MAX_DIGITS} digits")
    if name == "indent":
        _check(len(str(value)) + str(value).count("\n") * max(largest, 4))
    elif name == "replace":
        _check_replace(str(value), *others, **named)
    elif name == "format":
        _check_percent(str(value), (others, named))


def _of_sentences(function: Callable[[str], Any]) -> Callable[[str], Any]:
    @wraps(function)
    def bounded(sentence: Any) -> Any:
        weigh(sentence)
        return function(str(sentence)[:_MAX_SENTENCE_CHARS])

    return bounded
