"""Picture sizes in AV1 and HEVC data, read from their sequence headers and not from what a container says of them.

A decoder allocates what the coded data says; the container's size is only compared (or scaled to) afterwards. Syntax:
AV1 Bitstream & Decoding Process Specification, 5.3 to 5.5; ITU-T H.265, 7.3; their storage: AV1 Codec ISO Media File
Format Binding, 2.3, and ISO/IEC 14496-15, 8.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

Size = tuple[int, int]
"""Width and height."""
Bytes = bytes | memoryview
Spend = Callable[[], None]
"""Called for each unit (OBU, NAL unit); raises CodedError where a file has too many."""

_HEADER: Final = 256
"""Bytes of a sequence header that are looked at; what lies before the size is shorter."""
_AV1_SEQUENCE: Final = 1
_HEVC_SEQUENCE: Final = 33


class CodedError(Exception):
    """Coded data whose size cannot be told; the message says why."""


class _Bits:
    """Reads numbers of any width, the highest bit first; raises CodedError at the end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise CodedError("a sequence header that is cut off")
        return self._value >> self._left & (1 << count) - 1

    def golomb(self) -> int:
        """A number in Exp-Golomb code: H.265's ue(v), AV1's uvlc()."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > 32:
                raise CodedError("a damaged sequence header")
        return (1 << zeros) - 1 + self.read(zeros)


def av1_sizes(data: Bytes, spend: Spend) -> Iterator[Size]:
    """Sizes in the sequence headers of a row of OBUs."""
    at = 0
    while at < len(data):
        spend()
        kind, extended, sized = data[at] >> 3 & 15, data[at] >> 2 & 1, data[at] >> 1 & 1
        at += 1 + extended
        length = len(data) - at
        if sized:
            length, at = _leb128(data, at)
        if kind == _AV1_SEQUENCE:
            yield _av1_size(bytes(data[at : at + min(length, _HEADER)]))
        at += length


def _leb128(data: Bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, and where it ends."""
    value = 0
    for place in range(8):
        if at + place >= len(data):
            raise CodedError("a unit that is cut off")
        value |= (data[at + place] & 127) << 7 * place
        if not data[at + place] & 128:
            return value, at + place + 1
    raise CodedError("a unit of impossible length")


def _av1_size(data: bytes) -> Size:
    bits = _Bits(data)
    bits.read(3 + 1)  # profile, still_picture
    reduced = bits.read(1)
    if reduced:
        bits.read(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    width, height = bits.read(width_bits) + 1, bits.read(height_bits) + 1
    if reduced:
        return width, height
    # A frame may state a size of its own in as many bits, and decoders do not compare it with the sequence's. So more
    # bits than this size needs (which encoders do not spend) count as what they can state.
    return _largest(width, width_bits), _largest(height, height_bits)


def _largest(side: int, bits: int) -> int:
    """The largest side that a frame can state: `side`, if no more bits are spent than it needs."""
    return side if bits == max((side - 1).bit_length(), 1) else 1 << bits


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    if bits.read(1):  # timing_info
        bits.read(64)
        if bits.read(1):
            bits.golomb()
        if bits.read(1):  # decoder_model_info
            delay_bits = bits.read(5) + 1
            bits.read(32 + 5 + 5)
    display_delay = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:
            bits.read(1)
        if delay_bits and bits.read(1):
            bits.read(2 * delay_bits + 1)
        if display_delay and bits.read(1):
            bits.read(4)


def hevc_sizes(data: Bytes, length_bytes: int, spend: Spend) -> Iterator[Size]:
    """Sizes in the sequence parameter sets of a row of NAL units, each behind its length in so many bytes."""
    at = 0
    while at + length_bytes < len(data):
        spend()
        length = int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes
        yield from _sps(bytes(data[at : at + min(length, _HEADER)]))
        at += length


def hevc_config_sizes(config: bytes, spend: Spend) -> tuple[list[Size], int]:
    """Sizes in an `hvcC` box, and in how many bytes the lengths of the pictures' NAL units are stated."""
    if len(config) < 23:
        raise CodedError("an hvcC that is cut off")
    sizes, at = list[Size](), 23
    for _ in range(config[22]):
        count = int.from_bytes(config[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            spend()
            length = int.from_bytes(config[at : at + 2], "big")
            sizes += _sps(config[at + 2 : at + 2 + min(length, _HEADER)])
            at += 2 + length
    return sizes, (config[21] & 3) + 1


def _sps(unit: bytes) -> Iterator[Size]:
    """The size in a NAL unit, if it is a sequence parameter set of the base layer."""
    if len(unit) < 3 or unit[0] >> 1 & 63 != _HEVC_SEQUENCE or (unit[0] & 1) << 5 | unit[1] >> 3:
        return
    bits = _Bits(unit[2:].replace(b"\0\0\3", b"\0\0"))
    bits.read(4)
    layers = bits.read(3)
    bits.read(1 + 88 + 8)
    present = [(bits.read(1), bits.read(1)) for _ in range(layers)]
    if layers:
        bits.read(2 * (8 - layers))
    for profile, level in present:
        bits.read(88 * profile + 8 * level)
    bits.golomb()
    if bits.golomb() == 3:  # chroma_format_idc
        bits.read(1)
    yield bits.golomb(), bits.golomb()
