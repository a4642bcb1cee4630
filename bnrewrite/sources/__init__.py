"""Every kind of model becomes an `nn.Module` whose parts have the original names and can be switched one by one."""

from .adapter import Model, as_module

__all__ = ["Model", "as_module"]
