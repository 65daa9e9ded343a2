"""Safe files with provenance: arrays in `<path>.npz`, and beside them `<path>.json`, which says what made them.

Row 1 of the layer table. A reader never sees half a file, never runs a pickle, and never gets arrays that do not
belong to their provenance. The same arrays and settings give the same bytes: no dates, no machine names, no folders.
"""

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import secrets
import shutil
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import ArrayLike

from rnn_dynamics import _check

__all__ = ["Saved", "load", "save", "write"]

_KINDS = "biufcSUmM"  # dtypes that an npz gives back as they were; objects, records and bfloat16 it does not
_PACKAGES = ("diffrax", "equinox", "jax", "numpy", "rnn_dynamics", "scipy")

# What zipfile, zlib and numpy raise on bytes that are not what they should be.
_DAMAGE = (
    *(EOFError, LookupError, NotImplementedError, OSError, OverflowError, RuntimeError, SyntaxError, TypeError),
    *(struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True, eq=False)
class Saved:
    """What `load` returns.

    Args:
        arrays: The arrays by name.
        provenance: What `<path>.json` holds: "arrays" (dtype, shape and SHA-256 of each), "seed", "settings",
            "source" (name and SHA-256 of the script) and "versions".

    Example:
        >>> Saved({"x": np.zeros(3)}, {"settings": {"b": -2.5}})
        Saved(x: float64 (3,))
    """

    arrays: dict[str, np.ndarray]
    provenance: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as they were given to `save`, tuples as lists."""
        return self.provenance["settings"]

    def __repr__(self) -> str:
        return f"Saved({', '.join(f'{name}: {array.dtype} {array.shape}' for name, array in self.arrays.items())})"


def save(
    path: str | os.PathLike[str],
    arrays: Mapping[str, ArrayLike],
    settings: dict[str, Any],
    /,
    *,
    source: str | os.PathLike[str] | None = None,
    seed: int | None = None,
) -> None:
    """Writes arrays to `<path>.npz` and how they were made to `<path>.json`; each file atomically.

    Args:
        path: The files' common stem; a closing `.npz` is left out.
        arrays: Numbers, booleans, text or times, under names that could be Python variables.
        settings: What went in, as JSON: dictionaries with text for keys, lists, text, finite numbers, booleans, None.
        source: The script that made the arrays; its name and the SHA-256 of its bytes are recorded.
        seed: The seed of their randomness, if any.

    Raises:
        ValueError: a path without a file's name; an array with another dtype (objects, records) or an unusable name;
            settings that are not JSON.
        FileNotFoundError: a folder or a source that is not there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/line", {"x": np.arange(3.0)}, {"num_points": 3}, seed=0)
        ...     saved = load(f"{folder}/line")
        >>> saved, saved.settings
        (Saved(x: float64 (3,)), {'num_points': 3})
    """
    for argument, value in (("arrays", arrays), ("settings", settings)):
        if not isinstance(value, Mapping):
            raise ValueError(f"{argument} must be a dictionary; got {type(value).__name__}")
    archive, text = _paths(path)
    named = {_name(name): _storable(name, array) for name, array in arrays.items()}
    named = dict(sorted(named.items()))
    provenance = {
        "arrays": {name: _description(array) for name, array in named.items()},
        "seed": None if seed is None else _check.count("seed", seed),
        "settings": settings,
        "source": None if source is None else _fingerprint(Path(source)),
        "versions": {name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()},
    }
    document = _document(provenance)
    write(archive, lambda stream: _write_archive(stream, named))
    write(text, document)


def load(path: str | os.PathLike[str], /, *, limit: int = 2**30) -> Saved:
    """Reads what `save` wrote, and trusts none of it.

    Pickles are never run. Sizes are read from the archive's directory and from every array's header, and must agree,
    before memory is taken for them. The arrays must be those that the provenance describes, to the last bit.

    Args:
        path: The files' common stem; a closing `.npz` is left out.
        limit: The most bytes that the archive may expand to.

    Returns:
        The arrays, in memory and writable, and their provenance.

    Raises:
        FileNotFoundError: one of the two files is not there.
        ValueError: a file that is damaged, cut short or of another kind; an archive that holds objects or names that
            `save` does not write, or expands beyond `limit`; arrays and provenance that are not of the same save.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/line", {"x": np.arange(3.0)}, {"num_points": 3})
        ...     load(f"{folder}/line").arrays["x"]
        array([0., 1., 2.])
    """
    limit = _check.count("limit", limit)
    archive, text = _paths(path)
    arrays = _read_archive(archive, limit)
    provenance = _read_provenance(text)
    came, described = {name: _description(array) for name, array in arrays.items()}, provenance["arrays"]
    differ = sorted(name for name in came.keys() | described.keys() if came.get(name) != described.get(name))
    if differ:
        raise ValueError(f"{archive} and {text.name} are not of the same save: they differ in {', '.join(differ)}")
    return Saved(arrays, provenance)


def write(path: str | os.PathLike[str], data: bytes | Callable[[BinaryIO], object], /) -> None:
    """Writes a file atomically: whoever looks, even after a crash, finds the old file or the new one, never a part.

    The bytes go to a hidden file in the same folder, are forced to the disk, and then take the old file's place in one
    step. If anything raises on the way the old file stays and the hidden one is removed.

    Args:
        path: The file; a link is followed, and an old file's permissions are kept.
        data: The bytes, or a function that writes them to the binary stream it is given.

    Raises:
        ValueError: data of another kind; a path that is there and is not a file.
        FileNotFoundError: the folder is not there.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "notes.txt")
        ...     write(path, b"fold at b = -2.344")
        ...     write(path, lambda stream: stream.write(b"fold at b = -2.34439"))
        ...     path.read_text()
        'fold at b = -2.34439'
    """
    if not (isinstance(data, bytes) or callable(data)):
        raise ValueError(f"data must be bytes or a function of a stream; got {type(data).__name__}")
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no such folder")
    if path.exists() and not path.is_file():
        raise ValueError(f"path must be a file's; {path} is there and is none")
    hidden = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with hidden.open("xb") as stream:
            if callable(data):
                data(stream)
            else:
                stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if path.exists():
            shutil.copymode(path, hidden)
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)


def _paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"path must be text or a pathlib.Path; got {type(path).__name__}")
    stem = os.fspath(path).removesuffix(".npz")
    if not os.path.basename(stem):  # noqa: PTH119 - pathlib would take the folder for the file
        raise ValueError(f"path must name a file; got {path!r}")
    return Path(f"{stem}.npz"), Path(f"{stem}.json")


def _name(name: Any) -> str:
    if not (isinstance(name, str) and name.isidentifier()):
        raise ValueError(f"arrays must have names that could be Python variables; got {name!r}")
    return name


def _storable(name: str, value: Any) -> np.ndarray:
    if np.ma.isMaskedArray(value):
        raise ValueError(f"arrays[{name!r}] must be a plain array; a mask would be lost: save it beside the data")
    try:
        array = np.asarray(value, order="C")
    except (TypeError, ValueError) as error:
        raise ValueError(f"arrays[{name!r}] must be an array of numbers, booleans, text or times; {error}") from error
    if array.dtype.kind not in _KINDS:
        raise ValueError(f"arrays[{name!r}] must hold numbers, booleans, text or times; got dtype {array.dtype}")
    return array


def _description(array: np.ndarray) -> dict[str, Any]:
    content = np.asarray(array, order="C").reshape(-1).view(np.uint8)
    return {"dtype": str(array.dtype), "sha256": hashlib.sha256(content.data).hexdigest(), "shape": list(array.shape)}


def _fingerprint(source: Path) -> dict[str, str]:
    return {"name": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # the package itself, used from its folder without installation
        return None


def _document(provenance: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(provenance, allow_nan=False, ensure_ascii=False, indent=2, sort_keys=True)
        document = text.encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"settings must be JSON; {error}") from error
    if not _keys_are_text(provenance):  # json would turn them into text without a word
        raise ValueError("settings must be JSON; a dictionary has a key that is not text")
    return document


def _keys_are_text(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_keys_are_text, value.values()))
    return not isinstance(value, list | tuple) or all(map(_keys_are_text, value))


def _write_archive(stream: BinaryIO, arrays: dict[str, np.ndarray]) -> None:
    """`numpy.savez_compressed`, but for any name and without the operating system's in the bytes."""
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, always
            info.compress_type, info.create_system = zipfile.ZIP_DEFLATED, 3
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)


