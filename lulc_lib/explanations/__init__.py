"""Explain what a model looks at: one call, any method, a signed map on the tile."""

from lulc_lib.evidence import RECOMMENDED
from lulc_lib.explanations.attention import attention_rollout
from lulc_lib.explanations.cam import is_loaded, principal_map
from lulc_lib.explanations.engine import check_methods, explain, layer_of, layers, recommended
from lulc_lib.explanations.result import Explanation
from lulc_lib.explanations.table import DEFAULT_METHOD, methods

__all__ = [
    "DEFAULT_METHOD",
    "RECOMMENDED",
    "Explanation",
    "attention_rollout",
    "check_methods",
    "explain",
    "is_loaded",
    "layer_of",
    "layers",
    "methods",
    "principal_map",
    "recommended",
]
