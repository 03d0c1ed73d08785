"""GPT-2's alphabet: each of the 256 bytes written as one printable character.

A byte-level tokenizer works on bytes, and a vocabulary file holds text. Printable Latin-1 bytes stand for
themselves; the other 68 (controls, space, …) take the characters from U+0100 on, so that a space shows as `Ġ`
and a line feed as `Ċ`.

Source: Radford et al. 2019, `bytes_to_unicode` in the published code.
"""

from __future__ import annotations


def _symbols() -> list[str]:
    """The symbol of each byte, by byte."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    stand_ins = {byte: 0x100 + index for index, byte in enumerate(others)}
    return [chr(stand_ins.get(byte, byte)) for byte in range(256)]


BYTE_SYMBOLS = tuple(_symbols())
_TO_SYMBOL = dict(enumerate(BYTE_SYMBOLS))
_TO_BYTE = {ord(symbol): byte for byte, symbol in enumerate(BYTE_SYMBOLS)}


def to_symbols(text: str) -> str:
    """The UTF-8 bytes of `text`, one symbol each.

    >>> to_symbols(" é")
    'ĠÃ©'
    """
    return text.encode("utf-8").decode("latin-1").translate(_TO_SYMBOL)


def to_bytes(symbols: str) -> bytes:
    """The bytes that `symbols` stand for; text with any other character in it stands for its own UTF-8.

    >>> to_bytes("ĠÃ©")
    b' \\xc3\\xa9'
    """
    if all(ord(symbol) in _TO_BYTE for symbol in symbols):
        return symbols.translate(_TO_BYTE).encode("latin-1")
    return symbols.encode("utf-8")
