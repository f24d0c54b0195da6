"""A loaded base model and folders of LoRA adapters in; one model out that computes with one of them, or with none.

All adapters lie beside the base's weights at once, so that a change between them moves nothing. What was computed before a
change (keys and values of prompts) belongs to the weights before it: whoever keeps such things forgets them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfalign.engines.serving import check_adapter, check_base
from selfalign.errors import StageError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class Adapters:
    """A base model with its LoRA adapters put in, unmerged. Until `use` is called, the base computes alone."""

    def __init__(self, model: PreTrainedModel, adapters: Sequence[Path], base: str) -> None:
        """Put the adapters' layers into `model`, which stays where it is; `base` is the content digest of its folder.

        Raises DataError for a folder that holds no adapter, and for an adapter that was trained on another base.
        """
        for folder in adapters:
            check_adapter(folder)
            check_base(folder, base)
        self.model = model
        """Computes with what `use` was called with last."""
        self._names = {folder.resolve(): f"adapter_{number}" for number, folder in enumerate(adapters)}
        self._layers = _put_in(model, self._names) if adapters else None
        self.use(None)

    def use(self, adapter: Path | None) -> None:
        """Compute with this adapter from now on, or with the base alone. Raises StageError for one that was not loaded."""
        if adapter is not None and adapter.resolve() not in self._names:
            raise not_opened(adapter, list(self._names))
        if self._layers is None:
            return
        tuner: Any = self._layers.base_model
        if adapter is None:
            tuner.disable_adapter_layers()
        else:
            tuner.enable_adapter_layers()
            self._layers.set_adapter(self._names[adapter.resolve()], inference_mode=True)


def _put_in(model: PreTrainedModel, names: Mapping[Path, str]) -> PeftModel:
    """The layers of all adapters, below the model's own."""
    from peft import PeftModel

    (first, name), *others = names.items()
    with warnings.catch_warnings():
        # peft asks transformers for a name that the next version drops: nothing that a user could act on.
        warnings.simplefilter("ignore", FutureWarning)
        layers = PeftModel.from_pretrained(model, str(first), adapter_name=name)
        for folder, other in others:
            layers.load_adapter(str(folder), adapter_name=other)
    return layers.eval()


def not_opened(adapter: Path, opened: Sequence[Path]) -> StageError:
    """The error for an adapter that an engine was not opened with."""
    there = ", ".join(map(str, opened)) or "none"
    return StageError(
        f"expected one of the adapters that the engine was opened with ({there}), found {adapter}; name it when the engine is "
        "opened"
    )
