"""The parts that a checkpoint's index is made of."""

from src.crc32c import crc32c, masked


def varint(number):
    """Return a whole number as protocol buffers and checkpoint tables hold it."""
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def table_block(pairs):
    """Return a block of {key: value} of a checkpoint's index, with type byte and checksum."""
    entries = b"".join(
        varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in pairs
    )
    block = entries + bytes([0, 0, 0, 0, 1, 0, 0, 0, 0])
    return block + masked(crc32c(block)).to_bytes(4, "little")
