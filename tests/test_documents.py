#!/usr/bin/env python3
"""Metadata against Python's json module, an independent reader of JSON: what one accepts the other
does, with the same meaning, and what is stored is written so that Python reads the same.

Needs tests/test_documents in BUILD, which answers a line of JSON with a line; without it this says
so and passes. The last line is "N passed, M failed".
"""

import json
import math
import os
import pathlib
import random
import struct
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = pathlib.Path(os.environ.get("BUILD", ROOT / "build")).resolve() / "tests/test_documents"
SCALE = float(os.environ.get("OMENDB_TEST_SCALE", "1"))
RANDOM = random.Random(int(os.environ.get("OMENDB_TEST_SEED", "1"), 0))

if not PROGRAM.exists():
    print(f"skipped: there is no {PROGRAM}")
    print("0 passed, 0 failed")
    sys.exit(0)


def scaled(count):
    return max(count // 20, int(count * SCALE))


def answers(lines):
    """What is stored of each of the lines (bytes): JSON, or None where it was refused."""
    text = b"\n".join(lines) + b"\n"
    output = subprocess.run([PROGRAM, "--convert"], input=text, capture_output=True, check=True)
    result = output.stdout.split(b"\n")[:-1]
    assert len(result) == len(lines)
    return [None if line.startswith(b"refused: ") else line for line in result]


class Refused(Exception):
    pass


def refuse(text):
    raise Refused(text)


def fields(pairs):
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise Refused("a name twice")
    return dict(pairs)


def integer(text):
    value = int(text) if len(text) < 21 else 1 << 64
    return value if -(1 << 63) <= value < 1 << 63 else real(text)


def real(text):
    value = float(text)
    if math.isinf(value):
        raise Refused("infinite")
    return value


def check_text(text):
    text.encode("utf-8")  # a lone surrogate raises an error


def expected(line):
    """What the line (bytes) means as metadata, or None."""
    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=fields, parse_int=integer,
                           parse_float=real, parse_constant=refuse)
        if not isinstance(value, dict):
            return None
        for name, field in value.items():
            check_text(name)
            for text in field if isinstance(field, list) else []:
                if not isinstance(text, str):
                    return None
                check_text(text)
            if isinstance(field, dict):
                return None
            if isinstance(field, str):
                check_text(field)
        return value
    except (Refused, ValueError, RecursionError):
        return None


def same(left, right):
    """Equal to the bit and of the same type."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    if isinstance(left, float):
        return struct.pack("<d", left) == struct.pack("<d", right)
    return left == right


def random_text():
    alphabet = RANDOM.choice(["abcxyz", "a\u00e9\u20ac\U0001f600\U0010ffff", "\"\\/\b\f\n\r\t\0\x1f\x7f"])
    return "".join(RANDOM.choice(alphabet) for _ in range(RANDOM.randrange(12)))


def random_real():
    while True:
        value = struct.unpack("<d", RANDOM.getrandbits(64).to_bytes(8, "little"))[0]
        value = RANDOM.choice([value, RANDOM.random(), RANDOM.uniform(-1e6, 1e6),
                               round(RANDOM.uniform(-1e3, 1e3), 3), float(RANDOM.getrandbits(70))])
        if math.isfinite(value):
            return value


def random_value():
    return RANDOM.choice([
        lambda: None, lambda: True, lambda: False, random_real, random_text,
        lambda: RANDOM.getrandbits(RANDOM.randrange(1, 66)) - (1 << RANDOM.randrange(64)),
        lambda: [random_text() for _ in range(RANDOM.randrange(4))]])()


def random_line():
    value = {random_text(): random_value() for _ in range(RANDOM.randrange(6))}
    separators = RANDOM.choice([(",", ":"), (", ", ": "), ("\t,\r ", " : ")])
    return json.dumps(value, ensure_ascii=RANDOM.random() < 0.5, separators=separators).encode()


def mutated(line):
    """A few bytes of JSON changed, taken out or put in."""
    pieces = [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"0", b"1", b"9", b"-", b"+", b".",
              b"e", b"E", b" ", b"\t", b"\xff", b"\xc3", b"\xa9", b"\xed\xa0\x80", b"\\ud800",
              b"\\udc00", b"\\u0000", b"null", b"true", b"NaN", b"Infinity", b"{}", b"[1]", b"/**/",
              b"\x00", b"\x1f", b"1e400", b"1e-400", b"99999999999999999999", b"0.1", b'"":']
    line = bytearray(line)
    for _ in range(RANDOM.randrange(1, 4)):
        at = RANDOM.randrange(len(line) + 1)
        less = RANDOM.choice([0, 1, 1, 2])
        line[at:at + less] = RANDOM.choice(pieces + [b""] * 10)
    return bytes(line).replace(b"\n", b"").replace(b"\x00", b"\x01")


class AgainstPython(unittest.TestCase):
    def compare(self, lines):
        accepted = 0
        for line, answer in zip(lines, answers(lines)):
            meaning = expected(line)
            self.assertEqual(meaning is None, answer is None, line)
            if meaning is not None:
                accepted += 1
                self.assertTrue(same(expected(answer), meaning), (line, answer))
        return accepted

    def test_random_objects_mean_the_same(self):
        lines = [random_line() for _ in range(scaled(20000))]
        self.assertEqual(self.compare(lines), len(lines))

    def test_mutated_objects_are_accepted_by_both_or_by_none(self):
        lines = [mutated(random_line()) for _ in range(scaled(40000))]
        self.assertGreater(self.compare(lines), len(lines) // 20)

    def test_reals_are_written_as_shortly_as_python_does(self):
        """But for powers of two, which may have one digit more."""
        values = [random_real() for _ in range(scaled(100000))]
        lines = [b'{"a":%s}' % repr(value).encode() for value in values]
        for value, answer in zip(values, answers(lines)):
            written = answer[len(b'{"a":'):-1].decode()
            self.assertTrue(same(float(written), value), (value, written))
            digits = [text.split("e")[0].replace("-", "").replace(".", "").strip("0")
                      for text in (written, repr(value))]
            spare = 1 if math.frexp(value)[0] in (0.5, -0.5) else 0
            self.assertLessEqual(len(digits[0]), len(digits[1]) + spare, (value, written))

    def test_integers_stay_exact(self):
        values = [RANDOM.getrandbits(64) - (1 << 63) for _ in range(scaled(100000))]
        lines = [b'{"a":%d}' % value for value in values]
        self.assertEqual(answers(lines), lines)


def main():
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules[__name__])
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    failed = len({test.id() for test, _ in result.failures + result.errors})
    print(f"{result.testsRun - failed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
