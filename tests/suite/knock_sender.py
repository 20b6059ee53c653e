#!/usr/bin/env python3
"""Sends a knock. Written from docs/PROTOCOL.md, sections 2 and 9, without a look at the source, so
that the tests show that the document suffices. Only the standard library: X25519 is RFC 7748,
ChaCha20-Poly1305 is RFC 8439. Not in constant time, so not for use.

    knock_sender.py KEYFILE [HOST PORT] [--gate NAME] [--ttl SECONDS] [--label TEXT]
                    [--address NETWORK] [--from ADDRESS] [--clock MS] [--private HEX]
                    [--extensions HEX]

Without HOST and PORT it prints the datagram in hex.
"""

import argparse
import base64
import hashlib
import hmac
import ipaddress
import os
import re
import socket
import struct
import time


# Section 2: keys.


def hkdf(salt, ikm, info, length):
    """RFC 5869 with SHA-256."""
    prk = hmac.digest(salt or bytes(32), ikm, "sha256")
    out, block, number = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(prk, block + info + bytes([number]), "sha256")
        out, number = out + block, number + 1
    return out[:length]


def read_key(content):
    """The key in the bytes of a key file."""
    if not 1 <= len(content) <= 1 << 20:
        raise ValueError("a key file has 1 byte to 1 MiB")
    if b"knockpipe-key-" not in content:
        if len(content) < 32:
            raise ValueError("a raw key file has 32 bytes or more")
        return hashlib.sha256(content).digest()
    line = content.strip(b"\t\n\f\r ")
    form = rb"knockpipe-key-1 ([A-Za-z0-9+/]{43}=) ([0-9A-Fa-f]{8})"
    match = re.fullmatch(form, line)
    if not match:
        raise ValueError("a damaged text key file")
    key = base64.b64decode(match[1], validate=True)
    if base64.b64encode(key) != match[1]:
        raise ValueError("the unused bits of the last character are not zero")
    check = hkdf(b"", key, b"knockpipe/1 key file checksum", 4).hex().encode()
    if check != match[2].lower():
        raise ValueError("the checksum does not match")
    return key


# RFC 7748: the public key of X25519.


def x25519_public(private):
    p, a24 = 2**255 - 19, 121665
    scalar = int.from_bytes(private, "little")
    scalar = scalar & ~7 & ~(1 << 255) | 1 << 254
    x1, x2, z2, x3, z3, swap = 9, 1, 0, 9, 1, 0
    for bit in range(254, -1, -1):
        now = scalar >> bit & 1
        if swap ^ now:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = now
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a, b * b, d * a, c * b
        x3, z3 = pow(da + cb, 2, p), x1 * pow(da - cb, 2, p) % p
        e = aa - bb
        x2, z2 = aa * bb % p, e * (aa + a24 * e) % p
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, p - 2, p) % p).to_bytes(32, "little")


# RFC 8439: ChaCha20-Poly1305.


def chacha20_block(key, counter, nonce):
    start = struct.unpack("<16I", b"expand 32-byte k" + key + struct.pack("<I", counter) + nonce)
    state = list(start)

    def quarter(a, b, c, d):
        for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[x] = state[x] + state[y] & 0xFFFFFFFF
            mixed = state[z] ^ state[x]
            state[z] = (mixed << turn | mixed >> 32 - turn) & 0xFFFFFFFF

    for _ in range(10):
        for column in range(4):
            quarter(column, column + 4, column + 8, column + 12)
        for row in range(4):
            quarter(row, 4 + (row + 1) % 4, 8 + (row + 2) % 4, 12 + (row + 3) % 4)
    return struct.pack("<16I", *(a + b & 0xFFFFFFFF for a, b in zip(state, start)))


def poly1305(key, message):
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for at in range(0, len(message), 16):
        block = message[at : at + 16] + b"\x01"
        total = (total + int.from_bytes(block, "little")) * r % (2**130 - 5)
    return (total + int.from_bytes(key[16:], "little") & 2**128 - 1).to_bytes(16, "little")


def seal(key, nonce, ad, text):
    stream = b"".join(chacha20_block(key, 1 + at // 64, nonce) for at in range(0, len(text), 64))
    sealed = bytes(a ^ b for a, b in zip(text, stream))
    padded = b"".join(part + bytes(-len(part) % 16) for part in (ad, sealed))
    mac = padded + struct.pack("<QQ", len(ad), len(sealed))
    return sealed + poly1305(chacha20_block(key, 0, nonce)[:32], mac)


# Section 9: the knock.


def extension(kind, content):
    return bytes([kind, len(content)]) + content


def extensions(gate=None, ttl=None, label=None, address=None):
    out = b""
    if gate is not None:
        out += extension(2, gate.encode("ascii"))
    if ttl is not None:
        out += extension(3, struct.pack(">I", ttl))
    if label is not None:
        out += extension(4, label.encode())
    if address is not None:
        net = ipaddress.ip_network(address)
        out += extension(5, bytes([net.version, net.prefixlen]) + net.network_address.packed)
    return out


def payload(clock_ms, asked):
    assert len(asked) <= 195
    head = struct.pack(">BHQH", 0, 1, clock_ms, len(asked))
    return head + asked + bytes(195 - len(asked))


def datagram(key, private, content):
    e = x25519_public(private)
    h = hashlib.sha256(b"Noise_NNpsk0_25519_ChaChaPoly_SHA256").digest()
    ck = h
    h = hashlib.sha256(h + b"knockpipe/1 knock").digest()
    out = hkdf(ck, key, b"", 96)
    ck, t = out[:32], out[32:64]
    h = hashlib.sha256(h + t).digest()
    h = hashlib.sha256(h + e).digest()
    k = hkdf(ck, e, b"", 64)[32:]
    return e + seal(k, bytes(12), h, content)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("key_file")
    parser.add_argument("to", nargs="*", metavar="HOST PORT")
    parser.add_argument("--gate")
    parser.add_argument("--ttl", type=int)
    parser.add_argument("--label")
    parser.add_argument("--address")
    parser.add_argument("--from", dest="source")
    parser.add_argument("--clock", type=int)
    parser.add_argument("--private", type=bytes.fromhex)
    parser.add_argument("--extensions", type=bytes.fromhex)
    given = parser.parse_args()
    with open(given.key_file, "rb") as file:
        key = read_key(file.read())
    asked = given.extensions
    if asked is None:
        asked = extensions(given.gate, given.ttl, given.label, given.address)
    clock_ms = given.clock if given.clock is not None else time.time_ns() // 1_000_000
    knock = datagram(key, given.private or os.urandom(32), payload(clock_ms, asked))
    if not given.to:
        print(knock.hex())
        return
    host, port = given.to
    family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, number) as sender:
        if given.source:
            sender.bind((given.source, 0))
        sender.sendto(knock, address)


if __name__ == "__main__":
    main()
