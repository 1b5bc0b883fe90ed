"""The same random records on both sides, from a seed and the standard library alone."""

import random
import struct

MAGIC = struct.pack("<I", 0xCED7230A)
SEED = 20

# of the network: LResNet18E-IR with an eighth of the width
UNITS, WIDTHS = (2, 2, 2, 2), (8, 16, 32, 64)
EMBEDDING, PICTURES = 16, 4


def payloads():
    """Raw payloads: empty, short, long, with the magic word at any place."""
    draw = random.Random(SEED)
    fixed = [
        b"",
        MAGIC,
        MAGIC * 2,
        MAGIC * 5,
        b"abcd" + MAGIC,
        b"ab" + MAGIC,
        MAGIC + b"x",
        MAGIC[:3],
        b"x" * 7 + MAGIC,
    ]
    fixed += [b"1234" + MAGIC + b"5" * n for n in range(1, 9)]
    fixed.append(draw.randbytes(100_000))
    for _ in range(3000):
        pieces = []
        for _ in range(draw.randrange(8)):
            pieces.append(MAGIC if draw.random() < 0.4 else draw.randbytes(draw.choice((1, 2, 3, 4, 8, 40, 400))))
        fixed.append(b"".join(pieces))
    return list(enumerate(fixed))


def images():
    """(key, label, id, id2, payload): numbers and vectors as labels, keys in no order."""
    draw = random.Random(SEED + 1)
    cases = []
    for number in range(2000):
        if draw.random() < 0.5:
            label = float(draw.randrange(100_000))
        else:
            label = [
                struct.unpack("<f", struct.pack("<f", draw.gauss(0, 100)))[0] for _ in range(draw.randrange(1, 16))
            ]
        identifier = draw.choice((number, 2**64 - 1, 0xCED7230A, draw.randrange(2**64)))
        payload = draw.randbytes(draw.randrange(300)) + draw.choice((b"", MAGIC)) + draw.randbytes(draw.randrange(9))
        cases.append((number * 3, label, identifier, draw.randrange(2**64), payload))
    draw.shuffle(cases)
    return cases
