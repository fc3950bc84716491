"""Files of tensors as damage and malice make them, and what reading them leads to.

A kind is a function of the bytes of a whole file and a `random.Random`. Damaged files have to be
refused, or say the same as the whole one (a blank more in the header). Forged ones have a right
SHA-256; whatever they say, reading them raises CheckpointError or gives what they say.
"""

import json
from collections import Counter

import numpy as np

from fastbp.errors import CheckpointError
from fastbp.tensor_file import DTYPES, content_digest


def split(content):
    """Header and data of a whole file."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def join(header, data):
    """A file with a header, given as JSON's data, as text or as bytes, of the right length."""
    if not isinstance(header, bytes):
        header = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(header).to_bytes(8, "little") + header + data


def place(content, rng, length=1):
    return rng.randrange(max(len(content) - length, 1))


def changed_bytes(content, rng):
    found = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        found[place(found, rng)] = rng.randrange(256)
    return bytes(found)


def flipped_bit(content, rng):
    found = bytearray(content)
    found[place(found, rng)] ^= 1 << rng.randrange(8)
    return bytes(found)


def inserted(content, rng):
    at = place(content, rng)
    return content[:at] + rng.randbytes(rng.randint(1, 64)) + content[at:]


def deleted(content, rng):
    length = rng.randint(1, 64)
    at = place(content, rng, length)
    return content[:at] + content[at + length :]


def repeated(content, rng):
    length = rng.choice([1, 4, 8, 64])
    at = place(content, rng, length)
    return content[: at + length] + content[at:]


def zeroed(content, rng):
    length = rng.choice([8, 64, 512, 4096])
    at = place(content, rng, length)
    return content[:at] + bytes(len(content[at : at + length])) + content[at + length :]


def swapped(content, rng):
    length = rng.randint(1, 32)
    first, second = sorted((place(content, rng, length), place(content, rng, length)))
    middle = content[first + length : second]
    if second < first + length:
        return content[first:] + content[:first]
    a, b = content[first : first + length], content[second : second + length]
    return content[:first] + b + middle + a + content[second + length :]


def cut_or_extended(content, rng):
    if rng.random() < 0.7:
        return content[: place(content, rng)]
    return content + rng.randbytes(rng.randint(1, 100))


