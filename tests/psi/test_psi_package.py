"""One public door, light to open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import psi
import psi.errors

ROOT = Path(psi.__file__).parent


def test_all_is_sorted_and_complete() -> None:
    assert psi.__all__ == sorted(psi.__all__)
    for name in psi.__all__:
        assert getattr(psi, name) is not None
    assert set(psi.__all__) <= set(dir(psi))
    with pytest.raises(AttributeError):
        psi.nothing  # noqa: B018


def test_every_error_is_public_and_drawn_in_the_tree() -> None:
    errors = {
        name: value
        for name, value in vars(psi.errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert errors.keys() <= set(psi.__all__)
    assert psi.errors.__doc__ is not None
    for name, error in errors.items():
        assert f"{name} " in psi.errors.__doc__ or f"{name}\n" in psi.errors.__doc__
        assert error.__doc__


def test_import_is_light_and_the_package_stands_alone() -> None:
    """Importing psi loads neither arithmetic nor ciphers, and using it nothing of heterofed."""
    code = (
        "import sys, psi; heavy = {'gmpy2', 'cryptography', 'filelock', 'ctypes'};"
        "late = heavy & set(sys.modules);"
        "assert not late, late; import psi.rsa.signer, psi.ecdh.requester, psi.storage.budget;"
        "bad = {'torch', 'zmq', 'heterofed', 'numpy'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent, timeout=60)


def test_no_module_asserts_or_imports_upwards() -> None:
    for path in ROOT.rglob("*.py"):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        for line in lines:
            assert not line.startswith(("assert ", "import heterofed", "from heterofed"))
