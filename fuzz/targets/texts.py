"""Texts from bytes, and what every text that goes into a log, status or header has to be."""


def text(data: bytes) -> str:
    """Any text there is: UTF-8, with what is none as lone surrogates, as JSON can have them."""
    return data.decode("utf-8", "surrogateescape")


def encodable(message: str) -> None:
    """The message can be written into a log or a status."""
    assert message.encode("utf-8").decode() == message
    assert len(message) < 20_000
