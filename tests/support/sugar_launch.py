# SPDX-License-Identifier: GPL-3.0-or-later
"""Run by /usr/bin/python3: what sugar3's own activityfactory makes of bundles.

Reads JSON lines ``{"path", "environment", "activity_id", "object_id", "uri",
"invited"}`` and writes ``{"command", "environment"}`` for each.
"""

import json
import os
import sys

from sugar3.activity import activityfactory
from sugar3.bundle.activitybundle import ActivityBundle

for line in sys.stdin:
    case = json.loads(line)
    os.environ.clear()
    os.environ.update(case["environment"])
    bundle = ActivityBundle(case["path"], translated=False)
    command = activityfactory.get_command(
        bundle, case["activity_id"], case["object_id"], case["uri"], case["invited"]
    )
    environment = activityfactory.get_environment(bundle)
    print(json.dumps({"command": command, "environment": environment}), flush=True)
