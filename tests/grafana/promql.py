"""PromQL taken apart: which metrics and labels an expression names."""

from collections.abc import Iterator
from typing import Any

import promql_parser as promql

from tests.grafana.provisioned import interpolated

Node = Any


def parse(expr: str) -> Node:
    """The expression, with dashboard variables filled in.

    Raises:
        ValueError: it is not PromQL.
    """
    return promql.parse(interpolated(expr))


def walk(node: Node, parents: tuple[Node, ...] = ()) -> Iterator[tuple[Node, tuple[Node, ...]]]:
    """Every node with what it stands in, outermost first."""
    yield node, parents
    below = (*parents, node)
    match node:
        case promql.BinaryExpr():
            children = [node.lhs, node.rhs]
        case promql.AggregateExpr():
            children = [node.expr] + ([node.param] if node.param is not None else [])
        case promql.Call():
            children = list(node.args)
        case promql.MatrixSelector():
            children = [node.vector_selector]
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            children = [node.expr]
        case promql.VectorSelector() | promql.NumberLiteral() | promql.StringLiteral():
            children = []
        case _:
            raise TypeError(f"unknown PromQL node {type(node)}")
    for child in children:
        yield from walk(child, below)


def selectors(expr: str) -> list[Node]:
    """All selectors of an expression."""
    return [node for node, _ in walk(parse(expr)) if isinstance(node, promql.VectorSelector)]


def labels(selector: Node) -> set[str]:
    """Labels that a selector matches on."""
    return {matcher.name for matcher in selector.matchers.matchers}


def named_labels(expr: str) -> set[str]:
    """Labels that an expression groups, joins or matches on, other than those it makes itself."""
    found: set[str] = set()
    made: set[str] = set()
    for node, _ in walk(parse(expr)):
        if isinstance(node, promql.VectorSelector):
            found |= labels(node)
        elif isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            found |= set(node.modifier.labels)
        elif isinstance(node, promql.BinaryExpr) and node.modifier is not None and node.modifier.matching is not None:
            found |= set(node.modifier.matching.labels)
        elif isinstance(node, promql.Call) and node.func.name == "label_replace":
            made.add(node.args[1].val)
    return found - made