def header_length(content, rng):
    true = int.from_bytes(content[:8], "little")
    near = [true + rng.randint(-16, 16), len(content) - 8, len(content), true + 1, true - 1]
    far = [0, 1, 2, 100_000_000, 100_000_001, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
    return max(rng.choice(near + far), 0).to_bytes(8, "little") + content[8:]


SHAPES = [
    [-1], [2**62, 4], [2**63], [2**64, 0], [0, 2**62, 2**62], [1.5], [True], ["3"], "abc", None, 7,
    [[1]], [10**400], [1] * 40, [1] * 4000, [], {}, [0], [-2, -2], [2**32, 2**32], [None], [1e308],
]  # fmt: skip
KINDS = [
    "F16",
    "BF16",
    "BOOL",
    "O",
    "<f4",
    "f32",
    "",
    None,
    3,
    ["F32"],
    {},
    "F32 ",
    "V8",
    "F64,F64",
]
KINDS += list(DTYPES)
PLACES = [
    [-8, 0], [0, -8], [2**63, 2**63], [0, 2**64], [0.0, 8.0], [0], [0, 8, 16], None, "0", {},
    [True, True], [0, 10**400], [[0], [8]], [0, 0], [2**62, 2**62 + 8], [8, 0],
]  # fmt: skip


def header_entry(content, rng):
    """One tensor described wrongly."""
    header, data = split(content)
    entries = [header[name] for name in header if name != "__metadata__"]
    entry, other = rng.choice(entries), rng.choice(entries)
    kind = rng.randrange(7)
    if kind == 0:
        entry["shape"] = rng.choice(SHAPES)
    elif kind == 1:
        entry["dtype"] = rng.choice(KINDS)
    elif kind == 2:
        entry["data_offsets"] = rng.choice(PLACES)
    elif kind == 3:  # two overlap
        entry["data_offsets"] = other["data_offsets"]
    elif kind == 4:
        entry["data_offsets"] = [
            place + rng.choice([-8, -1, 1, 8]) for place in entry["data_offsets"]
        ]
    elif kind == 5:
        del entry[rng.choice(list(entry))]
    else:
        entry[rng.choice(["more", "Shape", "dtype "])] = rng.choice([1, None, "x"])
    return join(header, data)


def header_names(content, rng):
    """Tensors and texts left out, renamed, added, of wrong kinds."""
    header, data = split(content)
    texts = header["__metadata__"]
    name = rng.choice([name for name in header if name != "__metadata__"])
    kind = rng.randrange(8)
    if kind == 0:
        del header[name]
    elif kind == 1:
        header[name + rng.choice(["x", "\0", "\ud800", "é"])] = header.pop(name)
    elif kind == 2:
        header[name] = rng.choice([None, [], 3, "F32", {}, [header[name]]])
    elif kind == 3:
        header["__metadata__"] = rng.choice([None, [], "x", 3, {}, list(texts), {"format": 1}])
    elif kind == 4:
        del texts[rng.choice(list(texts))]
    elif kind == 5:
        texts[rng.choice(["more", "Format", "\ud800"])] = "x"
    elif kind == 6:
        texts[rng.choice(list(texts))] = rng.choice([None, 1, [], {}, "", "\ud800", "x", "\0"])
    else:
        header[name + "2"] = dict(header[name])
    return join(header, data)


def header_text(content, rng):
    """What JSON in UTF-8 is not, or not in every reader's eyes."""
    header, data = split(content)
    text = json.dumps(header)
    depth = rng.choice([10, 900, 1100, 100_000])
    at = rng.randrange(1, len(text))
    name = next(name for name in header if name != "__metadata__")
    again = json.dumps({name: header[name]})
    changed = rng.choice(
        [
            again[:-1] + "," + text[1:],
            text[:-1] + ',"__metadata__":{"format":"x"}}',
            text[:-1] + ',"a":' + "[" * depth + "]" * depth + "}",
            '{"a":' * depth + "1" + "}" * depth,
            '{"a":' * depth,
            "[" * depth,
            text[:-1] + ',"a":' + rng.choice(["NaN", "Infinity", "-Infinity", "1e999"]) + "}",
            text[:-1] + ',"a":' + "9" * 10_000 + "}",
            text.encode()[:at] + rng.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80"]) + text.encode()[at:],
            text.encode("utf-16"),
            text.encode("utf-32-le"),
            b"\xef\xbb\xbf" + text.encode(),
            rng.choice(["[]", "3", '"x"', "null", "{}", "{", "", " {}", "{}{}", "//"]),
            text + rng.choice([" ", "\0", "x", "\n", ","]),
            text[:at] + " " + text[at:],
            text.replace('"shape": [', '"shape": [1, ', 1),
            text.replace('"', "'"),
        ]
    )  # fmt: skip
    return join(changed, data)


def sealed(header, data):
    """A file whose SHA-256 is that of what it says, where it can be computed."""
    texts = header["__metadata__"]
    try:
        tensors = {
            name: np.frombuffer(data[slice(*entry["data_offsets"])], DTYPES[entry["dtype"]])
            .reshape(entry["shape"])
            for name, entry in header.items() if name != "__metadata__"
        }  # fmt: skip
        said = [text for key, text in texts.items() if key != "sha256"]
        texts["sha256"] = content_digest(tensors, said)
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError):
        pass
    return join(header, data)


VALUES = [
    None, True, -1, 0, 1, 1.5, 10**400, -(10**400), 1e308, 10**12, 2**63, "", "relu", "dense", "x" * 50,
    "leaky_relu", "__class__", [], {}, [[]], {"name": "dense"}, {"name": []}, {"name": "relu", "slope": 1},
    [1, 2], "nan",
]  # fmt: skip


def changed_value(value, rng):
    """Plain data with one thing in it replaced, left out or added."""
    children = (
        list(value)
        if isinstance(value, dict)
        else range(len(value))
        if isinstance(value, list)
        else []
    )
    if not children or rng.random() < 0.2:
        return rng.choice(VALUES)
    key = rng.choice(list(children))
    kind = rng.random()
    if kind < 0.1:
        del value[key]
    elif kind < 0.2 and isinstance(value, dict):
        value[rng.choice(["more", "name", "units", "slope", ""])] = rng.choice(VALUES)
    elif kind < 0.2:
        value.append(rng.choice(VALUES))
    else:
        value[key] = changed_value(value[key], rng)
    return value


