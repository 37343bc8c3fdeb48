"""Raw HTTP requests that are malformed in many ways, generated from a seed."""

import random

_METHODS = [b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"PATCH", b"get", b"", b"\xff", b"G" * 300]
_ADDRESSES = [
    b"/v1/recommend",
    b"/v1/items/%00",
    b"/v1/items/%ff/similar?k=x",
    b"/v1/search?q=%",
    b"/v1/search?q=a&q=b",
]
_ADDRESSES += [
    b"/v1/search?q=a&q=b",
    b"/../../etc/passwd",
    b"//",
    b"*",
    b"",
    b"http://h/v1/explain",
    b"/v1/events",
    b"/\xff\x00",
    b"/" + b"a" * 5000,
]
_HEADERS = [
    b"content-type: application/json",
    b"content-type: \xff",
    b"authorization: Bearer \xff",
    b"x" * 5000 + b": 1",
]
_HEADERS += [b"content-length: -1", b"content-length: 1e9", b"transfer-encoding: chunked", b"no colon", b": empty"]
_HEADERS += [
    b"expect: 100-continue",
    b"upgrade: websocket",
    b"connection: upgrade",
    b"content-length: 5",
    b"if-none-match: \xff",
]
_BODIES = [
    b"",
    b"{",
    b"[" * 3000,
    b'{"k":NaN}',
    b'{"user_id":"\xff"}',
    b'{"k":1e999}',
    b"null",
    b'{"a":' * 500,
    b"\x00" * 50,
]
_BODIES += [
    b'{"events":[{}]}',
    b'{"text":"\\ud800"}',
    b"FFFFFFFFFFFFFFFFF\r\n",
    b'{"user_id":"bug "}',
    b'{"history":[1]}',
]


def malformed(chance: random.Random) -> bytes:
    """One request: often half valid, because obviously malformed requests are rejected at once."""
    body = chance.choice(_BODIES)
    lines = [chance.choice(_METHODS) + b" " + chance.choice(_ADDRESSES) + b" HTTP/1.1", b"host: a"]
    if chance.random() < 0.6:
        lines = [b"POST /v1/%s HTTP/1.1" % chance.choice([b"recommend", b"explain", b"events"]), b"host: a"]
        lines += [b"content-type: application/json", b"content-length: %d" % len(body)]
    lines += chance.sample(_HEADERS, chance.randrange(3))
    content = bytearray(b"\r\n".join(lines) + b"\r\n\r\n" + body)
    for _ in range(chance.choice([0, 0, 1, 5])):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content[: chance.randrange(1, len(content) + 1)] if chance.random() < 0.1 else content)
