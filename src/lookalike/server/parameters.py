"""The arguments of an endpoint, resolved as FastAPI does, but prepared once for a route.

FastAPI inspects the types of all parameters again for each request, which took a quarter of the
event loop's time for a search.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from copy import deepcopy
from inspect import iscoroutinefunction
from typing import Any, get_args, get_type_hints

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.datastructures import QueryParams

Errors = list[Any]
"""As of :meth:`pydantic.ValidationError.errors`."""


class Endpoint:
    """A function that responds to requests, with its arguments.

    Args:
        dependant: the function with its parameters, as FastAPI describes them.
    """

    def __init__(self, dependant: Dependant) -> None:
        assert dependant.call is not None
        self.function: Callable[..., Awaitable[Any]] = dependant.call
        self._dependencies = [(each.name, Endpoint(each)) for each in dependant.dependencies]
        self._path = [_Parameter(each, "path") for each in dependant.path_params]
        self._query = [
            _Model(each) if _is_model(each) else _Parameter(each, "query")
            for each in dependant.query_params
        ]
        self._body = next((each.name for each in dependant.body_params), "")
        self._request = dependant.request_param_name

    async def respond(
        self, request: Request, body: Any = None, body_errors: Errors | None = None
    ) -> Response:
        """Call the function.

        Args:
            request: whose path and query are read.
            body: its validated body, if the function takes one.
            body_errors: what is wrong with the body.

        Raises:
            RequestValidationError: a parameter is missing or invalid, or the body is.
        """
        errors: Errors = []
        arguments = await self._arguments(request, errors, {})
        errors += body_errors or ()
        if errors:
            raise RequestValidationError(errors)
        if self._body:
            arguments[self._body] = body
        response: Response = await self.function(**arguments)
        return response

    async def _arguments(
        self, request: Request, errors: Errors, known: dict[Any, Any]
    ) -> dict[str, Any]:
        """Return the arguments but for a body; ``known`` are results of dependencies."""
        arguments: dict[str, Any] = {}
        for name, each in self._dependencies:
            if each.function not in known:
                before = len(errors)
                its_arguments = await each._arguments(request, errors, known)
                if len(errors) > before:
                    continue
                known[each.function] = await each.function(**its_arguments)
            if name is not None:
                arguments[name] = known[each.function]
        for in_path in self._path:
            arguments[in_path.name] = in_path.read(request.path_params, errors)
        for in_query in self._query:
            arguments[in_query.name] = in_query.read(request.query_params, errors)
        if self._request is not None:
            arguments[self._request] = request
        return arguments


def endpoint_of(dependant: Dependant) -> Endpoint | None:
    """Return the endpoint of a route; None if FastAPI has to call it.

    That is so if it returns something else than a response, or takes anything else than parameters
    of the path and the query, the request, a body, and dependencies that take such.
    """
    result = get_type_hints(dependant.call).get("return")
    is_response = isinstance(result, type) and issubclass(result, Response)
    return Endpoint(dependant) if is_response and _is_simple(dependant) else None


_OTHER = (
    *("header_params", "cookie_params", "response_param_name", "background_tasks_param_name"),
    *("websocket_param_name", "http_connection_param_name", "security_scopes_param_name"),
)
"""What FastAPI passes besides."""


def _is_simple(dependant: Dependant) -> bool:
    return (
        iscoroutinefunction(dependant.call)
        and not any(getattr(dependant, name) for name in _OTHER)
        and len(dependant.body_params) <= 1
        and all(map(_is_simple, dependant.dependencies))
    )


class _Parameter:
    """A parameter of the path or the query, a ``ModelField`` of FastAPI."""

    def __init__(self, field: Any, place: str) -> None:
        self.name: str = field.name
        self._field = field
        self._alias = _alias(field.field_info, field.name)
        self._is_list = _is_list(field.field_info.annotation)
        self._location = (place, self._alias)

    def read(self, sent: Mapping[str, Any], errors: Errors) -> Any:
        """Return the value among those that were sent."""
        field = self._field
        if self._alias not in sent:
            if field.field_info.is_required():
                errors.append({"type": "missing", "loc": self._location, "msg": "Field required"})
            return deepcopy(field.default)
        value, invalid = field.validate(
            _value(sent, self._alias, is_list=self._is_list), {}, loc=self._location
        )
        errors += invalid
        return value


class _Model:
    """All parameters of the query, as the fields of a model."""

    def __init__(self, field: Any) -> None:
        self.name: str = field.name
        self._field = field
        fields: Mapping[str, Any] = field.field_info.annotation.model_fields
        aliases = {_alias(each, name): each.annotation for name, each in fields.items()}
        self._lists = {alias for alias, annotation in aliases.items() if _is_list(annotation)}
        self._others = set(aliases) - self._lists

    def read(self, sent: QueryParams, errors: Errors) -> Any:
        """Return the model; whether it may have more fields is for the model to say."""
        fields = {name: self._read(sent, name) for name in sent}
        value, invalid = self._field.validate(fields, {}, loc=("query",))
        errors += invalid
        return value

    def _read(self, sent: QueryParams, name: str) -> Any:
        if name in self._lists or name in self._others:
            return _value(sent, name, is_list=name in self._lists)
        values = sent.getlist(name)
        return values if len(values) > 1 else values[0]


def _value(sent: Mapping[str, Any], name: str, *, is_list: bool) -> Any:
    """Return all values with a name, or the last one."""
    return sent.getlist(name) if is_list and isinstance(sent, QueryParams) else sent[name]


def _alias(field: Any, name: str) -> str:
    alias: str = field.validation_alias or field.alias or name
    return alias


def _is_model(field: Any) -> bool:
    annotation = field.field_info.annotation
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_list(annotation: Any) -> bool:
    """Return whether a type is, or may be, a list or tuple."""
    kinds = (annotation, getattr(annotation, "__origin__", None))
    is_one = any(isinstance(kind, type) and issubclass(kind, list | tuple) for kind in kinds)
    return is_one or any(map(_is_list, get_args(annotation)))