def forged_texts(content, rng):
    header, data = split(content)
    texts = header["__metadata__"]
    key = rng.choice(["network", "network", "network", "dtype", "seed", "metadata", "notes"])
    if key == "dtype":
        texts[key] = rng.choice(
            ["float64", "float32", "f8", "O", "float16", "", "f4,f4", "int64", "x" * 999]
        )
    elif key == "seed":
        texts[key] = rng.choice(
            ["-1", "1.5", "", "x", " 5", "1_0", "\u0661", "\u00b2", "9" * 5000, "99" * 30, "None"]
        )
    elif rng.random() < 0.3:
        deep = "[" * 5000
        texts[key] = rng.choice(
            ["", "{", "NaN", "{'a': 1}", deep, deep + "]" * 5000, "9" * 5000, '"\ud800"', "\0"]
        )
    else:
        texts[key] = json.dumps(changed_value(json.loads(texts.get(key, "{}")), rng))
    return sealed(header, data)


def forged_tensors(content, rng):
    header, data = split(content)
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry = header[name]
    kind = rng.randrange(5)
    if kind == 0:
        entry["shape"] = entry["shape"][::-1]
    elif kind == 1:
        entry["shape"] = [*entry["shape"], 1]
    elif kind == 2:
        entry["dtype"] = {"F32": "I64", "F64": "I64", "I64": "F64", "U8": "U8"}[entry["dtype"]]
    elif kind == 3:
        header[rng.choice(["x", "0.weight", "model.0.weight", "run.x", "scaling.input_mean"])] = (
            header.pop(name)
        )
    else:
        data = rng.randbytes(len(data))  # NaN, infinities and subnormal numbers among them
    return sealed(header, data)


DAMAGES = [
    changed_bytes, flipped_bit, inserted, deleted, repeated, zeroed, swapped, cut_or_extended,
    header_length, header_entry, header_names, header_text,
]  # fmt: skip
NUMBERS = [0.0, -0.0, 1.0, -1.0, 0.5, 7.0, 1e9, -1e9, 1e300, float("nan"), float("inf")]


def forged_numbers(content, rng):
    """One tensor with other numbers of the right kind and shape."""
    header, data = split(content)
    name = rng.choice([name for name in header if name != "__metadata__"])
    start, end = header[name]["data_offsets"]
    array = np.frombuffer(data[start:end], DTYPES[header[name]["dtype"]]).copy()
    with np.errstate(over="ignore"):
        if array.dtype.kind != "f":
            array += rng.choice([-1, 1, 1000])
        elif rng.random() < 0.8 and array.size:
            array[rng.randrange(array.size)] = rng.choice(NUMBERS)
        else:
            array[:] = [rng.choice(NUMBERS) for _ in range(array.size)]
    return sealed(header, data[:start] + array.tobytes() + data[end:])


FORGERIES = [forged_texts, forged_tensors]  # what a file's structure may be made to say
LIES = [*FORGERIES, forged_numbers]  # and what may be said within it


def mutate(content, rng, kinds=(*DAMAGES, *FORGERIES)):
    """A changed file, and the kind of change."""
    kind = rng.choice(kinds)
    return kind(content, rng), kind


OUTCOMES = ("refused", "same", "other")


def outcome_of(path, changed, read, whole):
    """What comes of a changed file: one of `OUTCOMES`, or what was raised that should not be.

    `read` takes the path and returns something that compares equal for the same content.
    """
    path.unlink(missing_ok=True)  # cutting a file off to write it anew waits for the disk
    path.write_bytes(changed)
    try:
        return "same" if read(path) == whole else "other"
    except CheckpointError:
        return "refused"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return repr(error)


def is_right(kind, outcome):
    """Whether a kind of change may have an outcome: damage never gives other content."""
    return outcome in OUTCOMES and (outcome != "other" or kind not in DAMAGES)


def survey(path, content, read, rngs):
    """Read a changed file for each generator of random numbers; count what came of each kind.

    Anything but a CheckpointError, and other content from damage, is an AssertionError.
    """
    path.write_bytes(content)
    whole = read(path)
    outcomes = Counter()
    for i, rng in enumerate(rngs):
        changed, kind = mutate(content, rng)
        outcome = outcome_of(path, changed, read, whole)
        assert is_right(kind, outcome), f"{kind.__name__}, mutation {i}: {outcome}"
        outcomes[kind.__name__, outcome] += 1
    return outcomes
