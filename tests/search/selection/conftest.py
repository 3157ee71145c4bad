import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # For `evidence_cases`, in every import mode.
