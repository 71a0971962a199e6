"""Functions that an assistant may call, and its calls, in the form that chat templates take."""

from typing import Any

from llm_engineering.data.formats.columns import Row, parse_json, shown, without_nulls
from llm_engineering.data.formats.content import RowProblem


def tool_list(row: Row) -> list[dict[str, Any]] | None:
    """Return the functions of the column ``tools``, a list or JSON text, each as ``{"type": "function", ...}``."""
    value = row.get("tools")
    if isinstance(value, str):
        value = parse_json(value, "tools") if value.strip() else None
    else:
        value = _pruned(value, "tools")
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        raise RowProblem("unparsable", f"tools is {type(value).__name__}, not a list of functions")
    return [_tool(each) for each in value]


def function_calls(value: Any) -> list[dict[str, Any]]:
    """Return tool calls from a list of them, one of them, or JSON text of either."""
    if isinstance(value, str):
        value = parse_json(value, "a tool call")
    calls = value if isinstance(value, list) else [value]
    return [_call(each) for each in calls if each is not None]


def _call(value: Any) -> dict[str, Any]:
    function = _function(value, "a tool call")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = parse_json(arguments, "the arguments of a tool call") if arguments.strip() else {}
    else:
        arguments = {} if arguments is None else _pruned(arguments, "a tool call")
    if not isinstance(arguments, dict):
        raise RowProblem("unparsable", f"the arguments of a tool call are {shown(arguments)}, not an object")
    call = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": value["id"], **call} if isinstance(value.get("id"), str) else call


def _tool(value: Any) -> dict[str, Any]:
    function = _function(value, "a tool")
    return {"type": "function", "function": function}


def _function(value: Any, what: str) -> dict[str, Any]:
    """Return the object with a function's name, which may stand in an object of its own."""
    inner = value.get("function") if isinstance(value, dict) else None
    function = value if inner is None else inner
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowProblem("unparsable", f"{what} is {shown(value)}, not an object with the function's name")
    return function


def _pruned(value: Any, what: str) -> Any:
    try:
        return without_nulls(value)
    except RecursionError as error:
        raise RowProblem("unparsable", f"{what}: nested too deeply") from error
