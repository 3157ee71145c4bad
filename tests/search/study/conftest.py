import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # For `postgres_server`, in every import mode.
