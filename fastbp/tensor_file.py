"""Files of tensors and texts: the safetensors format, with a SHA-256 over all of the content.

A file is eight bytes with the length of the header (little-endian), the header, and the bytes of
the tensors without gaps. The header is JSON: dtype, shape and place of every tensor, and texts
under ``__metadata__``. It is read here and not by a library, because every damage has to be one
clear error, no number is believed before it is checked against the size of the file, and the
tensors that are returned are views of the bytes that were read, which are the only copy.

Source: Hugging Face, safetensors, the section "Format" of its documentation.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastbp.errors import CheckpointError
from fastbp.files import check_readable

__all__ = ["Format", "TensorFile", "encode", "interpreting", "plain_text", "read_tensor_file"]

Array = NDArray[Any]

HEADER_LIMIT = 100_000_000  # bytes; the format's own
DIMENSIONS = 32
PIECE = 1 << 16  # bytes
# Wide ones lie first in a file, so every tensor is aligned.
DTYPES = {"F64": "<f8", "I64": "<i8", "F32": "<f4", "U8": "|u1"}
CODES = {np.dtype(kind).name: code for code, kind in DTYPES.items()}


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes
    ----------
    name : str
        As it stands in the file.
    noun : str
        What such a file is, for messages.
    texts : tuple of str
        The texts that it holds besides its SHA-256, in the order in which they enter it. The first
        is ``"format"``.
    """

    name: str
    noun: str
    texts: tuple[str, ...]


@dataclass
class TensorFile:
    """What was read: the file's name and format, its texts and its tensors."""

    name: str
    format: Format
    texts: dict[str, str]
    tensors: dict[str, Array]


def content_digest(tensors: Mapping[str, Array], texts: Iterable[str]) -> str:
    """SHA-256 over everything that a file says: tensors, in the order of their names, and texts."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def plain_text(argument: str, value: Any) -> str:
    """Plain data as JSON.

    Raises
    ------
    TypeError
        If it holds anything but dicts, lists, texts, numbers, True, False and None.
    ValueError
        If a number is not finite, or something contains itself.
    """
    expected = f"{argument}: expected plain data that JSON can hold"
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise TypeError(f"{expected}; {error}") from None
    except ValueError as error:
        raise ValueError(f"{expected}; {error}") from None


def header_bytes(entries: dict[str, Any]) -> bytes:
    """Length and text of a header, filled up so that what follows is aligned."""
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_LIMIT:
        raise ValueError(
            f"texts: expected names and notes of at most {HEADER_LIMIT} bytes; got {len(text)}"
        )
    return len(text).to_bytes(8, "little") + text


def encode(kind: Format, texts: dict[str, str], tensors: Mapping[str, Any]) -> bytearray:
    """The bytes of a file.

    Parameters
    ----------
    kind : Format
    texts : dict of str to str
        All that the format names, but for the format itself.
    tensors : mapping of str to array
        Of float32, float64, int64 or uint8. Their bits are kept, those of NaN too.

    Returns
    -------
    bytearray

    Raises
    ------
    TypeError
        For an array of another dtype.
    ValueError
        If the texts are longer than the format allows, or a name is no valid text.
    """
    texts = {key: kind.name if key == "format" else texts[key] for key in kind.texts}
    arrays = {name: np.asarray(values) for name, values in tensors.items()}
    for name, array in arrays.items():
        if array.dtype.name not in CODES:
            raise TypeError(f"{name}: expected one of {', '.join(CODES)}; got {array.dtype}")
    entries: dict[str, Any] = {"__metadata__": {**texts, "sha256": "0" * 64}}
    end = 0
    for name in sorted(arrays, key=lambda name: (-arrays[name].itemsize, name)):
        start, end = end, end + arrays[name].nbytes
        entries[name] = {
            "dtype": CODES[arrays[name].dtype.name],
            "shape": list(arrays[name].shape),
            "data_offsets": [start, end],
        }
    begin = len(header_bytes(entries))
    content = bytearray(begin + end)
    views = {}
    for name, view in views_of(np.frombuffer(content, np.uint8)[begin:], entries).items():
        view[...] = arrays[name]
        views[name] = view
    # Of the copy and not of the arrays, which others may be changing.
    entries["__metadata__"]["sha256"] = content_digest(views, texts.values())
    content[:begin] = header_bytes(entries)
    return content


def views_of(data: NDArray[np.uint8], entries: Mapping[str, Any]) -> dict[str, Array]:
    """The tensors of a checked header, as views of the bytes; copies where they lie askew."""
    views = {}
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        view = data[start:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
        views[name] = view if view.flags.aligned else view.copy()
    return views


def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused where it has a key twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in the header")
    return found


def no_constant(name: str) -> None:
    """Refuse NaN and infinities, which are no JSON."""
    raise ValueError(f"{name} stands in the header")


def decoded(content: bytes) -> str:
    """UTF-8 as text, tried in pieces first: to decode what is none takes several times its size."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(content), PIECE):
        decoder.decode(content[start : start + PIECE])
    decoder.decode(b"", final=True)
    return content.decode()


