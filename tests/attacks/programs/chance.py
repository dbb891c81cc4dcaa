# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: F821 - the names it uses are those of prelude.py, put in front of it
"""Draws from every source of chance a program may lean on."""

from __future__ import annotations

inside()

import email.utils  # noqa: E402 - only where it may run
import hashlib  # noqa: E402
import multiprocessing  # noqa: E402
import random  # noqa: E402
import secrets  # noqa: E402
import ssl  # noqa: E402
import tempfile  # noqa: E402
import uuid  # noqa: E402

drawn = {
    "random": random.random(),  # noqa: S311 - the subject
    "Random": random.Random().random(),  # noqa: S311
    "getrandbits": random.getrandbits(64),
    "shuffle": random.sample(range(10**6), 5),
    "SystemRandom": random.SystemRandom().random(),
    "urandom": os.urandom(16).hex(),
    "getrandom": os.getrandom(16).hex(),
    "secrets": secrets.token_hex(),
    "uuid4": str(uuid.uuid4()),
    "uuid1": str(uuid.uuid1()),
    "node": uuid.getnode(),
    "authkey": multiprocessing.current_process().authkey.hex(),
    "mkstemp": tempfile.mkstemp()[1],
    "mkdtemp": tempfile.mkdtemp(),
    "mktemp": next(tempfile._get_candidate_names()),
    "boundary": email.generator._make_boundary() if hasattr(email, "generator") else 0,
    "message id": email.utils.make_msgid(),
    "ssl": ssl.RAND_bytes(16).hex(),
    "state": hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
}
del drawn["boundary"]
try:
    GLIB = ctypes.CDLL("libglib-2.0.so.0")
except OSError:
    pass
else:
    GLIB.g_uuid_string_random.restype = ctypes.c_char_p
    drawn["glib"] = GLIB.g_random_int()
    drawn["glib uuid"] = GLIB.g_uuid_string_random().decode()
say({"drawn": drawn, "hash": hash("x"), "hashes": hash(b"isolauncher")})
