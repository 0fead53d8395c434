"""Text from a session: a prompt is read, and what the model writes after it comes as bytes.  The twin of `c/main.c`.

A new document begins with the tokenizer's end-of-text token, where it has one.  What follows a saved state is its text:
with the same settings it goes on as if it had not been cut.  Only tokens that the tokenizer has are chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cdrmix.runtime.sampling import Sampler, Sampling
from cdrmix.runtime.session import Session
from cdrmix.runtime.tokens import StreamDecoder, Tokenizer


class Stops:
    """Texts before which a stream of bytes ends.  The twin of `c/stop.c`."""

    def __init__(self, texts: Sequence[bytes]):
        """No text is empty."""
        self._texts = tuple(texts)
        self.held = b""
        """The bytes that may begin one of them."""
        self.found = False

    def push(self, data: bytes) -> bytes:
        """What is sure to come before every stop text, after some more bytes of the stream."""
        sure = bytearray()
        for at in range(len(data)):
            self.held += data[at : at + 1]
            ends = [len(self.held) - len(text) for text in self._texts if self.held.endswith(text)]
            self.found = bool(ends)
            cut = min(ends) if ends else self._beginning()
            sure += self.held[:cut]
            self.held = b"" if self.found else self.held[cut:]
            if self.found:
                break
        return bytes(sure)

    def _beginning(self) -> int:
        """Where, in what is held, a stop text may begin; its end, where none does."""
        held = self.held
        places = (at for at in range(len(held)) if any(text.startswith(held[at:]) for text in self._texts))
        return next(places, len(held))


class Writer:
    """A session with its tokenizer and how tokens are chosen."""

    def __init__(self, session: Session, tokenizer: Tokenizer, how: Sampling):
        ids = tokenizer.ids
        self._session, self._tokenizer = session, tokenizer
        self._sampler = Sampler(how, None if len(ids) == session.vocab else ids)

    def decoder(self) -> StreamDecoder:
        """What makes characters of the bytes that come next: it holds one that the text so far has begun."""
        made, known = StreamDecoder(), set(self._tokenizer.ids)  # a state may have read other tokens, too
        made.push(self._tokenizer.decode([token for token in self._session.latest if token in known]))
        return made

    def read(self, prompt: bytes, special: bool = False) -> None:
        """Read a prompt; with `special` the special tokens in it are such, and the end of a text begins a document."""
        ids, eot = self._tokenizer.encode(prompt, special), self._tokenizer.eot
        if eot is not None and self._session.tokens == 0:
            ids = [eot, *ids]
        if special and eot in ids:
            ids = ids[len(ids) - 1 - ids[::-1].index(eot) :]
            self._session.reset()
        self._session.prefill(ids)

    def write(self, count: int, stops: Sequence[bytes] = ()) -> Iterator[bytes]:
        """Up to `count` tokens' text, as it comes: up to the end of the document, or to the first of the stop texts.

        Then the session is where this text ends, stop texts not included.
        """
        session, sampler = self._session, self._sampler
        watch, before, since = Stops(stops), session, list[int]()
        logits, sampler.place = session.prefill([]), session.tokens
        sure = done = 0  # bytes that were given out; bytes of the tokens that come before `before`
        for _ in range(count):
            token = sampler(logits, session.latest)
            if token == self._tokenizer.eot:
                break
            text = self._tokenizer.token(token)
            read = sure + len(watch.held)
            piece = watch.push(text)
            sure += len(piece)
            if piece:
                yield piece
            if watch.found:
                self._rewind(before if since else session, [*since, token], sure - (done if since else read))
                return
            if not watch.held or len(watch.held) <= len(text):
                since = []
            if watch.held:
                if not since:
                    before, done = session.fork(), read
                since.append(token)
            logits = session.step(token)
        if watch.held:
            yield watch.held

    def _rewind(self, to: Session, tokens: Sequence[int], size: int) -> None:
        """Go back to a fork and read the `size` bytes of the text that followed it."""
        session = self._session
        if to is not session:
            session.rewind(to)
        for token in tokens:
            text = self._tokenizer.token(token)
            if len(text) > size:
                if size > 0:  # the stop text begins inside a token
                    session.prefill(self._tokenizer.encode(text[:size]))
                return
            session.step(token)
            size -= len(text)
