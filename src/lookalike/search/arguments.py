"""What users pass to a search, as queries: images, rows, texts, URLs and embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lookalike.errors import InputError
from lookalike.files import is_url
from lookalike.search.request import Example, Query, as_vectors

if TYPE_CHECKING:
    from lookalike.sources.inputs import InputImage

_QUERIES = (
    "pass one of {query}, {id}, {text}, {url}, {vector} and {vectors}, or {like} with {unlike}"
)
_LONGEST = 100
"""Characters of an argument that a message shows."""

_NAMES = ("query", "id", "text", "url", "vector", "vectors", "like", "unlike")


def read_queries(
    gallery: object,
    values: Mapping[str, Any],
    query: object,
    value_range: tuple[float, float] | None,
) -> tuple[list[Query], bool]:
    """Return queries of one example, and whether it is one query, not a list of one."""
    names = [name for name, value in values.items() if value is not None]
    if len(names) + (query is not None) > 1:
        given = [*(["query"] if query is not None else []), *names]
        raise InputError(
            f"{' and '.join(f'{{{name}}}' for name in given)} exclude each other; {_QUERIES}",
            **dict.fromkeys(_NAMES),
        )
    if query is not None:
        examples, single = _examples(gallery, query, "query", value_range)
    elif not names:
        return [Query()], True
    else:
        examples, single = _value_examples(names[0], values[names[0]])
    return [Query((example,)) for example in examples], single


def combine_examples(
    gallery: object,
    like: object,
    unlike: object,
    text: object,
    weights: object,
    value_range: tuple[float, float] | None,
) -> Query:
    """Return one query of several examples."""
    positive, negative = (
        [] if values is None else _examples(gallery, values, name, value_range)[0]
        for name, values in (("like", like), ("unlike", unlike))
    )
    return Query.combine(
        positive, negative, None if text is None else _text_example(text), weights=weights
    )


def _examples(
    gallery: object, values: object, argument: str, value_range: tuple[float, float] | None
) -> tuple[list[Example], bool]:
    """Return images, items and embeddings as examples, and whether it is one.

    Raises:
        InputError: they are something else, or none.
    """
    from lookalike.sources.inputs import as_images  # loads all decoders

    if isinstance(values, Iterator):
        values = list(values)  # what they are is looked at twice
    one = _special(gallery, values, argument)
    if one is not None:
        return [one], True
    several = values if isinstance(values, list | tuple) else ()
    for value in (values, *several):
        if isinstance(value, str) and is_url(value):
            raise InputError(
                f"{{{argument}}} {value[:_LONGEST]!r} is a URL; pass it as {{url}}",
                **{argument: None, "url": None},
            )
    special = [_special(gallery, value, f"{argument}[{i}]") for i, value in enumerate(several)]
    if not any(example is not None for example in special):
        images = as_images(values, argument=argument, value_range=value_range)
        return [_image_example(image, argument) for image in images], images.single
    examples: list[Example] = []
    for place, (value, example) in enumerate(zip(several, special, strict=True)):
        if example is not None:
            examples.append(example)
            continue
        images = as_images(value, argument=f"{argument}[{place}]", value_range=value_range)
        examples += [_image_example(image, argument) for image in images]
    return examples, False


def _special(gallery: object, value: object, argument: str) -> Example | None:
    """Return the example of a row of a gallery, or of an embedding; None if it is neither."""
    from lookalike.sources.inputs import as_images

    if isinstance(value, Example):
        return value
    owner, row_id = getattr(value, "gallery", None), getattr(value, "id", None)
    if owner is not None and isinstance(row_id, str):
        if owner is gallery or owner == gallery:
            return Example(id=row_id)
        return Example(image=as_images(value, argument=argument)[0], stored=True)
    is_vector = isinstance(value, np.ndarray) or hasattr(value, "detach")
    if argument.startswith("query") or not is_vector or getattr(value, "ndim", 0) != 1:
        return None
    if isinstance(value, np.ndarray) and value.dtype.kind in "OSU":  # of paths
        return None
    return Example(vector=as_vectors("vector", value, ndim=1))


def _image_example(image: InputImage, argument: str) -> Example:
    """Return an image as an example; that of an item among several may be a row."""
    return Example(image=image, stored=argument != "query" and image.item_id is not None)


def _value_examples(name: str, values: object) -> tuple[list[Example], bool]:
    """Return ids, texts, URLs or vectors as examples, and whether it is one."""
    if name == "vector":
        return [Example(vector=values)], True  # type: ignore[arg-type]  # which it checks
    if name == "vectors":
        return [Example(vector=row) for row in as_vectors(name, values, ndim=2)], False
    if isinstance(values, str):
        return [_named_example(name, values)], True
    is_table = isinstance(values, bytes | Mapping) or hasattr(values, "columns")
    if is_table or not isinstance(values, Iterable):
        raise InputError(
            f"{{{name}}} must be a string or a list of strings, not {type(values).__name__}",
            **{name: None},
        )
    examples = []
    for value in values:
        if not isinstance(value, str):
            raise InputError(
                f"{{{name}}} must be a string or a list of strings; one of the list is "
                f"{type(value).__name__}",
                **{name: None},
            )
        examples.append(_named_example(name, value))
    if not examples:
        raise InputError(f"{{{name}}} is an empty list: pass at least one", **{name: None})
    return examples, False


def _named_example(name: str, value: str) -> Example:
    fields: dict[str, Any] = {name: value}
    return Example(**fields)


def _text_example(text: object) -> Example:
    if not isinstance(text, str):
        raise InputError(
            "{text} beside {like} and {unlike} must be one string",
            text=None,
            like=None,
            unlike=None,
        )
    return Example(text=text)


def refuse_other(**values: object) -> None:
    """Check that there is no other query beside several examples.

    Raises:
        InputError: there is one; it is named.
    """
    for name, value in values.items():
        if value is not None:
            raise InputError(
                f"{{{name}}} excludes {{like}} and {{unlike}}; pass an image or item as one of "
                "{like}",
                **{name: None},
                like=None,
                unlike=None,
            )
