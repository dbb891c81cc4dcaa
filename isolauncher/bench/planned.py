# SPDX-License-Identifier: GPL-3.0-or-later
"""This machine's plan of one launch, by the daemon's own road, and its zygote's memory.

A daemon in a child, without a socket, makes a room on demand exactly as for a client,
plans the rest, and tells both. It lives on until the benchmark is through with its
directories: the reference makes its cgroups and its root where an activity's would be.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .. import plan
from ..config import Config
from ..errors import DaemonError, IsolauncherError
from ..memory import rollup
from . import daemons

MOST_KB = 80 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """``anonymous_kb`` is the zygote's, ``huge_kb`` of it in huge pages."""

    whole: plan.Plan
    anonymous_kb: int
    huge_kb: int

    def sources(self) -> dict[str, str]:
        """Of which path outside each mounted descriptor is: it is called the same."""
        steps = (p.step for p in self.whole.steps)
        return {s.descriptor: s.path for s in steps if isinstance(s, plan.Attach)}

    def as_data(self) -> dict[str, object]:
        return {
            "steps": len(self.whole.steps),
            "anonymous_mb": round(self.anonymous_kb / 1024, 1),
            "skipped": [s.what for s in self.whole.room.skipped],
        }


@contextmanager
def planned(config: Config, policy: str | None, script: Path) -> Iterator[Planned]:
    """For root; DaemonError when the launch cannot be planned."""
    down_read, down_write = os.pipe2(os.O_CLOEXEC)
    up_read, up_write = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(down_write)
        _be_planner(config, policy, script, up_write, down_read)
    os.close(down_read)
    os.close(up_write)
    try:
        with open(up_read, encoding="utf-8") as told:
            yield _understand(told.readline())
    finally:
        os.close(down_write)
        os.waitpid(child, 0)


def _understand(line: str) -> Planned:
    told = json.loads(line or '{"error": "it said nothing"}')
    if "error" in told:
        raise DaemonError(
            f"a launch could not be planned: {told['error']}", code="bench-no-plan"
        )
    room, rest = plan.unpack(told["room"]), plan.unpack(told["rest"])
    assert isinstance(room, plan.Room)  # noqa: S101 (for the type checker)
    assert isinstance(rest, plan.Rest)  # noqa: S101
    huge = min(told["huge_kb"], MOST_KB)
    return Planned(
        whole=plan.Plan(room=room, rest=rest),
        anonymous_kb=min(told["anonymous_kb"], MOST_KB),
        huge_kb=huge,
    )


def _be_planner(
    config: Config, policy: str | None, script: Path, up: int, down: int
) -> None:
    """Never returns."""
    told: dict[str, object] = {}
    try:
        os.setsid()
        daemons.keep_only(0, 1, 2, up, down)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        asyncio.run(_plan(replace(config, socket=""), policy, script, up, down))
    except IsolauncherError as error:
        told["error"] = error.line()
    except BaseException as error:
        told["error"] = f"{type(error).__name__}: {error}"
    finally:
        if told:
            os.write(up, json.dumps(told).encode())
        os._exit(0)


async def _plan(
    config: Config, policy: str | None, script: Path, up: int, down: int
) -> None:
    from .. import client, launch, pool, request, rooms, view
    from ..daemon import Daemon
    from ..log import Log

    for directory in (config.run_dir, f"{config.run_dir}/activities", config.state_dir):
        os.makedirs(directory, mode=0o755, exist_ok=True)
    daemon = Daemon(config, log=Log(quiet=True))
    asked = client.prepare([str(script)], policy=policy)
    room = rooms.Room(id=rooms.new_id())
    mounts = view.Mounts(daemon.kernel)
    try:
        wish = request.parse(asked.message, len(asked.fds))
        assert isinstance(wish, request.Request)  # noqa: S101 (for the type checker)
        fds = dict(zip(wish.descriptors, asked.fds, strict=True))
        caller = request.Caller(uid=0, gid=0, groups=(), pid=os.getpid())
        wanted = launch.to_run(daemon, wish, fds, caller)
        set_name, _ = await daemon.pool.usable(wanted.policy.preload.set)
        facts = rooms.facts(
            daemon,
            wanted.policy,
            caller,
            home=wanted.variables.get("HOME", "/"),
            own_home=False,
            set_name=set_name,
            lease_key=None,
        )
        program = await rooms.prepare(daemon, room, facts, fds["program"])
        assert program is not None  # noqa: S101 (for the type checker)
        assert room.planned is not None  # noqa: S101
        assert room.sandbox is not None  # noqa: S101
        assert room.frame is not None  # noqa: S101
        assert room.visible is not None  # noqa: S101
        root = room.sandbox.open_root()
        try:
            shown = view.show_program(
                mounts, program, fds["program"], room.visible, root, caller
            )
        finally:
            os.close(root)
            rooms.close_program(program)
        rest = plan.rest(
            activity_id=room.id,
            frame=room.frame,
            furniture=plan.Furniture(trees=(shown,) if shown else ()),
            filter_=rooms.compiled_filter(wanted.policy),
            start=plan.Start(
                program_kind="file",
                path=str(script),
                argv=wanted.argv,
                environment=tuple(sorted(wanted.variables.items())),
                cwd=wanted.cwd,
                tier="fork",
                hostname=wanted.policy.hostname,
                preload=wanted.policy.preload.set,
            ),
            umask=wanted.umask,
            init_uid=facts.machine.init_uid,
        )
        zygote: pool.Zygote = await daemon.pool.zygote(set_name)
        memory = rollup(zygote.process.pid)
        told = {
            "room": plan.pack(room.planned),
            "rest": plan.pack(rest),
            "anonymous_kb": memory["Anonymous"],
            "huge_kb": memory["AnonHugePages"],
        }
        await rooms.dissolve(daemon, room)
        os.write(up, json.dumps(told).encode() + b"\n")
        os.close(up)
        await asyncio.to_thread(os.read, down, 1)
    finally:
        mounts.close()
        asked.close()
        await daemon.close()
