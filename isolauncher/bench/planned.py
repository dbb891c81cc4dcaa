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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .. import parts, plan
from ..config import Config
from ..errors import DaemonError
from ..memory import rollup
from ..steps import Attach, JoinCgroup
from . import forks
from .patience import PATIENCE_S, read

MOST_KB = 80 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """``anonymous_kb`` is the zygote's, ``huge_kb`` of it in huge pages.

    ``sent`` is device and inode of what the planner's daemon has opened, by the plan's
    names. It keeps its directories until nobody holds ``hold`` any more.
    """

    whole: plan.Plan
    anonymous_kb: int
    huge_kb: int
    sent: Mapping[str, tuple[int, int]]
    hold: int

    def sources(self) -> dict[str, str]:
        """Of which path outside each mounted descriptor is: it is called the same."""
        steps = (p.step for p in self.whole.steps)
        return {s.descriptor: s.path for s in steps if isinstance(s, Attach)}

    def cgroups(self) -> list[str]:
        """The planner's own, below which each sandbox has one."""
        steps = (p.step for p in self.whole.room.steps)
        return [
            os.path.dirname(directory.path)
            for step in steps
            if isinstance(step, JoinCgroup)
            for directory in step.directories
        ]

    def as_data(self) -> dict[str, object]:
        return {
            "steps": len(self.whole.steps),
            "zygote_mb": round(self.anonymous_kb / 1024, 1),
            "skipped": [s.what for s in self.whole.room.skipped],
        }


@contextmanager
def planned(config: Config, policy: str | None, script: Path) -> Iterator[Planned]:
    """For root; DaemonError when the launch cannot be planned."""
    down_read, down_write = os.pipe2(os.O_CLOEXEC)
    up_read, up_write = os.pipe2(os.O_CLOEXEC)

    def act() -> int:
        os.setsid()
        forks.keep_only(0, 1, 2, up_write, down_read)
        asyncio.run(
            _plan(replace(config, socket=""), policy, script, up_write, down_read)
        )
        return 0

    def tell(line: str) -> None:
        os.write(up_write, json.dumps({"error": line}).encode() + b"\n")

    try:
        child = forks.fork(act, tell)
    finally:
        os.close(down_read)
        os.close(up_write)
    try:
        try:
            told = _hear(up_read)
        finally:
            os.close(up_read)
        yield _understand(told, down_write)
    finally:
        os.close(down_write)
        # It ends by itself, in order.
        forks.reap(child, PATIENCE_S)


def _hear(fd: int) -> bytes:
    """The line that is told, which is longer than a pipe."""
    told = b""
    while b"\n" not in told and (data := read(fd, "who plans a launch")):
        told += data
    return told


def _understand(line: bytes, hold: int) -> Planned:
    told = json.loads(line or b'{"error": "it said nothing"}')
    if "error" in told:
        raise DaemonError(
            f"a launch could not be planned: {told['error']}", code="bench-no-plan"
        )
    room, rest = parts.unpack(told["room"]), parts.unpack(told["rest"])
    assert isinstance(room, plan.Room)  # noqa: S101 (for the type checker)
    assert isinstance(rest, plan.Rest)  # noqa: S101
    huge = min(told["huge_kb"], MOST_KB)
    return Planned(
        whole=plan.Plan(room=room, rest=rest),
        anonymous_kb=min(told["anonymous_kb"], MOST_KB),
        huge_kb=huge,
        sent={name: (device, inode) for name, (device, inode) in told["sent"].items()},
        hold=hold,
    )


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
        await rooms.made(room)
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
        shown_as = {name: rooms.file_of(fd) for name, fd in mounts.fds.items()}
        told = {
            "room": parts.pack(room.planned),
            "rest": parts.pack(rest),
            "sent": room.sent | shown_as,
            "anonymous_kb": memory["Anonymous"],
            "huge_kb": memory["AnonHugePages"],
        }
        await rooms.dissolve(daemon, room)
        os.write(up, json.dumps(told).encode() + b"\n")
        await asyncio.to_thread(os.read, down, 1)
    finally:
        mounts.close()
        asked.close()
        await daemon.close()
