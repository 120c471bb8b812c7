"""Read pickles of plain values and NumPy arrays without running anything that is in them.

A pickle is a program that may call any importable function. Here every name it asks for resolves to one of
rtk's own stand-ins, which record what they are given; any other name is refused before it is looked up.
"""

import pickle  # nosec B403  # of the unpickler below, which resolves no name but its own stand-ins
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

_DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")


class UnsafePickleError(ValueError):
    """The pickle is corrupt, or asks for something other than plain values and NumPy integer arrays."""


def read_inert_pickle(file: BinaryIO, name: str) -> Any:
    """Read one pickle of dicts, lists, numbers, strings and integer arrays.

    Strings written by Python 2 come back as bytes.

    Args:
        file: binary file at the start of the pickle.
        name: what to call the file in messages.

    Returns:
        The value; arrays in it are `ArrayRecord`.

    Raises:
        UnsafePickleError: for anything else in the pickle; nothing was executed.
    """
    try:
        return _InertUnpickler(file, encoding="bytes").load()
    except Exception as error:  # a corrupt pickle raises nearly any type
        raise UnsafePickleError(f"{name}: cannot read this pickle safely: {error}") from error


class ArrayRecord:
    """What a pickle says about one array; `to_numpy` checks it and builds the array."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.dtype: Any = None
        self.is_fortran = False
        self.raw: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.is_fortran, self.raw = state
        if not isinstance(self.shape, tuple) or not all(isinstance(side, int) for side in self.shape):
            raise pickle.UnpicklingError(f"array of shape {self.shape!r}")

    def to_numpy(self) -> np.ndarray:
        """Build the array, read-only, of the recorded shape.

        Raises:
            ValueError: it is no integer array, or its bytes do not fit its shape.
        """
        if not isinstance(self.dtype, DtypeRecord) or not isinstance(self.raw, bytes):
            raise ValueError("array of unknown contents; wanted integers")
        flat = np.frombuffer(self.raw, dtype=self.dtype.to_numpy())
        return flat.reshape(self.shape, order="F" if self.is_fortran else "C")


class DtypeRecord:
    """What a pickle says about one dtype."""

    def __init__(self, code: bytes | str, *_flags: Any) -> None:
        self.code = code.decode("ascii") if isinstance(code, bytes) else code
        self.byte_order = "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        self.byte_order = order.decode("ascii") if isinstance(order, bytes) else order

    def to_numpy(self) -> np.dtype:
        """Return the dtype.

        Raises:
            ValueError: it is no integer type.
        """
        if self.code not in _DTYPES or self.byte_order not in ("|", "<", ">"):
            raise ValueError(f"array of dtype {self.code!r}; wanted one of {', '.join(_DTYPES)}")
        return np.dtype(self.byte_order + self.code)


class _StandIn:
    """A callable in place of a global.

    An instance rather than the function or class itself: a pickle can set attributes on what it is handed,
    and here that ends in `__setstate__`.
    """

    def __init__(self, build: Callable[..., Any]) -> None:
        self._build = build

    def __call__(self, *args: Any) -> Any:
        return self._build(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a global")


def _encode(text: str, encoding: str) -> bytes:
    """Stands in for `_codecs.encode`, by which Python 3 writes bytes in protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text encoding {encoding!r}")
    return text.encode("latin1")


def _new_array(*_args: Any) -> ArrayRecord:
    """Stands in for NumPy's `_reconstruct`: an array whose contents follow as its state."""
    return ArrayRecord()


_GLOBALS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _new_array,
    ("numpy", "dtype"): DtypeRecord,
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("_codecs", "encode"): _encode,
}


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, neither plain data nor an array")
        return _StandIn(_GLOBALS[module, name])
