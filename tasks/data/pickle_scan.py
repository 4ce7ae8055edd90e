"""Memory that loading a pickle takes, computed from its opcodes alone: nothing is loaded."""

import pickletools
from typing import BinaryIO

OBJECT = 256  # bytes at most of what one opcode makes, an empty set, beside its own data
_LENGTHS = {  # bytes of the length that stands before the data, by pickletools' name of it
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_LINES = {"GLOBAL": 2, "INST": 2}  # opcodes with more than one line of text
_OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}


def memory_of(stream: BinaryIO, size: int) -> int:
    """Returns an upper bound of the bytes that loading a pickle takes, calls not included.

    The unpickler trusts an opcode: it allocates the stated length even if the data are missing, and a memo up to
    the stated number. So lengths and numbers are compared with the file's size first.

    Args:
        stream: the pickle, from its beginning.
        size: bytes of the file.

    Raises:
        ValueError: if an opcode is unknown, or states a length or a number beyond the file's size.
        EOFError: if the pickle has no end.
    """
    total = 0
    while code := stream.read(1):
        opcode = _OPCODES.get(code[0])
        if opcode is None:
            raise ValueError(f"unknown opcode {code!r}")
        copies = 2 if "UNICODE" in opcode.name else 1  # text is read as bytes first
        total += OBJECT + copies * _skip(opcode, stream, size)
        if opcode.name == "STOP":
            return total
    raise EOFError("it has no end")


def _skip(opcode: pickletools.OpcodeInfo, stream: BinaryIO, size: int) -> int:
    """Skips an opcode's argument and returns the bytes of its data."""
    if opcode.arg is None:
        return 0
    before = stream.tell()
    if opcode.arg.n == pickletools.UP_TO_NEWLINE:
        text = [stream.readline() for _ in range(_LINES.get(opcode.name, 1))]
        if opcode.name == "PUT":
            _check(opcode, int(text[0]), before)
        return stream.tell() - before
    if opcode.arg.n >= 0:
        value = int.from_bytes(stream.read(opcode.arg.n), "little")
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            _check(opcode, value, before + 255)  # numbers of one byte do no harm
        elif opcode.name == "FRAME":
            _check(opcode, value, size - stream.tell())
        return opcode.arg.n
    length = int.from_bytes(stream.read(_LENGTHS[opcode.arg.n]), "little")
    _check(opcode, length, size - stream.tell())
    stream.seek(length, 1)
    return length


def _check(opcode: pickletools.OpcodeInfo, value: int, most: int) -> None:
    if not 0 <= value <= most:
        raise ValueError(f"opcode {opcode.name} says {value}, the file has room for {most}")