def read_header(file: BinaryIO, size: int) -> dict[str, Any]:
    """The header of a file of `size` bytes: a JSON object, whose texts are all valid."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= min(size - 8, HEADER_LIMIT):
        raise ValueError("no header of a possible length")
    text = decoded(file.read(length))
    if not text.startswith("{"):
        raise ValueError("no header")
    entries = json.loads(text, object_pairs_hook=without_repetition, parse_constant=no_constant)
    for name in entries:
        name.encode()  # half of a surrogate pair can be written in JSON
    return dict(entries)


def are_counts(value: Any) -> bool:
    """Whether a value of JSON is a list of integers that a size can have."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def check_layout(entries: Mapping[str, Any], size: int) -> None:
    """Refuse tensors that are not described fully, or do not fill the data one after the other."""
    for name, entry in entries.items():
        shown = repr(name)[:80]
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{shown} is not described by dtype, shape and data_offsets")
        kind, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(kind, str) or kind not in DTYPES:
            raise ValueError(f"{shown} has a dtype that is none of {', '.join(DTYPES)}")
        if not are_counts(shape) or len(shape) > DIMENSIONS:
            raise ValueError(f"{shown} has no possible shape")
        if not are_counts(place) or len(place) != 2:
            raise ValueError(f"{shown} has no possible place")
        if place[1] - place[0] != math.prod(shape) * np.dtype(DTYPES[kind]).itemsize:
            raise ValueError(f"{shown} has a place that is not as long as its shape says")
    end = 0
    for start, stop in sorted(entry["data_offsets"] for entry in entries.values()):
        if start != end:
            raise ValueError("the tensors overlap, or leave a gap")
        end = stop
    if end != size:
        raise ValueError(f"the tensors are {end} bytes; the file has {size} for them")


def check_texts(name: str, found: Any, formats: tuple[Format, ...]) -> Format:
    """The format of a file, from its texts; refused if it is none of those that are expected."""
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise ValueError("__metadata__ does not consist of texts")
    stated = found.get("format", "")
    expected = " or ".join(kind.noun for kind in formats)
    for kind in formats:
        if kind.name == stated:
            if set(found) != {*kind.texts, "sha256"}:
                raise ValueError(f"the texts of {kind.noun} are not there, or others are")
            for text in found.values():
                text.encode()
            return kind
    if stated.startswith("fastbp-"):
        raise CheckpointError(
            f"{name}: expected {expected}; got a file of the format {stated[:40]!r}"
        )
    raise CheckpointError(f"{name}: a safetensors file, but not {expected}")


def read_tensor_file(path: str | os.PathLike[str], *formats: Format) -> TensorFile:
    """Read a file and check that it is whole, and of one of some formats.

    Parameters
    ----------
    path : str or path-like
    *formats : Format

    Returns
    -------
    TensorFile
        Its tensors are views of one buffer that holds what was read.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is damaged, or of none of the formats.
    """
    name = os.fsdecode(path)
    check_readable(name)
    if not os.path.isfile(name):
        raise CheckpointError(f"{name}: damaged, or not a safetensors file (no regular file)")
    try:
        with open(name, "rb") as file:
            entries = read_header(file, os.fstat(file.fileno()).st_size)
            size = os.fstat(file.fileno()).st_size - file.tell()
            texts = entries.pop("__metadata__", {})
            kind = check_texts(name, texts, formats)
            check_layout(entries, size)
            data = np.empty(size, dtype=np.uint8)
            if file.readinto(data.data) != size or file.read(1):
                raise ValueError("its length changed while it was read")
        tensors = views_of(data, entries)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name}: damaged, or not a safetensors file ({error})") from None
    if texts.pop("sha256") != content_digest(tensors, (texts[key] for key in kind.texts)):
        raise CheckpointError(f"{name}: damaged (its content does not match its SHA-256)")
    return TensorFile(name, kind, texts, tensors)


@contextlib.contextmanager
def interpreting(file: TensorFile) -> Iterator[None]:
    """Make whatever goes wrong with a file's content a CheckpointError that names the file.

    The content may be anyone's, with a right SHA-256, and names classes of users, which may raise
    what they like.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{file.name}: cannot be read as {file.format.noun} ({error})"
        ) from error