def _read_archive(path: Path, limit: int) -> dict[str, np.ndarray]:
    if path.is_dir():
        raise ValueError(f"path must be a file's; {path} is a folder")
    with path.open("rb") as stream:
        if stream.read(2) != b"PK":
            raise ValueError(f"{path}: not an npz archive, or empty")
        try:
            with zipfile.ZipFile(stream) as archive:
                members = archive.infolist()
                if (total := sum(info.file_size for info in members)) > limit:
                    raise ValueError(f"expands to {total} bytes; limit allows {limit}")
                if len({info.filename for info in members}) != len(members):
                    raise ValueError("holds two arrays of one name")
                return {info.filename.removesuffix(".npy"): _read_member(archive, info) for info in members}
        except _DAMAGE as error:
            raise ValueError(f"{path}: damaged or cut short ({type(error).__name__}: {error})") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    name = info.filename
    if not (name.endswith(".npy") and name.removesuffix(".npy").isidentifier()):
        raise ValueError(f"{name!r} is not the name of an array")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is packed in a way that npz archives are not")
    with archive.open(info) as member:
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = headers[np.lib.format.read_magic(member)](member)
        if dtype.kind not in _KINDS:
            raise ValueError(f"{name} has dtype {dtype}; pickled objects and records are not read")
        said = member.tell() + math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or said != info.file_size:
            raise ValueError(f"{name} is {info.file_size} bytes; its header, {dtype} of shape {shape}, says {said}")
    with archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _read_provenance(path: Path) -> dict[str, Any]:
    try:
        provenance = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON, damaged or cut short: {error}") from error
    kept = provenance if isinstance(provenance, dict) else {}
    if not (isinstance(kept.get("arrays"), dict) and isinstance(kept.get("settings"), dict)):
        raise ValueError(f"{path}: JSON, but not the provenance of saved arrays")
    return kept
