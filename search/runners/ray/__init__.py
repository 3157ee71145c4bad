"""Does jobs with Ray Tune. The only package that imports Ray."""

import os

# Read by Ray at import: no banner tables, no handler that swallows Ctrl-C, no usage reports.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "16")  # so many workers may start at once
os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # or notices are kept back, and printed at the end
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # or relative paths would mean other files in the workers
# Read by a Ray that a search starts for itself: no worker starts before it is asked for. Tune starts its own, with
# environment variables that those do not have, and uses none of them.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
