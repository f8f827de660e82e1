"""Time and count the matrix products of a package: its modules are loaded with every `a @ b` replaced by a counted one."""

from __future__ import annotations

import ast
import sys
import time
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

import numpy as np

__all__ = ["Products", "count_products"]


class Products:
    """Totals so far.

    Attributes
    ----------
    seconds : float
        Processor time in matrix products.
    multiplications : int
    """

    def __init__(self) -> None:
        self.seconds, self.multiplications = 0.0, 0

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        start = time.process_time()
        product = a @ b
        self.seconds += time.process_time() - start
        self.multiplications += np.size(product) * a.shape[-1]
        return product


def count_products(package: str) -> Products:
    """Count in all modules of `package` that are imported from now on."""
    products = Products()
    sys.meta_path.insert(0, _Finder(package, products))
    return products


class _Finder(MetaPathFinder):
    def __init__(self, package: str, products: Products) -> None:
        self._package, self._products = package, products

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name.startswith(self._package) else None
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(name, spec.origin, self._products)
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, products: Products) -> None:
        super().__init__(name, path)
        self._products = products

    def get_code(self, fullname: str) -> CodeType:
        """Compile afresh: cached bytecode has the products that are not counted."""
        tree = _Replace().visit(ast.parse(self.get_data(self.path)))
        return compile(ast.fix_missing_locations(tree), self.path, "exec")

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["_counted_product"] = self._products
        super().exec_module(module)


class _Replace(ast.NodeTransformer):
    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.MatMult):
            return node
        return ast.Call(ast.Name("_counted_product", ast.Load()), [node.left, node.right], [])
