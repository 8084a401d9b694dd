"""``--model MODULE:CALLABLE``: a model of a user's, which server and profiler take like their own.

The callable takes nothing and gives a ``StreamModel``. Knows no model.
"""

from __future__ import annotations

from sim_stream.by_name import SPELLED, UserCodeFailed, find_callable, where
from sim_stream.errors import InvalidInput, SimStreamError
from sim_stream.spec import StreamSpec
from sim_stream.stream_model import StreamModel

ALLOWED = f"{SPELLED} and gives a StreamModel"
METHODS = ("open_session", "advance")


def load_model(name: str) -> StreamModel:
    """Raises InvalidInput where there is none, UserCodeFailed where its code raises."""
    made_from = find_callable("model", name, allowed=ALLOWED)
    try:
        model: StreamModel = made_from()
        spec = getattr(model, "spec", None)
    except SimStreamError:
        raise
    except Exception as error:  # whatever a user's code raises
        raise UserCodeFailed(f"model {name} raised {where(error)}") from error
    missing = [one for one in METHODS if not callable(getattr(model, one, None))]
    if not isinstance(spec, StreamSpec):
        missing.insert(0, "spec")
    if missing:
        given = f"{name}, which gives a {type(model).__name__} without {', '.join(missing)}"
        raise InvalidInput("model", given, ALLOWED)
    return model
